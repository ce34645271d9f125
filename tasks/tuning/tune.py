"""The Train stage: a base model, a data set's tokens and a recipe in; a contender out."""

import json
import logging
from typing import Any

from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.config import Tuned
from tasks.device import accelerators
from tasks.errors import MemoryRanOut
from tasks.manifest import ContenderManifest, write_manifest
from tasks.records import Arm, ContenderRecord, DatasetRecord, TokensRecord, TrainingFacts
from tasks.settings import Training
from tasks.tuning.curves import draw_curves
from tasks.tuning.trackers import tracker_environment
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
TRAIN = Stage(
    "train",
    3,
    (
        "tasks.tuning.tune",
        "tasks.tuning.train",
        "tasks.tuning.trainer",
        "tasks.tuning.methods",
        "tasks.tuning.objectives",
        "tasks.tuning.batches",
        "tasks.tuning.checkpoints",
        "tasks.tuning.calibration",
        "tasks.tuning.curves",
        "tasks.tuning.together",
        "tasks.device",
    ),
)
CURVES, PICTURE = "curves.json", "curves.svg"


def tune(
    tuned: Tuned,
    dataset: DatasetRecord,
    tokens: TokensRecord,
    base: ResolvedBase,
    workspace: Workspace,
    samples: list[str] | None = None,
    training: Training | None = None,
) -> ContenderRecord:
    """Train a contender in a child process, or in several that train as one; or find the one that was trained from the same.

    A killed training goes on from its newest whole checkpoint when it is run again.

    Args:
        tokens: of this data set, for this base.
        samples: texts whose predictions before and after training are put in the record.
        training: how this machine trains; what is learned does not depend on it.

    Raises:
        BadConfig: the base or the LoRA targets cannot be used.
        TrainingError: the loss is no number any more, or not even one row fits the memory.
        ChildDied: the process was killed.
    """

    def build(building: Building) -> ContenderRecord:
        request = {
            "tuned": tuned.model_dump(mode="json"),
            "labels": dataset.labels,
            "tokens": str(tokens.folder),
            "base": {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256},
            "samples": samples or [],
            "folder": str(building.folder),
            "checkpoints": str(building.inprogress / "checkpoints"),
        }
        outcome = _train(tuned, request, training or Training(), workspace, building)
        facts = TrainingFacts.model_validate(outcome["training"])
        (building.folder / CURVES).write_text(json.dumps(facts.epochs, indent=2), encoding="utf-8")
        said = f"{tuned.name}: {tuned.method}, {facts.parameters_trained:,} of {facts.parameters:,} parameters"
        draw_curves(said, facts.losses, facts.epochs, facts.best_epoch, building.folder / PICTURE)
        manifest = ContenderManifest(
            name=tuned.name,
            arm=Arm.TUNED,
            kind="tuned",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies="device",
            spec=_spec(tuned, base, outcome["vocabulary"], facts),
        )
        written = write_manifest(building.folder, manifest)
        facts = facts.model_copy(update={"publish_bytes": sum((building.folder / name).stat().st_size for name in written.files)})
        return ContenderRecord(
            name=tuned.name, arm=Arm.TUNED, kind="tuned", occupies="device", training=facts, samples=outcome["samples"]
        )

    inputs = [dataset.fingerprint, tokens.fingerprint, base.id, base.revision, base.config_sha256]
    config = {"tuned": tuned, "samples": samples or []}
    return workspace.produce(TRAIN, inputs, config, ContenderRecord, build, f"train {tuned.name}")


def _train(tuned: Tuned, request: dict[str, Any], training: Training, workspace: Workspace, building: Building) -> dict[str, Any]:
    """What the child, or the first of several, answers. Where memory runs out in one of several, all begin again with less."""
    environment = tracker_environment(training, workspace.root.parent, f"{tuned.name}-{building.fingerprint[:12]}")
    processes = _processes(tuned, training)
    while True:
        try:
            return dict(run_child("tasks.tuning.train", request | {"report_to": training.report_to}, environment, processes))
        except MemoryRanOut:
            logger.info("train %s: again from its newest checkpoint", tuned.name)


def _processes(tuned: Tuned, training: Training) -> int:
    """How many train together: each takes the same part of every step."""
    wanted = training.processes or accelerators() or 1
    even = max(count for count in range(1, wanted + 1) if tuned.batch_size % count == 0)
    if even < wanted:
        logger.warning("train %s: %d of %d processes, which share batch_size %d evenly", tuned.name, even, wanted, tuned.batch_size)
    return even


def _spec(tuned: Tuned, base: ResolvedBase, vocabulary: int, facts: TrainingFacts) -> dict[str, str | int | float]:
    """What `tasks/contenders/tuned.py` reads."""
    return {
        "method": tuned.method.value,
        "base": base.id,
        "revision": base.revision,
        "config_sha256": base.config_sha256,
        "source": tuned.base,
        "vocabulary": vocabulary,
        "max_tokens": tuned.max_tokens,
        "truncation_side": tuned.truncation_side.value,
        "temperature": facts.calibration.temperature if facts.calibration else 1.0,
    }
