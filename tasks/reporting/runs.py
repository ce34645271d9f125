"""Runs by their id, under `<home>/workspace/runs/`:

<run id>/verdict.json   the verdict
<run id>/run.json       what the verdict leaves out and a report needs
<run id>/report.html    the report
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, IntegrityError
from tasks.evaluation.scores import Evaluation
from tasks.records import ContenderRecord, DatasetRecord, Judgement, TokensRecord, Verdict
from tasks.registry.lineage import environment
from tasks.reporting.records import KeptContender, KeptRun, Run
from tasks.workspace import write_durably

VERDICT, KEPT, REPORT = "verdict.json", "run.json", "report.html"
LATEST = "latest"


def runs_folder(workspace: Path) -> Path:
    """Where the runs of a workspace lie."""
    return workspace / "runs"


def keep_run(
    run_id: str,
    config: BakeoffConfig,
    dataset: DatasetRecord,
    evaluated: Sequence[tuple[ContenderRecord, Evaluation]],
    tokens: Mapping[str, TokensRecord],
    judgement: Judgement,
    workspace: Path,
) -> KeptRun:
    """Keep what a report needs of a run beside its verdict.

    Args:
        tokens: of tuned contenders, by name.
    """
    kept = KeptRun(
        run_id=run_id,
        config=config.model_dump(mode="json"),
        dataset=dataset,
        dataset_folder=_place(dataset.folder, workspace),
        contenders=[_contender(*each, tokens.get(each[0].name), workspace) for each in evaluated],
        judgement=judgement.fingerprint,
        environment=environment(),
    )
    folder = runs_folder(workspace) / run_id
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / KEPT, kept.model_dump_json(indent=2))
    return kept


def list_runs(workspace: Path, name: str = "") -> list[Run]:
    """The runs of a workspace, the newest first.

    Args:
        name: of the bake-off; empty lists all of them.

    Raises:
        IntegrityError: a verdict that lies there cannot be read.
    """
    verdicts = ((path.parent, read_verdict(path.parent)) for path in runs_folder(workspace).glob(f"*/{VERDICT}"))
    found = [_run(folder, verdict) for folder, verdict in verdicts if name in ("", verdict.name)]
    return sorted(found, key=lambda run: (run.created, run.run_id), reverse=True)


def find_run(workspace: Path, wanted: str) -> Path:
    """The folder of a run.

    Args:
        wanted: its id, the beginning of it where no other run's begins so, or `latest`.

    Raises:
        BadConfig: there is no such run, or several.
        IntegrityError: as `list_runs`.
    """
    folder = runs_folder(workspace)
    ids = sorted(path.parent.name for path in folder.glob(f"*/{VERDICT}"))
    if not ids:
        raise BadConfig(
            f"there is no run in {folder} yet: `bakeoff run CONFIG` makes one; BAKEOFF_HOME says whose runs are looked at"
        )
    if wanted == LATEST:
        return Path(list_runs(workspace)[0].path)
    found = [each for each in ids if wanted and each.startswith(wanted)]
    if wanted in found:
        return folder / wanted
    if len(found) != 1:
        many = f"{len(found)} runs begin with {wanted!r}: {', '.join(found[:5])}{', …' if len(found) > 5 else ''}"
        said = many if found else f"there is no run {wanted[:60]!r}"
        raise BadConfig(f"{said}; give an id, or enough of its beginning, as `bakeoff runs` lists them, or {LATEST!r}")
    return folder / found[0]


def read_verdict(folder: Path) -> Verdict:
    """A run's verdict. Raises IntegrityError where it cannot be read."""
    path = folder / VERDICT
    try:
        return Verdict.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(_unreadable(path, error)) from None


def read_kept(folder: Path) -> KeptRun | None:
    """What was kept of a run; None for one of an earlier release. Raises IntegrityError where it cannot be read."""
    path = folder / KEPT
    if not path.exists():
        return None
    try:
        return KeptRun.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError | ValidationError) -> str:
    why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
    return f"{path} cannot be read ({why}): take the folder {path.parent.name} out of {path.parent.parent}, or put the file back"


def _run(folder: Path, verdict: Verdict) -> Run:
    report = folder / REPORT
    return Run(
        run_id=folder.name,
        name=verdict.name,
        created=verdict.created,
        decision=verdict.decision,
        winner=verdict.winner,
        spent_usd=verdict.spent_usd,
        path=str(folder),
        report=str(report) if report.exists() else None,
    )


def _contender(contender: ContenderRecord, evaluation: Evaluation, tokens: TokensRecord | None, workspace: Path) -> KeptContender:
    predictions = evaluation.predictions
    facts = contender.training
    return KeptContender(
        name=contender.name,
        arm=contender.arm,
        kind=contender.kind,
        fingerprint=contender.fingerprint,
        folder=_place(contender.folder, workspace),
        predictions=predictions.fingerprint,
        predictions_folder=_place(predictions.folder, workspace),
        spent_usd=predictions.spent_usd,
        requests=predictions.requests,
        machine=predictions.machine,
        base=facts.base if facts else "",
        revision=facts.revision if facts else "",
        findings=[*(tokens.findings if tokens else []), *contender.findings, *(facts.findings if facts else [])],
        curve=contender.curve,
        sweep=contender.sweep,
        repeats=contender.repeats,
    )


def _place(folder: Path, workspace: Path) -> str:
    """Relative to the workspace where it lies there."""
    return folder.relative_to(workspace).as_posix() if folder.is_relative_to(workspace) else str(folder)
