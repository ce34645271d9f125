"""Whether a judge can be trusted: what is asked of it, and what is remembered of it. A judge that was not validated may grade, and
says so; what it graded cannot publish anything."""

import logging
from pathlib import Path

from filelock import FileLock

from tasks.errors import NotValidated
from tasks.grading.judge import Judge
from tasks.grading.records import Agreement, Consistency, JudgeRecord
from tasks.workspace import Workspace, write_durably

logger = logging.getLogger(__name__)
FEWEST_ROWS = 30
"""Rows that a person graded: with fewer an accuracy is known to no better than 18 points either way."""
LEAST_KAPPA = 0.6
"""Agreement beyond chance is called substantial above this (Landis and Koch 1977, Biometrics 33:159-174); the lower end of the
interval must pass it, so that luck on few rows does not."""
LEAST_CONSISTENCY = 0.9
"""Share of grades that stay in every other wording: what moves more with the order of words than with the answer is no measure."""
WORDINGS = 3
"""Other wordings in which a judge must have been asked."""


def judge_record(judge: Judge, file: str, agreement: Agreement | None, consistency: Consistency | None) -> JudgeRecord:
    """What one measurement says of a judge.

    Args:
        file: SHA-256 of the file that it was measured on.
    """
    doubts = _agreement_doubts(agreement) + (_consistency_doubts(consistency) if judge.ask else [])
    return JudgeRecord(
        fingerprint=judge.fingerprint,
        name=judge.manifest.name,
        kind=judge.manifest.kind,
        worded=judge.ask is not None,
        file=file,
        agreement=agreement,
        consistency=consistency,
        validated=not doubts,
        doubts=doubts,
    )


def keep_record(workspace: Workspace, measured: JudgeRecord) -> JudgeRecord:
    """Keep a measurement, and return the one that counts: the newest of those with enough rows and wordings; while there is none of
    them, the newest."""
    path = _path(workspace, measured.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        kept = _read(path)
        if kept and _is_whole(kept) and not _is_whole(measured):
            logger.info("judge %s: measured on too little to replace what was found before", measured.name)
            return kept
        write_durably(path, measured.model_dump_json(indent=2))
        return measured


def find_record(workspace: Workspace, fingerprint: str) -> JudgeRecord | None:
    """What is remembered of a judge."""
    return _read(_path(workspace, fingerprint))


def doubts_of(judge: Judge) -> list[str]:
    """Why a judge is not validated; empty for one that is. For a gate that must not publish on such a judge's word."""
    found = find_record(judge.workspace, judge.fingerprint)
    return found.doubts if found else ["nothing was measured; `bakeoff grade` measures it on rows that people graded"]


def require_validated(judge: Judge) -> None:
    """Raises NotValidated, saying why, for a judge that was not validated."""
    doubts = doubts_of(judge)
    if doubts:
        raise NotValidated(not_validated(doubts, judge.manifest.name))


def not_validated(doubts: list[str], name: str = "") -> str:
    """The sentence that goes with every result of such a judge."""
    return f"{f'judge {name!r}' if name else 'this judge'} has not been validated: {'; '.join(doubts)}"


def _agreement_doubts(agreement: Agreement | None) -> list[str]:
    n = agreement.n if agreement else 0
    if agreement is None or n < FEWEST_ROWS:
        return [f"{n} graded row{'' if n == 1 else 's'}, {FEWEST_ROWS} are needed"]
    if agreement.kappa_interval is None:
        return ["people gave one grade only, so agreement beyond chance cannot be measured"]
    low = agreement.kappa_interval[0]
    return [] if low > LEAST_KAPPA else [f"kappa may be as low as {low:.2f}, more than {LEAST_KAPPA:g} is needed"]


def _consistency_doubts(consistency: Consistency | None) -> list[str]:
    wordings = len(consistency.wordings) if consistency else 0
    if consistency is None or wordings < WORDINGS:
        return [f"asked in {wordings} other wording{'' if wordings == 1 else 's'}, {WORDINGS} are needed"]
    if consistency.share >= LEAST_CONSISTENCY:
        return []
    return [f"{consistency.share:.0%} of the grades stay in other wordings, {LEAST_CONSISTENCY:.0%} are needed"]


def _is_whole(record: JudgeRecord) -> bool:
    """Whether it was measured on enough to say either way."""
    wordings = len(record.consistency.wordings) if record.consistency else 0
    return (not record.worded or wordings >= WORDINGS) and record.agreement is not None and record.agreement.n >= FEWEST_ROWS


def _path(workspace: Workspace, fingerprint: str) -> Path:
    return workspace.root / "judges" / f"{fingerprint}.json"


def _read(path: Path) -> JudgeRecord | None:
    return JudgeRecord.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
