"""The Train stage: a base model, a data set's tokens and a recipe in; a contender out."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.config import Method, Objective, Tuned
from tasks.data.completions import frame_of
from tasks.data.tokenize import answers_in_text, load_tokenizer
from tasks.device import accelerators
from tasks.errors import MemoryRanOut
from tasks.manifest import ContenderManifest, write_manifest
from tasks.records import Arm, ContenderRecord, DatasetRecord, Finding, TokensRecord, TrainingFacts
from tasks.settings import Settings, Training, load_settings
from tasks.tuning.curves import draw_curves
from tasks.tuning.language.adapt import MODEL, AdaptedRecord, adapt, adapted_base
from tasks.tuning.methods import ADAPTED
from tasks.tuning.trackers import tracker_environment
from tasks.tuning.trial import Trial
from tasks.workspace import Building, Stage, Workspace, link

logger = logging.getLogger(__name__)
TRAIN = Stage(
    "train",
    14,
    (
        "tasks.tuning.tune",
        "tasks.tuning.train",
        "tasks.tuning.trainer",
        "tasks.tuning.methods",
        "tasks.tuning.objectives",
        "tasks.tuning.batches",
        "tasks.tuning.faster",
        "tasks.tuning.attention",
        "tasks.tuning.cores",
        "tasks.tuning.joined",
        "tasks.tuning.kept",
        "tasks.tuning.start",
        "tasks.tuning.checkpoints",
        "tasks.tuning.language.causal",
        "tasks.tuning.language.complete",
        "tasks.tuning.whole",
        "tasks.tuning.memory",
        "tasks.tuning.calibration",
        "tasks.tuning.curves",
        "tasks.tuning.together",
        "tasks.tuning.trial",
        "tasks.device",
    ),
)
CURVES, PICTURE = "curves.json", "curves.svg"


class Pruned(Exception):
    """No error: a search gave this training up, and nothing of it is kept."""

    def __init__(self, facts: TrainingFacts) -> None:
        super().__init__("given up")
        self.facts = facts


def write_curves(folder: Path, looks: Sequence[Mapping[str, float]]) -> None:
    """What was seen at each look at dev, without the seconds: the same training gives the same files, hence the same hash."""
    told = [{name: value for name, value in look.items() if name != "seconds"} for look in looks]
    (folder / CURVES).write_text(json.dumps(told, indent=2), encoding="utf-8")


def tune(
    tuned: Tuned,
    dataset: DatasetRecord,
    tokens: TokensRecord,
    base: ResolvedBase,
    workspace: Workspace,
    samples: list[str] | None = None,
    training: Training | None = None,
    settings: Settings | None = None,
    share: float = 1.0,
    trial: Trial | None = None,
) -> ContenderRecord:
    """Train a contender in a child process, or in several that train as one; or find the one that was trained from the same.

    A killed training goes on from its newest whole checkpoint when it is run again.

    Args:
        tokens: of this data set, for this base.
        samples: texts whose predictions before and after training are put in the record.
        training: how this machine trains; what is learned does not depend on it.
        settings: where text of its own lies, for objectives that read some; those of this process if None.
        share: of train, that which teaches.
        trial: of a search, which this training is; one that comes to its end is the same product as without a search.

    Raises:
        Pruned: the search gave the trial up.
        BadConfig: the base or the LoRA targets cannot be used.
        TrainingError: the loss is no number any more, or not even one row fits the memory.
        ChildDied: the process was killed.
    """

    adapted = _adapt(tuned, dataset, base, settings, workspace)
    ground = adapted_base(adapted, base) if adapted else base
    writes = answers_in_text(tuned, dataset.labels)

    def build(building: Building) -> ContenderRecord:
        request = {
            "tuned": tuned.model_dump(mode="json"),
            "labels": dataset.labels,
            "tokens": str(tokens.folder),
            "base": {"id": base.id, "revision": base.revision, "path": str(ground.path), "config_sha256": base.config_sha256},
            "samples": samples or [],
            "folder": str(building.folder),
            "checkpoints": str(building.inprogress / "checkpoints"),
            "share": share,
            "trial": trial and trial.model_dump(mode="json"),
        }
        outcome = _train(tuned, request, training or Training(), workspace, building, writes)
        facts = TrainingFacts.model_validate(outcome["training"])
        if outcome["pruned"]:
            for left in ("checkpoints", *(path.name for path in building.inprogress.glob("kept-*"))):
                shutil.rmtree(building.inprogress / left)
            raise Pruned(facts)
        if adapted:
            facts = _with_adaptation(facts, adapted)
            _carry(adapted, tuned, building.folder)
        write_curves(building.folder, facts.epochs)
        said = f"{tuned.name}: {tuned.method}, {facts.parameters_trained:,} of {facts.parameters:,} parameters"
        draw_curves(said, facts.losses, facts.epochs, facts.best_epoch, building.folder / PICTURE)
        manifest = ContenderManifest(
            name=tuned.name,
            arm=Arm.TUNED,
            kind="tuned",
            task="classification" if dataset.labels else "generation",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies="device",
            spec=_spec(tuned, base, outcome["vocabulary"], facts)
            | {"adapted": adapted is not None}
            | _writing(tuned, base, writes),
        )
        written = write_manifest(building.folder, manifest)
        facts = facts.model_copy(update={"publish_bytes": sum((building.folder / name).stat().st_size for name in written.files)})
        return ContenderRecord(
            name=tuned.name, arm=Arm.TUNED, kind="tuned", occupies="device", training=facts, samples=outcome["samples"]
        )

    inputs = [dataset.fingerprint, tokens.fingerprint, base.id, base.revision, base.config_sha256]
    inputs += [adapted.fingerprint] if adapted else []
    config = {"tuned": tuned, "samples": samples or []} | ({"share": share} if share < 1 else {})
    return workspace.produce(TRAIN, inputs, config, ContenderRecord, build, f"train {tuned.name}")


def _writing(tuned: Tuned, base: ResolvedBase, writes: bool) -> dict[str, Any]:
    """For contenders that answer in text: what stands around a row, and how long an answer may be."""
    if not writes:
        return {}
    frame = frame_of(load_tokenizer(base.path).tokenizer)
    return {"frame": frame.model_dump(mode="json"), "max_answer_tokens": tuned.max_answer_tokens}


def _train(
    tuned: Tuned, request: dict[str, Any], training: Training, workspace: Workspace, building: Building, writes: bool
) -> dict[str, Any]:
    """What the child, or the first of several, answers. Where memory runs out in one of several, all begin again with less. A model
    that writes its answers is trained by one process."""
    environment = tracker_environment(training, workspace.root.parent, f"{tuned.name}-{building.fingerprint[:12]}")
    module, processes = ("language.complete", 1) if writes else ("train", _processes(tuned, training))
    while True:
        try:
            return dict(run_child(f"tasks.tuning.{module}", request | {"report_to": training.report_to}, environment, processes))
        except MemoryRanOut:
            logger.info("train %s: again from its newest checkpoint", tuned.name)


def _processes(tuned: Tuned, training: Training) -> int:
    """How many train together: each takes the same part of every step."""
    wanted = training.processes or accelerators() or 1
    even = max(count for count in range(1, wanted + 1) if tuned.batch_size % count == 0)
    if even < wanted:
        logger.warning("train %s: %d of %d processes, which share batch_size %d evenly", tuned.name, even, wanted, tuned.batch_size)
    return even


def _adapt(
    tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, settings: Settings | None, workspace: Workspace
) -> AdaptedRecord | None:
    """What the supervised step stands on, where the objective is self-supervised."""
    if tuned.objective is not Objective.SELF_SUPERVISED:
        return None
    return adapt(tuned, dataset, base, settings or load_settings(), workspace)


def _with_adaptation(facts: TrainingFacts, adapted: AdaptedRecord) -> TrainingFacts:
    """What both steps took together; what the first one gave is a finding."""
    message = (
        f"further pre-training ({adapted.kind}) on {adapted.texts:,} texts, {adapted.seconds:.0f} s: the loss of a token of dev "
        f"went from {adapted.loss_before:.3f} to {adapted.loss_after:.3f}"
    )
    found = [Finding(kind="adapted", count=adapted.texts, message=message), *adapted.findings, *facts.findings]
    return facts.model_copy(
        update={
            "objective": Objective.SELF_SUPERVISED.value,
            "seconds": round(facts.seconds + adapted.seconds, 3),
            "peak_memory_bytes": max(facts.peak_memory_bytes, adapted.peak_memory_bytes),
            "findings": found,
        }
    )


def _carry(adapted: AdaptedRecord, tuned: Tuned, folder: Path) -> None:
    """The adapted base goes along, since nobody else has it; `full` holds every weight already."""
    if tuned.method is not Method.FULL:
        for file in (adapted.folder / MODEL).iterdir():
            if file.suffix == ".safetensors" or file.name in ("config.json", "model.safetensors.index.json"):
                link(file, folder / ADAPTED / file.name)


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
