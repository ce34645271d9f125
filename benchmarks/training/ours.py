"""What Bakeoff does: what runs in its process."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.training.bench import RECIPE, Bench, Clock, Given, open_rows, prepare, timed
from benchmarks.training.curves import epoch, home_of, keep_curves, read_curves, rights
from tasks.config import Method

TAUGHT = 160
"""Rows that the contender which predicts has learned from: enough to be sure of most rows, as a published one is."""


def train_on(bench: Bench, folder: Path, out: Path, **changes: Any) -> tuple[Any, Clock]:
    """One attempt of Bakeoff's training child on the tokens in `folder`: its trainer when it is done, and the time of computing."""
    from transformers import Trainer

    from tasks.device import pick_device
    from tasks.tuning import train

    (out / "made").mkdir(parents=True, exist_ok=True)
    job = train.Job(
        tuned=RECIPE.model_copy(update=changes),
        labels=bench.dataset.labels,
        tokens=folder,
        base=bench.base,
        folder=out / "made",
        checkpoints=out / "checkpoints",
    )
    with timed((Trainer, "train"), (train, "_kept"), (train, "_start_head")) as clock:
        trainer = train._attempt(job, pick_device(), bench.tokenizer, job.tuned.batch_size)[0]
    return trainer, clock


def train_slice(given: Given, folder: Path) -> Clock:
    """One epoch over a slice, with its evaluation."""
    with TemporaryDirectory() as name:
        return train_on(prepare(given), folder, Path(name), epochs=1, calibrate=False)[1]


def head_slice(given: Given, folder: Path) -> tuple[Clock, Clock]:
    """The head's three epochs over a slice, and one forward pass over the same rows."""
    from tasks.device import pick_device
    from tasks.tuning.batches import logits_of
    from tasks.tuning.kept import put_back

    dtype = pick_device().dtype
    bench, forward = prepare(given), Clock()
    with TemporaryDirectory() as name:
        trainer, head = train_on(bench, folder, Path(name), method=Method.HEAD, targets=[], epochs=3, calibrate=False)
        put_back(trainer.model)
        for split in ("train", "dev"):
            rows, pad_id = open_rows(folder / split), bench.tokenizer.pad_token_id
            with forward.running():
                logits_of(trainer.model, lambda wanted, rows=rows: rows[wanted]["input_ids"], rows["length"][:], pad_id, dtype)
    return head, forward


def contender(given: Given) -> Path:
    """The folder of a published contender, trained once."""
    from tasks.tuning.tune import tune

    bench = prepare(given)
    few = {"folder": bench.part(0, TAUGHT), "fingerprint": f"{bench.tokens.fingerprint}-{TAUGHT}"}
    return tune(RECIPE, bench.dataset, bench.tokens.model_copy(update=few), bench.base, bench.workspace).folder


def predict_slice(given: Given, folder: Path, start: int, rows: int, quick: bool) -> tuple[Clock, list[str]]:
    """Labels of some test rows, as `bakeoff predict` finds them, with `--quick` or without."""
    from tasks.contenders.tuned import TunedPredictor
    from tasks.data.examples import read_example_file, split_path
    from tasks.manifest import read_manifest

    bench, clock = prepare(given), Clock()
    predictor = TunedPredictor(folder, read_manifest(folder), bench.settings, quick)
    examples = list(read_example_file(split_path(bench.dataset, "test")))[start : start + rows]
    with clock.running():
        answers = predictor.predict(examples)
    return clock, [answer.label or "" for answer in answers]


def curve(given: Given, seed: int) -> None:
    """All epochs of the recipe."""
    from tasks.tuning.trainer import LabelTrainer

    bench = prepare(given)
    curves, home = read_curves(bench, seed), home_of(bench, seed)
    curves["bakeoff"] = done = []
    plain, began = LabelTrainer.evaluate, (time.perf_counter(), time.process_time())

    def evaluate(trainer: Any, *given: Any, **more: Any) -> Any:
        metrics = plain(trainer, *given, **more)
        done.append(epoch("bakeoff", seed, metrics["eval_accuracy"], began, None))
        return metrics

    shutil.rmtree(home / "bakeoff", ignore_errors=True)
    LabelTrainer.evaluate = evaluate  # type: ignore[method-assign]
    try:
        trainer, _ = train_on(bench, bench.tokens.folder, home / "bakeoff", seed=seed)
    finally:
        LabelTrainer.evaluate = plain  # type: ignore[method-assign]
    trainer.use_best()
    curves["right"]["bakeoff"] = rights(bench, trainer.model)
    keep_curves(bench, seed, curves)
