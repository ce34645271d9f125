"""Metrics work without the Hub, and a row without an answer is wrong."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tasks.errors import BadData
from tasks.metrics import NO_LABEL, accuracy, load_metric, macro_f1


def test_accuracy_counts_equal_labels():
    assert accuracy(["a", "b", "b", "a"], ["a", "b", "a", "a"]) == 0.75


def test_a_row_without_an_answer_is_wrong_and_stays_in_the_denominator():
    assert accuracy(["a", None, "a", "a"], ["a", "a", "a", "b"]) == 0.5
    assert accuracy([0.0, math.nan], [0, 0]) == 0.5


def test_a_label_that_nobody_knows_is_wrong():
    assert accuracy(["c", "a"], ["a", "a"]) == 0.5


def test_arrays_of_indices_are_taken_as_the_trainer_gives_them():
    assert accuracy(np.array([1, 0, 1]), np.array([1, 1, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_both_metrics_agree_with_scikit_learn(seed):
    random = np.random.default_rng(seed)
    references, predictions = random.integers(0, 4, 200), random.integers(0, 4, 200)
    assert accuracy(predictions, references) == pytest.approx(accuracy_score(references, predictions))
    assert macro_f1(predictions, references) == pytest.approx(f1_score(references, predictions, average="macro"))


def test_macro_f1_has_the_references_labels_as_its_terms():
    assert macro_f1(["a", "b", "zzz"], ["a", "b", "b"]) == pytest.approx((1 + 2 / 3) / 2)
    assert macro_f1([None, None], ["a", "b"]) == 0


def test_the_library_computes_them_under_their_own_names():
    metric = load_metric("macro_f1")
    assert metric.compute(predictions=[0, NO_LABEL], references=[0, 0]) == {"macro_f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [([], [], "0 predictions"), (["a"], ["a", "b"], "1 predictions against 2"), (["a", "a"], ["a", None], "row 2")],
)
def test_rows_that_cannot_be_scored_are_refused(predictions, references, words):
    with pytest.raises(BadData, match=words):
        accuracy(predictions, references)
