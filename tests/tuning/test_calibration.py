"""One temperature makes a boastful classifier honest, and nothing else of it."""

import numpy as np
import pytest
from scipy.special import softmax

from tasks.tuning.calibration import calibrate, temperature_of


def drawn(rows: int, boast: float, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true, then made `boast` times as large; and labels drawn from the true ones."""
    random = np.random.default_rng(rows)
    logits = random.normal(scale=2, size=(rows, labels))
    right = np.array([random.choice(labels, p=row) for row in softmax(logits, axis=1)])
    return (boast * logits).astype("float32"), right


@pytest.mark.parametrize("boast", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_confidences_wrong_is_found(boast: float) -> None:
    assert temperature_of(*drawn(4000, boast)) == pytest.approx(boast, rel=0.06)


def test_calibration_lowers_error_and_brier_and_says_so() -> None:
    found = calibrate(*drawn(2000, 3.0))
    assert found.ece_after < 0.04 < 0.1 < found.ece_before
    assert found.brier_after < found.brier_before
    assert found.rows == 2000


def test_honest_confidences_stay_nearly_as_they_are() -> None:
    found = calibrate(*drawn(2000, 1.0))
    assert found.temperature == pytest.approx(1, abs=0.1)
    assert found.brier_after == pytest.approx(found.brier_before, abs=0.001)


def test_what_does_not_help_the_other_half_is_not_kept() -> None:
    logits = np.array([[2.0, 0.0]] * 8, dtype="float32")
    labels = np.array([0, 1] * 4)  # one half always right, the other always wrong
    found = calibrate(logits, labels)
    assert found.temperature == 1.0
    assert (found.ece_after, found.brier_after) == (found.ece_before, found.brier_before)


@pytest.mark.parametrize("rows", [5, 20])
def test_a_few_rows_without_an_error_do_not_make_it_sure_of_all(rows: int) -> None:
    logits = np.array([[1.0, 0.0]] * rows, dtype="float32")
    found = calibrate(logits, np.zeros(rows, dtype=int))
    assert softmax(logits[0] / found.temperature)[0] <= 1 - 1 / (rows + 2) + 1e-3


def test_a_dev_of_one_row_calibrates_nothing() -> None:
    assert calibrate(np.array([[1.0, 0.0]], dtype="float32"), np.array([0])).temperature == 1.0
