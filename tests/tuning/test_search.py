"""A search tries recipes on dev within its budget, gives bad ones up early, and chooses the same, broken off or not."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned, parse_config
from tasks.errors import BadConfig, MissingPart, TrainingError
from tasks.records import DatasetRecord, SweepRecord, TokensRecord
from tasks.tuning.develop import develop
from tasks.tuning.search import SWEEP, candidate, chosen, every_target, refuse_without_optuna, search
from tasks.tuning.trial import Trial
from tasks.tuning.tune import Pruned
from tasks.workspace import Workspace

TUNED = Tuned(name="t", learning_rate=1e-3, rank=4, alpha=8, search_trials=6, ranks_tried=[8], targets_tried=["q_lin, v_lin"])
EPOCHS = 4


class Bench:
    """Stands in for training: accuracy by recipe, without a model. Killed at the `dies_at`th training, as a process would be."""

    def __init__(self, dies_at: int = 0) -> None:
        self.trained: list[Tuned] = []
        self.dies_at = dies_at

    def __call__(self, tuned: Tuned, trial: Trial) -> Any:
        self.trained.append(tuned)
        accuracies: list[float] = []
        for epoch in range(1, EPOCHS + 1):
            accuracies.append(self.accuracy(tuned) * epoch / EPOCHS)
            if len(self.trained) == self.dies_at:
                raise KeyboardInterrupt
            if epoch < EPOCHS and trial.gives_up(accuracies):
                raise Pruned(self.facts(accuracies))
        return SimpleNamespace(training=self.facts(accuracies))

    @staticmethod
    def accuracy(tuned: Tuned) -> float:
        if tuned.learning_rate > 3.9e-3:
            raise TrainingError("diverged")
        return round(0.9 - 100 * abs(tuned.learning_rate - 2e-3) - 0.01 * (tuned.rank == 4), 3)

    @staticmethod
    def facts(accuracies: list[float]) -> Any:
        epochs = [{"dev_accuracy": accuracy} for accuracy in accuracies]
        return SimpleNamespace(epochs=epochs, dev_accuracy=max(accuracies), seconds=2.0)


def tried(sweep: SweepRecord) -> list[tuple[Any, ...]]:
    return [(t.learning_rate, t.rank, t.targets, t.outcome, t.dev_accuracy) for t in sweep.trials]


def test_the_recipe_itself_is_tried_first_and_the_best_on_dev_is_chosen(tmp_path: Path) -> None:
    bench = Bench()
    sweep = search(TUNED, bench, ["d"], [], Workspace(tmp_path))
    assert bench.trained[0] == TUNED.single()
    assert len(sweep.trials) == 6
    best = chosen(TUNED, sweep)
    whole = [trial for trial in sweep.trials if trial.outcome == "complete"]
    assert sweep.trials[sweep.chosen].dev_accuracy == max(trial.dev_accuracy or 0 for trial in whole)
    assert (best.alpha / best.rank, best.search_trials, best.ranks_tried) == (2, 0, [])
    assert (sweep.folder / SWEEP).read_text().startswith("<?xml")
    assert search(TUNED, Bench(), ["d"], [], Workspace(tmp_path)).reused


def test_trials_are_ranked_by_the_weights_that_are_kept_and_not_by_their_best_epoch(tmp_path: Path) -> None:
    class Forgetful(Bench):
        """Keeps weights that are the worse on dev the better another epoch was, as the lowest loss may."""

        @staticmethod
        def facts(accuracies: list[float]) -> Any:
            found = Bench.facts(accuracies)
            found.dev_accuracy = round(1 - max(accuracies), 3)
            return found

    rates = {"search_trials": 3, "learning_rates_tried": [2e-3, 1.5e-3], "ranks_tried": [], "targets_tried": []}
    tuned = TUNED.model_copy(update=rates)
    sweep = search(tuned, Forgetful(), ["d"], [], Workspace(tmp_path))
    assert {trial.learning_rate: trial.dev_accuracy for trial in sweep.trials} == {1e-3: 0.21, 2e-3: 0.11, 1.5e-3: 0.16}
    assert chosen(tuned, sweep).learning_rate == 1e-3


def test_lists_that_fit_the_budget_are_tried_through_and_bad_trials_are_given_up_early(tmp_path: Path) -> None:
    rates = [1e-4, 2e-3, 4e-3, 2.5e-4, 1.5e-3]
    tuned = TUNED.model_copy(update={"search_trials": 40, "learning_rates_tried": rates, "targets_tried": []})
    sweep = search(tuned, Bench(), ["d"], [], Workspace(tmp_path))
    assert sorted((t.learning_rate, t.rank) for t in sweep.trials) == sorted((r, k) for r in [1e-3, *rates] for k in (4, 8))
    outcomes = {trial.learning_rate: trial.outcome for trial in sweep.trials}
    assert outcomes[4e-3] == "diverged"
    pruned = [trial for trial in sweep.trials if trial.outcome == "pruned"]
    assert pruned
    assert all(len(trial.epochs) < EPOCHS for trial in pruned)
    assert (chosen(tuned, sweep).learning_rate, chosen(tuned, sweep).rank) == (2e-3, 8)


@pytest.mark.parametrize("dies_at", [1, 3, 6])
def test_a_search_that_was_killed_goes_on_with_the_same_trial_and_chooses_the_same(tmp_path: Path, dies_at: int) -> None:
    whole = search(TUNED, Bench(), ["d"], [], Workspace(tmp_path / "whole"))
    killed, resumed = Bench(dies_at), Bench()
    with pytest.raises(KeyboardInterrupt):
        search(TUNED, killed, ["d"], [], Workspace(tmp_path / "killed"))
    again = search(TUNED, resumed, ["d"], [], Workspace(tmp_path / "killed"))
    assert tried(again) == tried(whole)
    assert again.chosen == whole.chosen
    assert resumed.trained[0] == killed.trained[-1]
    assert len(killed.trained) + len(resumed.trained) == 6 + 1


def test_a_budget_in_minutes_counts_what_trials_took(tmp_path: Path) -> None:
    tuned = TUNED.model_copy(update={"search_trials": 0, "search_minutes": 0.1})
    assert len(search(tuned, Bench(), ["d"], [], Workspace(tmp_path)).trials) == 3  # of two seconds each


def test_a_search_in_which_everything_diverges_says_so(tmp_path: Path) -> None:
    tuned = TUNED.model_copy(update={"learning_rate": 0.5, "search_trials": 2, "learning_rates_tried": [0.4]})
    with pytest.raises(TrainingError, match="none of 2 trials came to its end"):
        search(tuned, Bench(), ["d"], [], Workspace(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks_tried": [8]}, "ranks_tried needs a budget: set search_trials"),
        ({"search_trials": 3, "ranks_tried": [8], "method": "head"}, "ranks_tried is for LoRA"),
        ({"seeds": [1, 2, 1]}, "name one twice"),
    ],
)
def test_what_a_search_cannot_use_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        parse_config({"dataset": "a/b", "tuned": [{"name": "t", **fields}]})


def test_without_optuna_a_search_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"pip install '\.\[search\]'"):
        refuse_without_optuna(TUNED)
    refuse_without_optuna(TUNED.single())


def test_all_targets_of_a_search_are_checked_at_the_door_and_head_searches_rates_alone() -> None:
    assert every_target(TUNED).targets == ["q_lin", "v_lin"]
    head = Tuned(name="h", method=Method.HEAD, search_trials=2)
    assert candidate(head, 0.1, 8, "all-linear") == head.single(learning_rate=0.1)


@pytest.mark.slow
def test_search_seeds_and_learning_curve_share_their_trainings(
    dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    tuned = Tuned(
        name="tiny",
        learning_rate=0.01,
        epochs=2,
        batch_size=8,
        seeds=[42, 1],
        search_trials=2,
        learning_rates_tried=[0.002],
        learning_curve=True,
    )
    workspace = Workspace(home)
    made = develop(tuned, dataset, tokens, base, workspace)
    assert made.sweep
    assert made.repeats
    assert made.curve
    assert made.training
    assert "few_steps" in {finding.kind for finding in made.training.findings}  # the chosen trial's, as without a search
    assert {trial.learning_rate for trial in made.sweep.trials} == {0.01, 0.002}
    assert made.repeats.dev_accuracy[0] == made.sweep.trials[made.sweep.chosen].dev_accuracy  # seed 42 is the search's
    assert [point.rows for point in made.curve.points] == [12, 24, 48, 96]
    assert made.curve.points[-1].dev_accuracy == max(made.repeats.dev_accuracy)
    trainings = list((home / "products/train").iterdir())
    assert len(trainings) == 2 + 1 + 3
    again = develop(tuned, dataset, tokens, base, workspace)
    assert again.model_dump() == made.model_dump()
    assert list((home / "products/train").iterdir()) == trainings
