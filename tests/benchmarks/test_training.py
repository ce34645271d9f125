"""The training benchmark runs whole, and its ratios follow from the curves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training.curves import compare_curves, epochs_to_accuracy, paired, time_to_accuracy
from tests.live import environment

RIGHT = {"plain": [True] * 2, "bakeoff": [True] * 2}


def curve(*accuracies: float, second: float) -> list[dict[str, float]]:
    """Epochs of so many seconds, each core busy."""
    return [
        {"dev_accuracy": accuracy, "seconds": second * number, "cpu_seconds": 2 * second * number}
        for number, accuracy in enumerate(accuracies, 1)
    ]


def test_the_time_to_accuracy_is_that_of_the_first_epoch_within_half_a_point_of_the_plain_scripts_best() -> None:
    plain = curve(0.80, 0.90, 0.88, second=100)
    assert time_to_accuracy(plain, curve(0.85, 0.895, 0.91, second=10)) == 300 / 20
    assert time_to_accuracy(plain, curve(0.85, 0.894, 0.90, second=10)) == 300 / 30
    assert time_to_accuracy(plain, curve(0.85, 0.894, second=10)) is None
    assert epochs_to_accuracy(plain, curve(0.85, 0.895, 0.91, second=10)) == 2


def test_the_accuracy_difference_is_paired_and_more_seeds_on_the_same_rows_do_not_make_it_surer() -> None:
    one = {"bakeoff": [True, True, True, False], "plain": [True, False, True, True]}
    found = paired([one])
    assert found
    assert (found["mean"], found["rows"]) == (0, 4)
    assert found["high"] == -found["low"] == pytest.approx(1.96 * (2 / 3) ** 0.5 / 2)
    assert paired([one, one, one]) == pytest.approx(found)
    assert paired([]) is None


def test_a_seed_whose_curves_are_not_whole_does_not_count() -> None:
    half = {"plain": curve(0.9, second=1), "bakeoff": [], "right": {"plain": [True, True]}}
    found = compare_curves([half])
    assert (found["seeds"], found["time_to_accuracy_speedup"], found["accuracy_difference"]) == (0, None, None)
    whole = {
        "plain": curve(0.9, 0.9, second=8),
        "bakeoff": curve(0.9, second=2),
        "right": RIGHT,
    }
    found = compare_curves([whole, half])
    assert (found["seeds"], found["time_to_accuracy_speedup"], found["accuracy_difference"]["mean"]) == (1, 8, 0)
    assert found["epochs_to_accuracy"] == 1


def test_a_seed_that_never_comes_near_counts_as_the_slowest() -> None:
    near = {"plain": curve(0.9, 0.9, second=8), "bakeoff": curve(0.8, 0.9, second=2), "right": RIGHT}
    quick, never = near | {"bakeoff": curve(0.9, second=1)}, near | {"bakeoff": curve(0.8, 0.8, second=1)}
    found = [compare_curves(seeds) for seeds in ([quick, never, near], [quick, never], [near, quick])]
    assert [each["time_to_accuracy_speedup"] for each in found] == [4, None, 10]
    assert [each["epochs_to_accuracy"] for each in found] == [2, None, 1.5]
    assert [each["seeds_that_came_near"] for each in found] == [2, 1, 2]


@pytest.mark.slow
def test_a_tiny_benchmark_runs_whole_and_its_curves_are_kept(root: Path, tmp_path: Path) -> None:
    small = ["--rows", "4", "--test-rows", "8", "--slices", "1", "--slice-rows", "4", "--epochs", "1", "--output", "json"]
    command = [sys.executable, "-m", "benchmarks.training", *small, "--cache", str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["seeds"], figures["labels_differ"]) == (1, 0)
    assert figures["peak"] in ("float32", "bfloat16")
    assert all(figures[name] > 0 for name in ("speedup", "peak_share", "predict_speedup", "head_only_passes"))
    assert figures["accuracy_difference"]["rows"] == 8
    epochs = figures["epochs_to_accuracy"]
    assert figures.get("time_to_accuracy_speedup_by_slices") == (epochs and pytest.approx(figures["speedup"] / epochs))
    again = subprocess.run([*command, "--only", "curves"], cwd=root, env=environment(), capture_output=True, text=True)
    assert json.loads(again.stdout)["curves"] == figures["curves"]
