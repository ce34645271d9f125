"""The Further stage: a contender of the supervised step in, one that preferences or reinforcement taught more out."""

from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.config import OBJECTIVES_OWN, Objective, Tuned
from tasks.data.examples import split_path
from tasks.errors import MissingPart
from tasks.manifest import read_manifest, write_manifest
from tasks.records import Arm, Calibration, ContenderRecord, DatasetRecord, Finding, TokensRecord, TrainingFacts
from tasks.settings import Settings, load_settings
from tasks.tuning.language.pairs import FILE, find_preferences, read_pairs, write_pairs
from tasks.tuning.methods import ADAPTER
from tasks.tuning.tune import CURVES, tune, write_curves
from tasks.workspace import Building, Stage, Workspace, link

FURTHER = Stage(
    "further",
    6,
    (
        "tasks.tuning.further",
        "tasks.tuning.language.causal",
        "tasks.tuning.language.further",
        "tasks.tuning.language.pairs",
        "tasks.tuning.whole",
        "tasks.tuning.memory",
        "tasks.tuning.checkpoints",
        "tasks.data.completions",
    ),
)
OBJECTIVES = (Objective.PREFERENCES, Objective.REINFORCEMENT)


def further(
    tuned: Tuned,
    dataset: DatasetRecord,
    tokens: TokensRecord,
    base: ResolvedBase,
    workspace: Workspace,
    settings: Settings | None = None,
) -> ContenderRecord:
    """Train the supervised step (or find it), then go on from it in a child process. A killed run goes on where it was.

    Raises:
        MissingPart: TRL is not installed.
        BadConfig, BadData, OutsideRoots: the preferences cannot be had.
        TrainingError, ChildDied: as of `tune`.
    """
    refuse_without_trl(tuned)
    settings = settings or load_settings()
    source = find_preferences(tuned, settings)
    own = Tuned(name="any").model_dump(include=set(OBJECTIVES_OWN))
    first = tune(tuned.model_copy(update=own), dataset, tokens, base, workspace, training=settings.training, settings=settings)
    assert first.training
    facts = first.training

    def build(building: Building) -> ContenderRecord:
        pairs = building.inprogress / FILE
        if source:
            write_pairs(read_pairs(tuned, source, building.inprogress / "cache"), pairs)
        manifest = read_manifest(first.folder)
        request = {
            "tuned": tuned.model_dump(mode="json"),
            "labels": dataset.labels,
            "base": {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256},
            "supervised": str(first.folder),
            "vocabulary": manifest.spec["vocabulary"],
            "train": str(split_path(dataset, "train")),
            "dev": str(split_path(dataset, "dev")),
            "pairs": str(pairs) if source else None,
            "folder": str(building.folder),
            "work": str(building.inprogress / "work"),
        }
        outcome = run_child("tasks.tuning.language.further", request)
        for name in manifest.files:
            if not name.startswith(f"{ADAPTER}/") and name != CURVES:
                link(first.folder / name, building.folder / name)
        write_curves(building.folder, facts.epochs + outcome["watched"])
        calibration = outcome["calibration"] and Calibration.model_validate(outcome["calibration"])
        spec = manifest.spec | {"temperature": calibration.temperature if calibration else 1.0}
        written = write_manifest(building.folder, manifest.model_copy(update={"fingerprint": building.fingerprint, "spec": spec}))
        size = sum((building.folder / name).stat().st_size for name in written.files)
        return ContenderRecord(
            name=tuned.name,
            arm=Arm.TUNED,
            kind="tuned",
            occupies="device",
            training=_facts(tuned, facts, outcome, calibration, size),
        )

    inputs = [first.fingerprint, dataset.fingerprint] + ([source.revision] if source else [])
    return workspace.produce(FURTHER, inputs, {"tuned": tuned}, ContenderRecord, build, f"further {tuned.name}")


def refuse_without_trl(tuned: Tuned) -> None:
    """Raises MissingPart where the objective needs TRL and it is not installed."""
    import importlib.util

    if tuned.objective in OBJECTIVES and importlib.util.find_spec("trl") is None:
        raise MissingPart(
            f"tuned contender {tuned.name!r}: objective {tuned.objective} needs trl: `pip install '.[reinforcement]'` in the "
            "project's folder"
        )


def _facts(
    tuned: Tuned, facts: TrainingFacts, outcome: dict[str, object], calibration: Calibration | None, size: int
) -> TrainingFacts:
    """What both steps took together."""
    found = [Finding.model_validate(each) for each in outcome["findings"]]  # type: ignore[attr-defined]
    return facts.model_copy(
        update={
            "objective": tuned.objective.value,
            "seconds": round(facts.seconds + float(outcome["seconds"]), 3),  # type: ignore[arg-type]
            "peak_memory_bytes": max(facts.peak_memory_bytes, int(outcome["peak_memory_bytes"])),  # type: ignore[call-overload]
            "findings": [*found, *facts.findings],
            "watched": outcome["watched"],
            "calibration": calibration,
            "publish_bytes": size,
        }
    )
