"""What else than accuracy is compared: macro-F1, and calibration (`tasks/metrics.py` has the same figures for one contender)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.records import Difference
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.resampling import Sums, bootstrap_interval, counted_interval
from tasks.verdict.statistics import pair

if TYPE_CHECKING:
    import numpy

BINS = 15
"""Of the calibration error, as in `tasks/metrics.py`."""


def differences(first: Contestant, second: Contestant, rows: Rows, alpha: float) -> list[Difference]:
    """All measures of the two that can be had, each with its interval at 1 - alpha."""
    both = pair(first.right, second.right, rows.clusters)
    found = [
        Difference(metric="accuracy", difference=both.difference, interval=both.interval(alpha), n=len(first.correct)),
        macro_f1_difference(first, second, rows, alpha),
        brier_difference(first, second, rows, alpha),
        ece_difference(first, second, rows, alpha),
    ]
    return [each for each in found if each is not None]


def macro_f1_difference(first: Contestant, second: Contestant, rows: Rows, alpha: float) -> Difference | None:
    """None where rows have no labels."""
    sums = macro_f1_sums(first, second)
    if sums is None:
        return None
    interval = counted_interval(sums.by_cluster(rows.codes()), alpha)
    return Difference(metric="macro_f1", difference=sums.difference(), interval=interval, n=len(first.labels))


def brier_difference(first: Contestant, second: Contestant, rows: Rows, alpha: float) -> Difference | None:
    """Over the rows on which both gave a probability; None where there are none."""
    import numpy

    def parts(errors: Any, _probabilities: Any) -> Any:
        return numpy.stack([errors**2, numpy.ones_like(errors)], axis=1)

    return _calibration("brier", first, second, rows, alpha, parts, lambda sums: sums[..., 0] / sums[..., 1])


def ece_difference(first: Contestant, second: Contestant, rows: Rows, alpha: float) -> Difference | None:
    """Over the rows on which both gave a probability; None where there are none."""
    import numpy

    def parts(errors: Any, probabilities: Any) -> Any:
        made = numpy.zeros((len(errors), BINS + 1))
        made[numpy.arange(len(errors)), numpy.minimum((probabilities * BINS).astype(int), BINS - 1)] = errors
        made[:, BINS] = 1
        return made

    def figure(sums: Any) -> Any:
        return numpy.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]

    return _calibration("ece", first, second, rows, alpha, parts, figure)


def macro_f1_sums(first: Contestant, second: Contestant) -> Sums | None:
    """What each row brings to the F1 scores of the labels; None where rows have no labels."""
    import numpy

    free_text = None in (first.scores.test.macro_f1, second.scores.test.macro_f1)
    if free_text or not first.labels or not second.labels or None in first.references:
        return None
    names = sorted({str(label) for label in first.references})
    references = _one_hot(first.references, names)

    def parts(each: Contestant) -> "numpy.ndarray":
        answered = _one_hot(each.labels, names)
        return numpy.concatenate([answered * references, answered, references], axis=1)

    def figure(sums: Any) -> Any:
        right, answered, there = (sums[..., place * len(names) : (place + 1) * len(names)] for place in range(3))
        f1 = 2 * right / numpy.maximum(answered + there, 1)
        return (f1 * (there > 0)).sum(axis=-1) / numpy.maximum((there > 0).sum(axis=-1), 1)

    return Sums(parts(first), parts(second), figure)


def both_sure(first: Contestant, second: Contestant) -> list[int]:
    """The rows on which both gave a probability, by place."""
    return [place for place, pair in enumerate(zip(first.probabilities, second.probabilities, strict=True)) if None not in pair]


def _calibration(name: Any, first: Contestant, second: Contestant, rows: Rows, alpha: float, parts: Any, figure: Any) -> Any:
    """A figure over errors (probability less 1 or 0 for right or wrong) of the rows on which both gave a probability."""
    import numpy

    both = both_sure(first, second)
    if not both:
        return None
    made = []
    for each in (first, second):
        probabilities = numpy.asarray([each.probabilities[place] for place in both], dtype=float)
        made.append(parts(probabilities - numpy.asarray([each.correct[place] is True for place in both]), probabilities))
    sums = Sums(made[0], made[1], figure)
    interval = bootstrap_interval(sums.by_cluster(rows.codes(both)), alpha)
    return Difference(metric=name, difference=sums.difference(), interval=interval, n=len(both))


def _one_hot(labels: Sequence[str | None], names: Sequence[str]) -> "numpy.ndarray":
    import numpy

    place = {name: index for index, name in enumerate(names)}
    codes = numpy.asarray([place.get(str(label), -1) if label is not None else -1 for label in labels])
    return (codes[:, None] == numpy.arange(len(names))[None, :]).astype(float)
