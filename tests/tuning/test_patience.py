"""Early stopping ends a training when dev gets no better, and a kill changes nothing about that."""

from pathlib import Path

import pytest

from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.config import ClassWeights
from tasks.records import TokensRecord
from tasks.tuning.whole import out_of_patience
from tests.tuning.test_tune import RECIPE, adapter, job


@pytest.mark.slow
def test_early_stopping_ends_when_dev_gets_no_better_and_a_kill_after_that_does_not_train_on(
    tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 40, "early_stopping": 2, "class_weights": ClassWeights.BALANCED})
    asked = job(recipe, tokens, base, home)
    first = run_child("tasks.tuning.train", asked)["training"]
    accuracies = [epoch["dev_accuracy"] for epoch in first["epochs"]]
    assert len(accuracies) == first["best_epoch"] + 2 < 40
    assert first["findings"][-1]["kind"] == "early_stopping"
    weights = adapter(home)
    again = run_child("tasks.tuning.train", asked)["training"]  # its checkpoints are there: as after a kill at the very end
    assert [epoch["dev_accuracy"] for epoch in again["epochs"]] == accuracies
    assert adapter(home) == weights


def test_patience_counts_evaluations_since_the_best_and_ties_are_no_gain() -> None:
    assert not out_of_patience([0.5, 0.6, 0.6], 2)
    assert out_of_patience([0.5, 0.6, 0.6, 0.5], 2)
    assert not out_of_patience([0.6, 0.5, 0.7], 2)
    assert not out_of_patience([0.9, 0.1, 0.1], 0)
    assert not out_of_patience([], 1)
