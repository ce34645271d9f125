"""Metrics as the `evaluate` library has them, without the Hub: `evaluate.load` would fetch a script from there.

    accuracy(["positive", None], ["positive", "negative"])      0.5
    load_metric("macro_f1").compute(predictions=[0, 1], references=[0, 0])
    brier([0.9, 0.6], [True, False]), calibration_error([0.9, 0.6], [True, False])      how far a confidence can be believed

A prediction of None is a row without a usable answer: it is wrong, and never dropped.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tasks.errors import BadData

if TYPE_CHECKING:
    import numpy
    from evaluate import Metric

NO_LABEL = -1
"""Stands for a row without a usable answer among label indices."""


def accuracy(predictions: Iterable[Any], references: Iterable[Any]) -> float:
    """The share of predictions that equal their reference, 0 to 1.

    Args:
        predictions: labels (names or indices; arrays as well), None or NaN where there is no usable answer.
        references: as many labels.

    Raises:
        BadData: no rows, another number of rows, or a reference that is missing.
    """
    return _compute("accuracy", predictions, references)


def macro_f1(predictions: Iterable[Any], references: Iterable[Any]) -> float:
    """The mean of the F1 scores of the labels among the references, 0 to 1; arguments and errors as for `accuracy`.

    Labels that no reference has are left out of the mean, so that it has the same terms for every contender on the same rows.
    """
    return _compute("macro_f1", predictions, references)


def brier(probabilities: Iterable[float], correct: Iterable[bool]) -> float:
    """The Brier score of a contender's confidence: the mean squared difference between the probability that it gave its own label
    and whether that label was right (1 or 0). 0 is best; always saying one half gives 0.25. For two labels this is the usual Brier
    score of either label.

    Args:
        probabilities: 0 to 1, of the label that was answered, such as `Prediction.probability`. Rows without one (no usable answer)
            are for the caller to leave out and count.
        correct: whether that label was right, as many.

    Raises:
        BadData: no rows, another number of rows, or a probability that is missing or not within 0 and 1.
    """
    from sklearn.metrics import brier_score_loss

    sure, right = _confidences(probabilities, correct)
    return float(brier_score_loss(right, sure, pos_label=True, labels=[False, True]))


def calibration_error(probabilities: Iterable[float], correct: Iterable[bool], bins: int = 15) -> float:
    """The expected calibration error (ECE, Guo et al. 2017) of a contender's confidence, 0 to 1: rows are put into bins of equal
    width by their probability, and the distances between each bin's mean probability and its share of right answers are averaged,
    weighted by rows. 0 is best, but few rows never give it: chance alone keeps the bins apart, the more so the fewer the rows.

    Arguments and errors as for `brier`.
    """
    import numpy

    sure, right = _confidences(probabilities, correct)
    place = numpy.minimum((sure * bins).astype(int), bins - 1)
    gaps = numpy.bincount(place, weights=sure - right, minlength=bins)  # a bin's rows times its distance
    return float(numpy.abs(gaps).sum() / len(sure))


def load_metric(name: str) -> "Metric":
    """The metric `accuracy` or `macro_f1` over label indices, as `evaluate.load` would give it; `NO_LABEL` is never right.

    Each call makes a new one, since they keep what they were given: contenders are scored in several threads.
    """
    import evaluate
    from datasets import Features, Value

    class _Offline(evaluate.Metric):
        def _info(self) -> Any:
            features = Features({"predictions": Value("int64"), "references": Value("int64")})
            return evaluate.MetricInfo(description=f"{name} over label indices", citation="", features=features)

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {name: _FORMULAS[name](predictions, references)}

    return _Offline(config_name=name, keep_in_memory=True)


def _accuracy(predictions: Any, references: Any) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def _macro_f1(predictions: Any, references: Any) -> float:
    from sklearn.metrics import f1_score

    labels = sorted(set(references))
    return float(f1_score(references, predictions, labels=labels, average="macro", zero_division=0))


_FORMULAS = {"accuracy": _accuracy, "macro_f1": _macro_f1}


def _compute(name: str, predictions: Iterable[Any], references: Iterable[Any]) -> float:
    predicted, expected = _plain(predictions), _plain(references)
    _check(predicted, expected)
    codes = {label: code for code, label in enumerate(dict.fromkeys(expected))}
    found = load_metric(name).compute(
        predictions=[codes.get(label, NO_LABEL) for label in predicted], references=[codes[label] for label in expected]
    )
    return float(found[name])


def _confidences(probabilities: Iterable[float], correct: Iterable[bool]) -> "tuple[numpy.ndarray, numpy.ndarray]":
    import numpy

    given, right = _plain(probabilities), _plain(correct)
    if not given or len(given) != len(right):
        raise BadData(f"cannot score {len(given)} probabilities against {len(right)} rows: give one of each a row")
    wrong = [row for row, value in enumerate(given, 1) if value is None or not 0 <= value <= 1]
    if wrong:
        raise BadData(f"{len(wrong)} rows have no probability within 0 and 1, the first is row {wrong[0]}: leave such rows out")
    return numpy.asarray(given, dtype=float), numpy.asarray(right, dtype=bool)


def _plain(values: Iterable[Any]) -> list[Any]:
    """Arrays of numpy and torch as plain numbers, so that they compare and hash as such."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _check(predicted: list[Any], expected: list[Any]) -> None:
    if not expected or len(predicted) != len(expected):
        raise BadData(f"cannot score {len(predicted)} predictions against {len(expected)} references: give one of each a row")
    missing = [row for row, label in enumerate(expected, 1) if label is None or label != label]
    if missing:
        raise BadData(f"{len(missing)} rows have no reference, the first is row {missing[0]}: rows without one cannot be scored")
