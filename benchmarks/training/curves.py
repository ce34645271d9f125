"""The long trainings, whose curves are kept, and what follows from them."""

import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.training.bench import RECIPE, Bench, say
from benchmarks.training.sides import OURS, PLAIN
from tasks.config import Tuned
from tasks.workspace import write_durably

CLOCKS = {"seconds": "time_to_accuracy_speedup", "cpu_seconds": "time_to_accuracy_speedup_cpu"}
WITHIN = 0.005
"""Half a point of accuracy."""


def home_of(bench: Bench, seed: int) -> Path:
    """Where a seed's curves and checkpoints lie."""
    home = bench.given.cache / f"curves/{bench.tokens.fingerprint[:12]}-{bench.given.plain_epochs}-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    return home


def read_curves(bench: Bench, seed: int) -> dict[str, Any]:
    """`plain` and `bakeoff`, lists of epochs with `dev_accuracy`, `seconds` and `cpu_seconds` (training and evaluation, from the
    start), and `right` by side, whether each test row was answered rightly, once the training is whole."""
    kept = home_of(bench, seed) / "curves.json"
    curves: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if curves.get("environments") != [PLAIN, OURS]:  # times of others say nothing of these
        curves = {"environments": [PLAIN, OURS], "plain": [], "bakeoff": [], "right": {}}
        shutil.rmtree(home_of(bench, seed) / "plain", ignore_errors=True)
    plain = Tuned(name=RECIPE.name).model_dump(mode="json")
    if plain | curves.get("recipe", {}) != RECIPE.model_dump(mode="json"):  # fields that came later have their defaults
        curves["recipe"] = RECIPE.model_dump(mode="json")
        curves["right"].pop("bakeoff", None)  # of another recipe
    return curves


def keep_curves(bench: Bench, seed: int, curves: dict[str, Any]) -> None:
    """Write them down."""
    write_durably(home_of(bench, seed) / "curves.json", json.dumps(curves))


def epoch(side: str, seed: int, accuracy: float, began: tuple[float, float], before: Any) -> dict[str, float]:
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
    """`time_to_accuracy_speedup` and `epochs_to_accuracy` (medians over seeds), `seeds_that_came_near`, and `accuracy_difference`;
    null where no seed's curves are whole."""
    whole = [each for each in curves if {"plain", "bakeoff"} <= set(each["right"])]
    times = {clock: [time_to_accuracy(each["plain"], each["bakeoff"], clock) for each in whole] for clock in CLOCKS}
    epochs = [epochs_to_accuracy(each["plain"], each["bakeoff"]) for each in whole]
    found = {name: middle(times[clock], never=-math.inf) for clock, name in CLOCKS.items()}
    return found | {
        "epochs_to_accuracy": middle(epochs, never=math.inf),
        "seeds_that_came_near": sum(each is not None for each in epochs),
        "accuracy_difference": paired([each["right"] for each in whole]),
        "seeds": len(whole),
        "curves": [{side: each[side] for side in ("plain", "bakeoff")} for each in curves],
    }


def middle(values: Sequence[float | None], never: float) -> float | None:
    """The median over seeds, where a seed that never came there counts as worse than all others; None if that is half of them, or
    there are none."""
    found = statistics.median(never if value is None else value for value in values) if values else never
    return found if math.isfinite(found) else None


def epochs_to_accuracy(plain: list[dict[str, float]], bakeoff: list[dict[str, float]]) -> int | None:
    """Bakeoff's epochs to within half a point of the plain script's best dev accuracy; None if that never is."""
    goal = max(epoch["dev_accuracy"] for epoch in plain) - WITHIN - 1e-9
    return next((number for number, epoch in enumerate(bakeoff, 1) if epoch["dev_accuracy"] >= goal), None)


def time_to_accuracy(plain: list[dict[str, float]], bakeoff: list[dict[str, float]], clock: str = "seconds") -> float | None:
    """The plain script's whole time over Bakeoff's to within half a point of its best dev accuracy; None if that never is."""
    there = epochs_to_accuracy(plain, bakeoff)
    return None if there is None else plain[-1][clock] / bakeoff[there - 1][clock]


def paired(rights: list[dict[str, list[bool]]]) -> dict[str, float] | None:
    """Accuracy of Bakeoff less that of the plain script, with a 95 % interval (normal approximation) over rows: a row's difference
    is its mean over seeds, since seeds share their rows. None without seeds."""
    import numpy as np

    if not rights:
        return None
    rows = np.mean([np.subtract(each["bakeoff"], each["plain"], dtype=float) for each in rights], axis=0)
    mean, half = float(rows.mean()), float(1.96 * rows.std(ddof=1) / len(rows) ** 0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "rows": len(rows)}
