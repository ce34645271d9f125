"""Comparisons of two contenders on the same rows, by what each had right."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tasks.evaluation.clusters import design_effect, effective_clusters
from tasks.records import Comparison

if TYPE_CHECKING:
    import numpy

TEST = "exact McNemar"
CLUSTERED = "permutation of clusters"
CONTINUITY = 1.0
"""Rows by which a difference of counts is drawn in before its interval is taken: half of the 2 by which it jumps (Edwards 1948,
Psychometrika 13:185-187)."""
Right: TypeAlias = "Sequence[bool] | numpy.ndarray"
"""Whether each row was right."""
Clusters: TypeAlias = "Sequence[int] | numpy.ndarray | None"
"""For each row the number of its cluster, from 0; None where each row stands alone."""


class Discordant(NamedTuple):
    """Of `n` rows, how many only one of the two had right. Fractions where rows count less than one, being of one cluster."""

    only_first: float
    only_second: float
    n: float


@dataclass(frozen=True)
class Pair:
    """Two contenders on the same rows."""

    counts: Discordant
    effective: Discordant
    """The same with as many independent rows as the rows are worth: equal to `counts` where no rows belong together."""
    differing: "numpy.ndarray | None" = None
    """Where rows belong together: for each cluster in which the two differ, how many rows more the first had right."""
    totals: "numpy.ndarray | None" = None
    degrees: float = math.inf
    """Degrees of freedom of the difference's variance; few where few clusters tell of it."""

    @property
    def difference(self) -> float:
        return (self.counts.only_first - self.counts.only_second) / self.counts.n

    def p_value(self) -> float:
        """Two-sided, that both are right equally often."""
        if self.differing is None:
            return mcnemar(self.counts)
        return permute_clusters(self.differing)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Of the difference, at 1 - alpha."""
        return difference_interval(self.effective, alpha, self.degrees)


def pair(first: Right, second: Right, clusters: Clusters = None) -> Pair:
    """Put two contenders side by side.

    Args:
        first, second: whether each row was right, in the same order of rows; as long as each other, and at least 1.
        clusters: for each row the number of the cluster that it belongs to, from 0; None where each row stands alone. Clusters of
            one row each give what no clusters give.
    """
    import numpy

    counts = count(first, second)
    if clusters is None:
        return Pair(counts, counts)
    differences = numpy.asarray(first, dtype=int) - numpy.asarray(second, dtype=int)
    codes = numpy.asarray(clusters)
    sizes = numpy.bincount(codes)
    if sizes.max() == 1:
        return Pair(counts, counts)
    effect = design_effect(differences, codes)
    sums = numpy.bincount(codes, weights=differences)
    worth = Discordant(*(figure / effect for figure in counts))
    return Pair(
        counts, worth, sums[sums != 0], sizes, degrees_of_freedom(sums - differences.mean() * sizes, effective_clusters(sizes))
    )


def compare(
    contender: str,
    first: Right,
    against: str,
    second: Right,
    alpha: float,
    clusters: Clusters = None,
) -> Comparison:
    """Compare two contenders row by row: an exact McNemar test (where rows belong together, its counterpart for whole clusters),
    and an interval of the difference at 1 - alpha. Arguments as of `pair`."""
    both = pair(first, second, clusters)
    return Comparison(
        contender=contender,
        against=against,
        test=TEST if both.differing is None else CLUSTERED,
        difference=both.difference,
        interval=both.interval(alpha),
        p_value=both.p_value(),
        n=int(both.counts.n),
        only_contender=int(both.counts.only_first),
        only_against=int(both.counts.only_second),
        clusters=None if both.totals is None else len(both.totals),
    )


def count(first: Right, second: Right) -> Discordant:
    """Count the rows that only one of the two had right.

    Raises:
        ValueError: there are not as many of each.
    """
    import numpy

    one, other = numpy.asarray(first, dtype=bool), numpy.asarray(second, dtype=bool)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} rows cannot be paired with {len(other)}")
    return Discordant(int((one & ~other).sum()), int((other & ~one).sum()), len(one))


def mcnemar(counts: Discordant) -> float:
    """The two-sided p-value that both are right equally often (McNemar's test by the exact binomial; conservative)."""
    from scipy.special import bdtr

    fewer, more = sorted((int(counts.only_first), int(counts.only_second)))
    return min(1.0, 2 * float(bdtr(fewer, fewer + more, 0.5))) if more else 1.0


def permute_clusters(sums: "numpy.ndarray") -> float:
    """The exact two-sided p-value that both are right equally often where rows come in clusters: each cluster's answers are
    exchanged between the two as a whole, with a chance of one half. Over clusters of one row this is McNemar's exact test.

    Args:
        sums: for each cluster in which the two differ, how many rows more the one had right: whole numbers.
    """
    import numpy
    from scipy.signal import convolve
    from scipy.stats import binom

    if len(sums) < 2:
        return 1.0  # a single cluster has two exchanges, equally likely
    chances = numpy.ones(1)  # of each number of rows by which clusters go to the first
    for size, clusters in zip(*numpy.unique(numpy.abs(sums).astype(int), return_counts=True), strict=True):
        steps = numpy.zeros(size * clusters + 1)
        steps[::size] = binom.pmf(numpy.arange(clusters + 1), clusters, 0.5)
        chances = convolve(chances, steps)
    seen = int(sums[sums > 0].sum())
    return float(min(1.0, 2 * max(0.0, min(chances[: seen + 1].sum(), chances[seen:].sum()))))


def degrees_of_freedom(residuals: "numpy.ndarray", most: float) -> float:
    """Of a variance that is the sum of squared residuals, one a row or cluster (Satterthwaite 1946, Biometrics Bulletin 2:110-114,
    a fourth moment being three squared variances). Where a few make it up it could as well have come out much smaller.

    Args:
        most: how many of equal size those that the residuals are of are worth.
    """
    squares = residuals**2
    spread = float((squares**2).sum())
    return min(most, 3 * float(squares.sum()) ** 2 / spread) - 1 if spread else most - 1


def difference_interval(
    counts: Discordant, alpha: float, degrees: float = math.inf, continuity: float = CONTINUITY
) -> tuple[float, float]:
    """The score interval of the difference of two paired proportions, at 1 - alpha, corrected for continuity.

    Tango T. (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17:891-908. It stays within -1 and 1, has a width when no row differs, and keeps close to its level
    from a few dozen rows on (Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875). It inverts McNemar's
    asymptotic test; corrected, that is as strict as the exact one (about 1 / n wider on either side).

    Args:
        degrees: of freedom, where the variance comes from clusters: Student's t takes the place of the normal; none says nothing.
        continuity: 0 for Tango's own.
    """
    if degrees <= 0:
        return -1.0, 1.0
    z = quantile(1 - alpha / 2, degrees)
    difference = (counts.only_first - counts.only_second) / counts.n
    low = _root(lambda delta: _score(counts, delta, continuity) - z, -1.0, difference) if difference > -1 else -1.0
    high = _root(lambda delta: _score(counts, delta, continuity) + z, difference, 1.0) if difference < 1 else 1.0
    return low, high


def wilson(right: float, n: float, alpha: float) -> tuple[float, float]:
    """Wilson's interval of a share, at 1 - alpha; fractions where rows count less than one."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, alpha=alpha, method="wilson")
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many there are (Holm 1979), in their order; each at most 1.

    As `multipletests` of statsmodels has it, which runs the garbage collector at each call: 70 ms where the rest takes 2.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def quantile(share: float, degrees: float) -> float:
    """Of Student's t, or of the normal that it becomes."""
    if math.isinf(degrees):
        return NormalDist().inv_cdf(share)
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def _score(counts: Discordant, delta: float, continuity: float) -> float:
    """Tango's score statistic for a true difference `delta`; it never rises as `delta` grows."""
    b, c, n = counts
    linear = -b - c + (2 * n - b + c) * delta
    root = math.sqrt(max(linear**2 + 8 * n * c * delta * (1 - delta), 0.0))
    only_second = (root - linear) / (4 * n)  # its likeliest probability, given delta
    variance = n * (2 * only_second + delta * (1 - delta))
    raw = b - c - n * delta
    distance = math.copysign(max(abs(raw) - continuity, 0.0), raw)
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function passes zero between `low` and `high`, to the last bit that halving can find."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
