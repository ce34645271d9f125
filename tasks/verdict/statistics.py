"""Comparisons of two contenders on the same rows."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

from tasks.records import Comparison

TEST = "exact McNemar"


class Discordant(NamedTuple):
    """Of `n` rows, how many only one of the two had right."""

    only_first: int
    only_second: int
    n: int


def compare(contender: str, first: Sequence[bool], against: str, second: Sequence[bool], alpha: float) -> Comparison:
    """Compare two contenders row by row: an exact McNemar test, and an interval of the difference at 1 - alpha.

    Args:
        first, second: whether each row was right, in the same order of rows; as long as each other, and at least 1.
    """
    counts = count(first, second)
    return Comparison(
        contender=contender,
        against=against,
        test=TEST,
        difference=(counts.only_first - counts.only_second) / counts.n,
        interval=difference_interval(counts, alpha),
        p_value=mcnemar(counts),
        n=counts.n,
        only_contender=counts.only_first,
        only_against=counts.only_second,
    )


def count(first: Sequence[bool], second: Sequence[bool]) -> Discordant:
    """Count the rows that only one of the two had right."""
    pairs = list(zip(first, second, strict=True))
    return Discordant(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))


def mcnemar(counts: Discordant) -> float:
    """The two-sided p-value that both are right equally often (McNemar's test by the exact binomial; conservative)."""
    from scipy.stats import binomtest

    discordant = counts.only_first + counts.only_second
    return float(binomtest(counts.only_first, discordant).pvalue) if discordant else 1.0


def difference_interval(counts: Discordant, alpha: float) -> tuple[float, float]:
    """The score interval of the difference of two paired proportions, at 1 - alpha.

    Tango T. (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17:891-908. It stays within -1 and 1, has a width when no row differs, and keeps close to its level
    from a few dozen rows on (Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875). It inverts McNemar's
    asymptotic test, so it can just leave out 0 where the exact p-value is just above alpha: whoever decides asks for both.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2)
    difference = (counts.only_first - counts.only_second) / counts.n
    low = _root(lambda delta: _score(counts, delta) - z, -1.0, difference) if difference > -1 else -1.0
    high = _root(lambda delta: _score(counts, delta) + z, difference, 1.0) if difference < 1 else 1.0
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many there are (Holm 1979), in their order; each at most 1."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _score(counts: Discordant, delta: float) -> float:
    """Tango's score statistic for a true difference `delta`; it falls as `delta` grows."""
    b, c, n = counts
    linear = -b - c + (2 * n - b + c) * delta
    root = math.sqrt(max(linear**2 + 8 * n * c * delta * (1 - delta), 0.0))
    only_second = (root - linear) / (4 * n)  # its likeliest probability, given delta
    variance = n * (2 * only_second + delta * (1 - delta))
    distance = b - c - n * delta
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function passes zero between `low` and `high`, to the last bit that halving can find."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
