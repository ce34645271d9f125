"""Differences of figures that are no mean over rows (macro-F1, calibration): paired bootstrap and permutation.

A figure is a function of column sums. Every row (or cluster of rows) brings its part of the sums, for both contenders, so a
resample is a weighted sum and both contenders are always drawn together.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from tasks.evaluation.clusters import effective_clusters
from tasks.verdict.statistics import degrees_of_freedom, quantile

if TYPE_CHECKING:
    import numpy

RESAMPLES = 9999
FEWEST_RESAMPLES = 1999
"""With many rows there are fewer resamples, down to this."""
MOST_DRAWN = 50_000_000
"""Rows drawn for one interval, about."""
MOST_ROWS = 5_000
"""With more rows (or clusters) the correction for skewness, for which scipy takes their square, is negligible and left out."""
AT_ONCE = 2_000_000
SEED = 0


@dataclass(frozen=True)
class Sums:
    """A figure of two contenders on the same rows."""

    first: "numpy.ndarray"
    """[rows, k]: what each row brings to the first contender's sums."""
    second: "numpy.ndarray"
    figure: Callable[[Any], Any]
    """From sums [..., k] to the figure [...]."""
    sizes: "numpy.ndarray | None" = None
    """Rows of each cluster; None where every row stands alone."""

    def difference(self) -> float:
        return float(self.figure(self.first.sum(axis=0)) - self.figure(self.second.sum(axis=0)))

    def by_cluster(self, clusters: "numpy.ndarray | None") -> "Sums":
        """The same with whole clusters in the place of rows."""
        if clusters is None:
            return self
        import numpy

        return Sums(_gather(self.first, clusters), _gather(self.second, clusters), self.figure, numpy.bincount(clusters))

    def degrees(self) -> float:
        """Degrees of freedom of the difference's variance, by what it becomes without each row (or cluster) in turn: few where it
        hangs on a few of them, such as the rows of a rare label."""
        first, second = self.first.sum(axis=0), self.second.sum(axis=0)
        without = self.figure(first - self.first) - self.figure(second - self.second)
        most = float(len(self.first)) if self.sizes is None else effective_clusters(self.sizes)
        return degrees_of_freedom(without - without.mean(), most)


def bootstrap_interval(sums: Sums, alpha: float, resamples: int | None = None) -> tuple[float, float] | None:
    """The BCa interval of the difference at 1 - alpha (Efron 1987), by scipy; None where no resample differs from another.

    What is drawn again spreads as a normal does, and knows nothing of how unsure its own spread is: the level is the normal's at
    Student's quantile (after Hesterberg 2015, The American Statistician 69:371-386, who does so for percentile intervals and rows
    that count alike), which for many rows is `alpha`.
    """
    import numpy
    from scipy.stats import DegenerateDataWarning, bootstrap

    rows = len(sums.first)
    kinds, codes = numpy.unique(numpy.concatenate([sums.first, sums.second], axis=1), axis=0, return_inverse=True)
    cut = sums.first.shape[1]

    def difference(drawn: Any, axis: int) -> Any:
        total = _counts(drawn, len(kinds)) @ kinds
        return sums.figure(total[..., :cut]) - sums.figure(total[..., cut:])

    if rows < 2:
        return None
    with numpy.errstate(invalid="ignore", divide="ignore"):
        degrees = sums.degrees()
    if not degrees > 0:
        return None
    level = 2 * NormalDist().cdf(-quantile(1 - alpha / 2, degrees))
    with warnings.catch_warnings(), numpy.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # it comes back as an interval without bounds
        found = bootstrap(
            (codes.astype(numpy.int32),),  # rows that bring the same are drawn as one kind
            difference,
            n_resamples=resamples or max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWN // rows)),
            batch=max(1, AT_ONCE // rows),
            vectorized=True,
            confidence_level=1 - level,
            method="BCa" if rows <= MOST_ROWS else "percentile",
            rng=numpy.random.default_rng(SEED),
        )
    low, high = map(float, found.confidence_interval)
    return (low, high) if numpy.isfinite([low, high]).all() and low < high else None


def permutation_p(sums: Sums, resamples: int | None = None) -> float:
    """The two-sided p-value that the two are exchangeable: rows (or clusters) exchange their answers, by scipy."""
    import numpy
    from scipy.stats import permutation_test

    rows = len(sums.first)
    differing = (sums.first != sums.second).any(axis=1)
    here, there = sums.first[differing], sums.second[differing]
    alike = sums.first[~differing].sum(axis=0)
    if len(here) < 2:
        return 1.0

    def difference(one: Any, _other: Any, axis: int) -> Any:
        exchanged = one >= len(here)  # a place of the second half stands in the first
        moved = exchanged @ (there - here)
        return sums.figure(alike + here.sum(axis=0) + moved) - sums.figure(alike + there.sum(axis=0) - moved)

    places = numpy.arange(len(here))
    found = permutation_test(
        (places, places + len(here)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples or max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWN // rows)),
        batch=max(1, AT_ONCE // len(here)),
        rng=numpy.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _counts(drawn: Any, kinds: int) -> Any:
    """How many rows of each kind were drawn, for each resample: [resamples, kinds]."""
    import numpy

    drawn = numpy.asarray(drawn)
    flat = drawn.reshape(-1, drawn.shape[-1])
    shifted = flat + kinds * numpy.arange(len(flat), dtype=numpy.int64)[:, None]
    counts = numpy.bincount(shifted.ravel(), minlength=kinds * len(flat)).reshape(len(flat), kinds)
    return counts.reshape(*drawn.shape[:-1], kinds).astype(float)


def _gather(parts: "numpy.ndarray", clusters: "numpy.ndarray") -> "numpy.ndarray":
    import numpy

    gathered = numpy.zeros((int(clusters.max()) + 1, parts.shape[1]))
    numpy.add.at(gathered, clusters, parts)
    return gathered
