"""How fast Bakeoff trains and predicts, against the plain script that people start from.

    python -m benchmarks.training                                 # packaged IMDB reviews, one seed: half an hour on two idle cores
    python -m benchmarks.training --only rates                    # without the long curves: ten minutes
    python -m benchmarks.training --data FOLDER --seeds 3 --minutes 600 --output json

The plain script is the tutorial's: transformers' Trainer, batches of 4 in random order, float32, the base's own dropout,
evaluation in batches of 4 after every epoch, ten epochs; in a process of its own, with nothing set in its environment. Bakeoff is
what `bakeoff run` does, in a process with the environment of its children. Both have the same base (MiniLM), rows, tokens (512 at
most) and LoRA (rank 4, alpha 32, on query and value). They take turns in short slices of the same rows, so that what else runs
slows both. `_cpu` beside a figure is the same by the processor's seconds: neighbours disturb it less, but a core that waits for
the other does not show in it.

- `speedup`: rows per second through training and evaluation together, the median of the slices' ratios; `spread` has the lowest
  and highest;
- `peak_share`: operations on real tokens (padding does not count) in training and evaluation over what matrix products alone reach
  in the same time, measured beside each slice; `peak` says in which dtype: bfloat16, or float32 where that is as fast or faster.
  Operations are counted by torch on single rows;
- `predict_speedup`: a published contender against a loop in batches of 4, as with `bakeoff predict --quick`;
  `predict_speedup_float32`: without it; `labels_differ` counts the rows, of `labels_compared`, for which either has another label
  than the loop;
- `head_only_passes`: training the head for three epochs, in forward passes over the same rows;
- `time_to_accuracy_speedup`: the time of the plain script's ten epochs over Bakeoff's to come within half a point of their best
  dev accuracy, the median over `seeds`. A seed that never does counts as the slowest (`seeds_that_came_near` counts the others),
  and the figure is null where that is half of them. `accuracy_difference`: Bakeoff less plain on the test rows, paired, the mean
  over `seeds`, with a 95 % interval. Both need the long curves, which are kept in `--cache`: the plain script goes on after its
  last epoch, Bakeoff's shorter training begins again. They are null until both are whole; `seeds` counts those that are;
- `time_to_accuracy_speedup_by_slices`: the same of epochs as long as the slices say, which take turns, where the long curves ran
  hours apart, beside whatever else ran: the plain script's epochs over `epochs_to_accuracy`, times `speedup`.
"""

import argparse
import json
import os
import time
from contextlib import redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Any

from benchmarks.training import ours, plain
from benchmarks.training.bench import RECIPE, Bench, Given, prepare
from benchmarks.training.curves import compare_curves, read_curves
from benchmarks.training.peak import peak_dtype
from benchmarks.training.rates import measure_head, measure_predicting, measure_rates
from benchmarks.training.sides import Side, both_sides


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures asked for."""
    from tasks.device import pick_device

    rows = options.rows or (1000 if options.data else 160)
    bench = prepare(Given(options.data, rows, options.test_rows, options.cache, options.slice_rows, options.epochs))
    figures: dict[str, Any] = {"peak": peak_dtype()}
    with both_sides() as (asked, typed):
        if options.only in ("", "rates"):
            figures |= all_rates(bench, options.slices, asked, typed, figures["peak"])
        if options.only in ("", "curves"):
            figures |= all_curves(bench, options.seeds, asked, typed, 60 * options.minutes)
        device = asked(pick_device)
    if epochs := figures.get("epochs_to_accuracy"):
        by_slices = options.epochs / epochs * figures["speedup"] if "speedup" in figures else None
        figures["time_to_accuracy_speedup_by_slices"] = by_slices
    machine = {"device": device.name, "dtype": device.dtype, "reason": device.reason, "threads": device.threads}
    return figures | {"machine": machine | {"load_average": os.getloadavg(), "cores": os.cpu_count()}}


def all_rates(bench: Bench, slices: int, asked: Side, typed: Side, dtype: str) -> dict[str, Any]:
    """The medians, their spread, and the slices."""
    training = measure_rates(bench, slices, asked, typed, dtype)
    whole = training | measure_head(bench, slices, asked) | measure_predicting(bench, slices, asked, typed)
    spread = {name: value for name, value in whole.items() if isinstance(value, dict)}
    found = {name: value["median"] for name, value in spread.items()}
    return (
        found | {name: whole[name] for name in ("labels_differ", "labels_compared")} | {"spread": spread, "slices": whole["slices"]}
    )


def all_curves(bench: Bench, seeds: int, asked: Side, typed: Side, seconds: float) -> dict[str, Any]:
    """The long trainings of every seed, as far as time goes, and what follows from them."""
    until, found = time.monotonic() + seconds, []
    for seed in range(RECIPE.seed, RECIPE.seed + seeds):
        whole = read_curves(bench, seed)["right"]
        if "bakeoff" not in whole and time.monotonic() < until:
            asked(ours.curve, bench.given, seed)
        if "plain" not in whole and (left := until - time.monotonic()) > 0:
            typed(plain.curve, bench.given, seed, left)
        found.append(read_curves(bench, seed))
    return compare_curves(found)


def main() -> None:
    """Measure, and print a table or JSON."""
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
    with redirect_stdout(stderr):  # transformers prints its metrics
        figures = measure(options)
    if options.output == "json":
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:26} {value:.3f}" if isinstance(value, float) else f"{name:26} {json.dumps(value)}")


if __name__ == "__main__":
    main()
