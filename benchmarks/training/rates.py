"""Rows a second of both sides, in turns, slice by slice."""

import json
import statistics
from typing import Any

from benchmarks.training import ours, plain
from benchmarks.training.bench import Bench, Clock, lengths_of, say
from benchmarks.training.peak import matrix_peak, operations
from benchmarks.training.sides import Side

PREDICTED_ROWS = 1_000
"""In a slice of predictions; a command predicts 4,096 at once."""
WARM_UP_ROWS = 16

Rounds = list[dict[str, float]]


def measure_rates(bench: Bench, slices: int, asked: Side, typed: Side, dtype: str) -> dict[str, Any]:
    """Training and evaluation: one epoch of a slice's rows each, and the matrix peak beside it."""
    count, given = operations(bench), bench.given
    rounds: Rounds = []
    for number in range(slices + 1):  # the first one warms up
        folder = bench.part(number, WARM_UP_ROWS if number == 0 else given.slice_rows)
        before = matrix_peak(dtype)
        our: Clock = asked(ours.train_slice, given, folder)
        their: Clock = typed(plain.train_slice, given, folder)
        peak = (before + matrix_peak(dtype)) / 2
        train, dev = lengths_of(folder, "train"), lengths_of(folder, "dev")
        done = sum(map(count["step"], train)) + sum(map(count["forward"], dev))
        rounds.append(
            {
                "rows": len(train) + len(dev),
                "plain_s": their.wall_s,
                "bakeoff_s": our.wall_s,
                "speedup": their.wall_s / our.wall_s,
                "speedup_cpu": their.cpu_s / our.cpu_s,
                "peak_share": done / our.wall_s / peak[0],
                "peak_share_cpu": done / our.cpu_s / peak[1],
                "peak_operations_per_s": peak[0],
            }
        )
        told("slice", number, rounds[-1])
    return {"slices": rounds[1:]} | {
        name: middle(rounds[1:], name) for name in ("speedup", "speedup_cpu", "peak_share", "peak_share_cpu")
    }


def measure_head(bench: Bench, slices: int, asked: Side) -> dict[str, Any]:
    """Training the head for three epochs, in turns with one forward pass over the same rows."""
    rounds: Rounds = []
    for number in range(slices):
        head, forward = asked(ours.head_slice, bench.given, bench.part(number, bench.given.slice_rows))
        rounds.append({"passes": head.wall_s / forward.wall_s, "passes_cpu": head.cpu_s / forward.cpu_s})
        told("head", number, rounds[-1])
    return {"head_only_passes": middle(rounds, "passes"), "head_only_passes_cpu": middle(rounds, "passes_cpu")}


def measure_predicting(bench: Bench, slices: int, asked: Side, typed: Side) -> dict[str, Any]:
    """A published contender's predictions, in turns with a loop in batches of 4 over the same model without Bakeoff's speed."""
    given = bench.given
    contender = asked(ours.contender, given)
    whole = min(PREDICTED_ROWS, given.test_rows)
    starts = range(0, given.test_rows - whole + 1, whole)  # so many slices have no row in common
    rounds: Rounds = []
    differ: dict[int, bool] = {}
    for number in range(slices + 1):  # the first one warms up
        start, rows = (starts[(number - 1) % len(starts)], whole) if number else (0, min(WARM_UP_ROWS, whole))
        our, quick = asked(ours.predict_slice, given, contender, start, rows, True)
        exact, float32 = asked(ours.predict_slice, given, contender, start, rows, False)
        their, loop = typed(plain.predict_slice, given, contender, start, rows)
        both = enumerate(zip(quick, float32, loop, strict=True), start)
        differ |= {row: {one, other} != {label} for row, (one, other, label) in both}
        rates = {"speedup": their.wall_s / our.wall_s, "speedup_cpu": their.cpu_s / our.cpu_s}
        rounds.append(rates | {"float32": their.wall_s / exact.wall_s, "rows": rows})
        told("predict", number, rounds[-1])
    return {
        "predict_speedup": middle(rounds[1:], "speedup"),
        "predict_speedup_cpu": middle(rounds[1:], "speedup_cpu"),
        "predict_speedup_float32": middle(rounds[1:], "float32"),
        "labels_differ": sum(differ.values()),
        "labels_compared": len(differ),
    }


def middle(rounds: Rounds, name: str) -> dict[str, float]:
    """Median, lowest and highest over the slices."""
    values = [each[name] for each in rounds]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def told(what: str, number: int, figures: dict[str, float]) -> None:
    """Tell a slice's figures."""
    say(f"{what} {number}: {json.dumps({name: round(value, 3) for name, value in figures.items()})}")
