"""Metrics work without the Hub, and a row without an answer is wrong."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tasks.errors import BadData
from tasks.metrics import NO_LABEL, accuracy, brier, calibration_error, load_metric, macro_f1


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


def test_brier_is_the_squared_distance_of_a_confidence_from_what_came():
    assert brier([1.0, 0.6, 0.5], [True, False, True]) == pytest.approx((0 + 0.36 + 0.25) / 3)
    assert brier([0.8, 0.8], [True, True]) == pytest.approx(0.04)


def test_calibration_error_weighs_each_bins_distance_by_its_rows():
    assert calibration_error([0.8] * 5, [True] * 4 + [False]) == pytest.approx(0)
    assert calibration_error([1.0] * 4, [True, False] * 2) == pytest.approx(0.5)
    assert calibration_error([0.95, 0.95, 0.55], [True, False, True], bins=10) == pytest.approx((2 * 0.45 + 0.45) / 3)


def test_honest_confidences_are_told_from_boastful_ones():
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 20_000)
    right = random.uniform(size=20_000) < sure
    boast = np.minimum(1, sure + 0.1)
    assert calibration_error(sure, right) < 0.02 < 0.08 < calibration_error(boast, right)
    assert brier(sure, right) < brier(boast, right)


@pytest.mark.parametrize("score", [brier, calibration_error])
@pytest.mark.parametrize(
    ("probabilities", "correct", "words"),
    [([], [], "0 probabilities"), ([0.5], [True, True], "1 probabilities against 2"), ([0.5, None], [True, True], "row 2")],
)
def test_confidences_that_cannot_be_scored_are_refused(score, probabilities, correct, words):
    with pytest.raises(BadData, match=words):
        score(probabilities, correct)
    with pytest.raises(BadData, match="row 1"):
        score([math.nan], [True])
