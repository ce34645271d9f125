"""The child process that trains one contender: `tasks.child.run_child("tasks.tuning.train", Job(…))`.

A process of its own, since training takes signals, threads and memory, and may be killed for the last.
"""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.bases import ResolvedBase
from tasks.child import serve_child
from tasks.config import LORA_SWITCHES, Method, Tuned
from tasks.device import Device, pick_device
from tasks.progress import progress
from tasks.records import Finding, TrainingFacts
from tasks.tuning.memory import peak_memory, within_memory
from tasks.tuning.trial import Trial
from tasks.workspace import write_durably

logger = logging.getLogger(__name__)
FEW_STEPS = 100
"""Fewer leave a model half learned: on 160 rows of Rotten Tomatoes 30 steps gave .59 on dev, 60 steps .61, 120 steps .71."""


class Job(BaseModel):
    """What the child is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tuned: Tuned
    labels: list[str]
    tokens: Path
    """The tokens product's folder."""
    base: ResolvedBase
    samples: list[str] = []
    folder: Path
    """Where the contender is written."""
    checkpoints: Path
    """Where checkpoints grow, and are found again after a kill."""
    share: float = 1.0
    """Of train, that which teaches; larger shares hold the rows of smaller ones."""
    trial: Trial | None = None
    """Where this training is a search's trial: it may be given up."""
    save_every_s: float = 60.0
    """A checkpoint at least this often within an epoch."""
    report_to: list[str] = []
    """Trackers, as transformers names them."""
    rows_at_once: int | None = None
    """On each device, to begin with: a divisor of its part of `batch_size`. None takes the whole part."""


class Outcome(BaseModel):
    """What the child answers."""

    pruned: bool = False
    """Whether the search gave this trial up; then nothing was stored."""

    training: TrainingFacts
    samples: list[dict[str, str]] = []
    vocabulary: int
    """Tokens that the tokenizer knows, a mended pad token included."""


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Train on a `Job`, and return an `Outcome`, both as JSON values.

    Raises:
        BadConfig: the base or the LoRA targets cannot be used.
        TrainingError: the loss is no number any more, or not even one row fits the memory.
    """
    job = Job.model_validate(request)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # the base is on this machine already
    import numpy
    from datasets import Dataset

    from tasks.data.tokenize import load_tokenizer
    from tasks.tuning import together
    from tasks.tuning.calibration import calibrate
    from tasks.tuning.kept import put_back
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    device = as_before(job.checkpoints.parent, pick_device())
    together.take_device(device.name)
    started = time.perf_counter()
    tokenizer, mended = load_tokenizer(job.base.path)
    rows = len(Dataset.load_from_disk(str(job.tokens / "train")))
    few = few_steps(job.tuned, rows) if job.share == 1 else []  # a curve's parts are meant to be short
    for finding in few if together.is_first() and not job.trial else []:  # of a search's trials only the chosen one's is told
        logger.warning("train %s: %s", job.tuned.name, finding.message)
    (trainer, before), findings = within_memory(
        job.tuned, job.base, device, job.checkpoints, lambda rows: _attempt(job, device, tokenizer, rows), job.rows_at_once
    )
    findings += few
    if trainer.pruned:
        put_back(trainer.model)
        facts = _facts(job, device, trainer, [], time.perf_counter() - started)
        return Outcome(training=facts, vocabulary=len(tokenizer), pruned=True).model_dump(mode="json")
    logits = trainer.use_best()
    put_back(trainer.model)
    if together.is_first():
        _store(job, trainer)
    after = _labels_of(job, trainer.model, tokenizer)
    samples = [{"text": text, "before": was, "after": now} for text, was, now in zip(job.samples, before, after, strict=True)]
    facts = _facts(job, device, trainer, [*mended, *findings, *_stopped(job, trainer)], time.perf_counter() - started)
    if job.tuned.calibrate:
        facts = facts.model_copy(update={"calibration": calibrate(logits.numpy(), numpy.array(trainer.eval_dataset["label"][:]))})
    return Outcome(training=facts, samples=samples, vocabulary=len(tokenizer)).model_dump(mode="json")


def as_before(folder: Path, device: Device) -> Device:
    """The device as a killed run of this job had it: whether bfloat16 pays is measured, and must not change within a training.

    Args:
        folder: that outlives a killed run; the choice is kept there.
    """
    from tasks.tuning import together

    place = folder / "device.json"
    if place.exists():
        before = Device(**json.loads(place.read_text(encoding="utf-8")))
        if before.name == device.name:
            return before
    if together.is_first():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_durably(place, json.dumps(asdict(device)))
    return device


def _attempt(job: Job, device: Device, tokenizer: Any, micro_batch: int) -> tuple[Any, list[str]]:
    """Train with so many rows at once: the trainer when it is done, and the samples' labels before training."""
    from datasets import Dataset
    from transformers import set_seed

    from tasks.tuning import together
    from tasks.tuning.batches import part_of
    from tasks.tuning.checkpoints import newest
    from tasks.tuning.faster import compile_where_it_pays, hold_rounded, speed_up
    from tasks.tuning.kept import can_be_kept
    from tasks.tuning.methods import choose_weights, load_base
    from tasks.tuning.trainer import LabelTrainer, arguments

    tuned = job.tuned
    set_seed(tuned.seed)
    quantized_on = device.name if tuned.quantized else ""
    model = load_base(job.base.path, job.labels, len(tokenizer), tokenizer.pad_token_id, tuned.attention_dropout, quantized_on)
    model = choose_weights(model, tuned, job.base)
    model = speed_up(model if quantized_on else model.to(device.name))
    before = _labels_of(job, model, tokenizer)
    train, dev = (Dataset.load_from_disk(str(job.tokens / split)) for split in ("train", "dev"))
    train = part_of(train, job.share)
    given = arguments(tuned, device, micro_batch, len(train), job.checkpoints, job.report_to)
    own = device
    device = together.of_first(lambda: own)  # whether bfloat16 pays is measured, and must be the same for all
    keeps = tuned.method is Method.HEAD and together.size() == 1 and can_be_kept(model, tokenizer.pad_token_id)
    exact_again = hold_rounded(model) if (device.name, device.dtype) == ("cpu", "bfloat16") and not tuned.dora else None
    if keeps:
        train, dev = _kept(job, device, model, tokenizer.pad_token_id, train, dev)
    if tuned.head_start and not together.of_first(lambda: newest(job.checkpoints)):
        _start_head(job, device, model, tokenizer.pad_token_id, train)
    trainer = LabelTrainer(model, tuned, device, train, dev, tokenizer.pad_token_id, given)
    trainer.exact_again = exact_again
    trainer.gives_up = job.trial.gives_up if job.trial else None
    steps = -(-len(train) // tuned.batch_size) * tuned.epochs
    compile_where_it_pays(model, steps)
    trainer.run(f"train {tuned.name}", job.save_every_s)
    return trainer, before


def _kept(job: Job, device: Device, model: Any, pad_id: int, train: Any, dev: Any) -> tuple[Any, Any]:
    """What the encoder says of train and dev, which then stands in its place: only the head is left to compute."""
    from tasks.tuning.kept import keep, stand_in

    folder = job.checkpoints.parent / f"kept-{device.name}-{device.dtype}"
    with progress(f"encode {job.tuned.name}", len(train) + len(dev)) as bar:
        train = keep(model, train, folder, "train", pad_id, device.dtype, bar.advance, device.threads)
        dev = keep(model, dev, folder, "dev", pad_id, device.dtype, bar.advance, device.threads)
    stand_in(model)
    return train, dev


def _start_head(job: Job, device: Device, model: Any, pad_id: int, train: Any) -> None:
    """A head that knows something before the rest moves. Each of several processes does the same."""
    from tasks.tuning.start import MOST_ROWS, start_head
    from tasks.tuning.whole import heed

    with progress(f"head of {job.tuned.name}", min(len(train), MOST_ROWS)) as bar:

        def told(rows: int) -> None:
            bar.advance(rows)
            heed()

        reason = start_head(model, job.tuned, train, pad_id, device, told)
    if reason:
        logger.warning("train %s: head_start changes nothing: %s", job.tuned.name, reason)


def _store(job: Job, trainer: Any) -> None:
    """What the method trained; and the tokenizer as it was loaded, not as it was last used, and without the base's chat template:
    nothing here chats."""
    from tasks.data.tokenize import load_tokenizer
    from tasks.tuning.checkpoints import room_for
    from tasks.tuning.methods import store

    with room_for(f"contender {job.tuned.name!r}", job.folder, job.checkpoints):
        store(trainer.model, job.tuned, job.base, job.folder)
        tokenizer = load_tokenizer(job.base.path).tokenizer
        tokenizer.chat_template = None
        tokenizer.save_pretrained(job.folder / "tokenizer")


def _labels_of(job: Job, model: Any, tokenizer: Any) -> list[str]:
    """What the model says of the samples."""
    from tasks.data.tokenize import encode_texts
    from tasks.tuning.batches import logits_of

    if not job.samples:
        return []
    ids = encode_texts(tokenizer, job.samples, job.tuned.max_tokens, job.tuned.truncation_side).ids
    logits = logits_of(model, lambda rows: [ids[row] for row in rows], [*map(len, ids)], tokenizer.pad_token_id)
    return [job.labels[index] for index in logits.argmax(-1).tolist()]


def few_steps(tuned: Tuned, rows: int) -> list[Finding]:
    """Whether a training is likely to be too short to tell what its recipe can do."""
    steps = -(-rows // tuned.batch_size) * tuned.epochs
    if steps >= FEW_STEPS:
        return []
    remedy = "raise epochs" if tuned.batch_size <= 4 else "lower batch_size to 4 (on a CPU a row costs as much), or raise epochs"
    message = f"{steps} steps are few to learn a task ({rows} rows, {tuned.epochs} epochs, batches of {tuned.batch_size}): {remedy}"
    return [Finding(kind="few_steps", count=steps, message=message)]


def _stopped(job: Job, trainer: Any) -> list[Finding]:
    """What early stopping left out."""
    epochs = epoch_facts(trainer.state.log_history)
    left = job.tuned.epochs - len(epochs)
    message = (
        f"training stopped after epoch {len(epochs)} of {job.tuned.epochs}: no better dev accuracy in {job.tuned.early_stopping}"
    )
    return [Finding(kind="early_stopping", count=left, message=f"{message} evaluations")] if left > 0 else []


def _facts(job: Job, device: Device, trainer: Any, findings: list[Finding], seconds: float) -> TrainingFacts:
    epochs = epoch_facts(trainer.state.log_history)
    best = max(epochs, key=lambda epoch: (epoch["dev_accuracy"], -epoch["epoch"]))
    return facts_of(job, device, trainer, epochs, best, len(trainer.eval_dataset), findings, seconds)


def facts_of(
    job: Job,
    device: Device,
    trainer: Any,
    epochs: list[dict[str, float]],
    best: dict[str, float],
    dev_rows: int,
    findings: list[Finding],
    seconds: float,
) -> TrainingFacts:
    """What a training took and gave.

    Args:
        epochs: as `epoch_facts` gives them, with whatever else is known of each.
        best: the one whose weights were kept.
        dev_rows: on which accuracy was measured.
        seconds: since this process began; what an earlier, killed one took is added.
    """
    from tasks.tuning.methods import all_parameters, trained_by_part

    by_part = trained_by_part(trainer.model)
    rows = len(trainer.train_dataset) * len(epochs)
    return TrainingFacts(
        base=job.base.id,
        revision=job.base.revision,
        method=job.tuned.method,
        switches=[name for name in LORA_SWITCHES if getattr(job.tuned, name)],
        device=device.name,
        dtype=device.dtype,
        parameters=all_parameters(trainer.model),
        parameters_trained=sum(by_part.values()),
        trained_by_part=by_part,
        epochs=epochs,
        losses=loss_facts(trainer.state.log_history, trainer.state.logging_steps, trainer.state.max_steps // job.tuned.epochs),
        best_epoch=int(best["epoch"]),
        dev_rows=dev_rows,
        seconds=round(seconds + trainer.seconds_before, 3),
        rows_per_second=round(rows / max(sum(epoch["seconds"] for epoch in epochs), 1e-9), 2),
        peak_memory_bytes=peak_memory(device),
        batch_size=trainer.args.per_device_train_batch_size,
        findings=findings,
    )


def epoch_facts(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The learning curve in a Trainer's log: `epoch` (from 1), `loss` (mean over its steps), `dev_accuracy`, `seconds`."""
    epochs: list[dict[str, float]] = []
    total, last_step, last_s, first_step = 0.0, 0.0, 0.0, 0.0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last_step)
            last_step = entry["step"]
        if "eval_accuracy" in entry:
            steps = max(last_step - first_step, 1)
            epochs.append(
                {
                    "epoch": round(entry["epoch"]),
                    "loss": round(total / steps, 5),
                    "dev_accuracy": round(entry["eval_accuracy"], 6),
                    "seconds": round(entry["trained_s"] - last_s, 3),
                }
            )
            total, first_step, last_s = 0.0, last_step, entry["trained_s"]
    return epochs


def loss_facts(history: list[dict[str, float]], every: int, steps_an_epoch: int) -> list[dict[str, float]]:
    """The mean loss of every so many steps, and of what is left at an epoch's end; what was logged between is joined, so that it
    does not matter when checkpoints were made."""
    found: list[dict[str, float]] = []
    total, first, last = 0.0, 0.0, 0.0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
            if last % every == 0 or last % steps_an_epoch == 0:
                found.append({"epoch": round(last / steps_an_epoch, 4), "loss": round(total / (last - first), 4)})
                total, first = 0.0, last
    return found


if __name__ == "__main__":
    serve_child(train, graceful=True)
