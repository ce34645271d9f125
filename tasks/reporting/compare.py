"""Two runs beside each other: row by row where they were tested on the same rows, else figure by figure."""

from collections.abc import Sequence
from pathlib import Path

from tasks.data.examples import read_examples
from tasks.data.predictions import FILE
from tasks.records import Comparison, Decision, Model, Scores, Verdict
from tasks.reporting.records import KeptRun
from tasks.reporting.rows import Answers, read_answers
from tasks.reporting.runs import read_kept, read_verdict
from tasks.verdict.contestants import clusters_of
from tasks.verdict.statistics import compare


class Side(Model):
    """One of the two runs."""

    run_id: str
    name: str
    decision: Decision
    reason: str
    winner: str | None
    spent_usd: float


class Beside(Model):
    """A contender of the one run beside one of the other, of the same name or the best on dev of each."""

    first: str | None
    """Its name there; None where the run has none of this name."""
    second: str | None
    first_test: Scores | None
    second_test: Scores | None
    same: bool
    """Whether both are the same contender, made from the same."""
    comparison: Comparison | None
    """The second against the first, row by row; None where the rows are not the same."""


class RunsBeside(Model):
    """What `bakeoff compare` shows."""

    first: Side
    second: Side
    same_rows: bool
    why_not: str
    """Why the two cannot be compared row by row; empty where they can."""
    contenders: list[Beside]


def compare_runs(first: Path, second: Path, workspace: Path) -> RunsBeside:
    """Put two runs beside each other.

    Args:
        first, second: their folders.

    Raises:
        IntegrityError: what was kept of one cannot be read.
    """
    verdicts = read_verdict(first), read_verdict(second)
    kept = read_kept(first), read_kept(second)
    read = [_answers(each, workspace) if each else None for each in kept]
    why_not = _why_not(verdicts, read)
    pairs = _pairs(*verdicts)
    found: dict[tuple[str, str], Comparison] = {}
    if not why_not and kept[0] and read[0] and read[1]:
        found = _compare(pairs, kept[0], read[0], read[1], workspace)
    return RunsBeside(
        first=_side(verdicts[0]),
        second=_side(verdicts[1]),
        same_rows=not why_not,
        why_not=why_not,
        contenders=[_beside(one, other, verdicts, found) for one, other in pairs],
    )


def _pairs(first: Verdict, second: Verdict) -> list[tuple[str, str]]:
    """By name, and the two best on dev of those that are not trivial where they have different names."""
    names = dict.fromkeys(line.name for verdict in (first, second) for line in verdict.contenders)
    best = tuple(next((line.name for line in verdict.contenders if line.arm != "trivial"), "") for verdict in (first, second))
    return [*([(best[0], best[1])] if best[0] != best[1] and all(best) else []), *((name, name) for name in names)]


def _answers(kept: KeptRun, workspace: Path) -> dict[str, Answers] | None:
    """By contender; None where predictions are no longer in the workspace."""
    folders = {each.name: workspace / each.predictions_folder for each in kept.contenders}
    if not all((folder / FILE).exists() for folder in folders.values()):
        return None
    return {each.name: read_answers(each, folders[each.name]) for each in kept.contenders}


def _why_not(verdicts: Sequence[Verdict], read: Sequence[dict[str, Answers] | None]) -> str:
    missing = [verdict.run_id[:8] for verdict, answers in zip(verdicts, read, strict=True) if not answers]
    if missing:
        return f"the answers of run {' and '.join(missing)} are not in the workspace (any more)"
    rows = [{pair for each in answers.values() for pair in _rows(each)} for answers in read if answers]
    if rows[0] == rows[1]:
        once = all(len(each) == len(rows[0]) for answers in read if answers for each in answers.values())
        return "" if once else "the test rows have repeats, which cannot be told apart"
    shared = len(rows[0] & rows[1])
    return f"they were tested on different rows: {len(rows[0]):,} and {len(rows[1]):,}, of which {shared:,} are the same"


def _rows(answers: Answers) -> list[tuple[str, str | None]]:
    """Each row with what is right for it."""
    return list(zip(answers.columns["example"], answers.columns["reference"], strict=True))


def _compare(
    pairs: Sequence[tuple[str, str]], kept: KeptRun, first: dict[str, Answers], second: dict[str, Answers], workspace: Path
) -> dict[tuple[str, str], Comparison]:
    dataset = kept.dataset.model_copy(update={"folder": workspace / kept.dataset_folder})
    clusters = clusters_of(read_examples(dataset, "test"), dataset.cluster) if dataset.cluster else None
    found = {}
    for one, other in pairs:
        if one in first and other in second:
            place = {row: place for place, row in enumerate(_rows(second[other]))}
            order = [place[row] for row in _rows(first[one])]
            right = first[one].correct, second[other].correct[order]
            found[one, other] = compare(other, right[1], one, right[0], kept.config["gate"]["alpha"], clusters)
    return found


def _beside(one: str, other: str, verdicts: Sequence[Verdict], found: dict[tuple[str, str], Comparison]) -> Beside:
    lines = [
        next((line for line in verdict.contenders if line.name == name), None)
        for verdict, name in zip(verdicts, (one, other), strict=True)
    ]
    return Beside(
        first=lines[0].name if lines[0] else None,
        second=lines[1].name if lines[1] else None,
        first_test=lines[0].test if lines[0] else None,
        second_test=lines[1].test if lines[1] else None,
        same=bool(lines[0] and lines[1] and lines[0].fingerprint == lines[1].fingerprint),
        comparison=found.get((one, other)),
    )


def _side(verdict: Verdict) -> Side:
    return Side(
        run_id=verdict.run_id,
        name=verdict.name,
        decision=verdict.decision,
        reason=verdict.reason,
        winner=verdict.winner,
        spent_usd=verdict.spent_usd,
    )
