"""Differences of figures that are no mean over rows (macro-F1, calibration): paired bootstrap and permutation.

A figure is a function of column sums. Every row (or cluster of rows) brings its part of the sums, for both contenders, so a
resample is a weighted sum and both contenders are always drawn together.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from types import SimpleNamespace
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
FEW_KINDS = 16
"""Rows to a kind, on average, from which on resamples draw how many rows of each kind there are: with fewer that takes longer."""
TIE = 1e-12
"""What rounding may set differences apart by that are equal."""


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

    def half_step(self) -> float:
        """Half of what the difference moves by where one row (or cluster) exchanges its answers, on average over those that differ:
        1 / n for accuracy."""
        import numpy

        gained = self.second - self.first
        gained = gained[gained.any(axis=1)]
        if not len(gained):
            return 0.0
        exchanged = self.figure(self.first.sum(axis=0) + gained) - self.figure(self.second.sum(axis=0) - gained)
        return float(numpy.abs(exchanged - self.difference()).mean()) / 2


def counted_interval(sums: Sums, alpha: float) -> tuple[float, float] | None:
    """The bootstrap interval of a figure that counts rows (macro-F1), which moves in steps: half a step wider on either side, as
    accuracy's is by its correction for continuity, and within -1 and 1. None where no resample differs from another.

    Without it the interval works at its level, not under it.
    """
    found, half = bootstrap_interval(sums, alpha), sums.half_step()
    return found and (max(-1.0, found[0] - half), min(1.0, found[1] + half))


def bootstrap_interval(sums: Sums, alpha: float, resamples: int | None = None) -> tuple[float, float] | None:
    """The BCa interval of the difference at 1 - alpha (Efron 1987), by scipy; None where no resample differs from another.

    What is drawn again spreads as a normal does, and knows nothing of how unsure its own spread is: the level is the normal's at
    Student's quantile (after Hesterberg 2015, The American Statistician 69:371-386, who does so for percentile intervals and rows
    that count alike), which for many rows is `alpha`.
    """
    import numpy
    from scipy.stats import DegenerateDataWarning, bootstrap

    rows = len(sums.first)
    kinds, codes, counts = _kinds(sums)
    cut = sums.first.shape[1]
    wanted = resamples or max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWN // rows))
    dice = numpy.random.default_rng(SEED)

    def of(counted: Any) -> Any:
        total = counted @ kinds
        return sums.figure(total[..., :cut]) - sums.figure(total[..., cut:])

    def difference(drawn: Any, axis: int) -> Any:
        return of(_counts(drawn, len(kinds)))

    if rows < 2:
        return None
    with numpy.errstate(invalid="ignore", divide="ignore"):
        degrees = sums.degrees()
    if not degrees > 0:
        return None
    level = 2 * NormalDist().cdf(-quantile(1 - alpha / 2, degrees))
    few = len(kinds) * FEW_KINDS <= rows  # then it is drawn how many of each: the same, in a fraction of the time
    with warnings.catch_warnings(), numpy.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # it comes back as an interval without bounds
        drawn = [of(dice.multinomial(rows, counts / rows, size=times)) for times in _batches(wanted, len(kinds))] if few else []
        found = bootstrap(
            (codes,),  # rows that bring the same are drawn as one kind
            difference,
            n_resamples=0 if few else wanted,
            bootstrap_result=SimpleNamespace(bootstrap_distribution=numpy.concatenate(drawn)) if few else None,
            batch=max(1, AT_ONCE // rows),
            vectorized=True,
            confidence_level=1 - level,
            method="BCa" if rows <= MOST_ROWS else "percentile",
            rng=dice,
        )
    low, high = map(float, found.confidence_interval)
    return (low, high) if numpy.isfinite([low, high]).all() and low < high else None


def permutation_p(sums: Sums, resamples: int | None = None) -> float:
    """The two-sided p-value that the two are exchangeable: each row (or cluster) keeps its answers or exchanges them.

    Of rows that bring the same it is drawn how many exchange, which is as likely as drawing row by row and takes a fraction of the
    time (a quarter to a twentieth for macro-F1 over three labels). As scipy's `permutation_test` counts, what was seen is one of
    the draws.
    """
    import numpy

    kinds, _, counts = _kinds(sums)
    cut = sums.first.shape[1]
    gained = kinds[:, cut:] - kinds[:, :cut]
    differing = gained.any(axis=1)
    gained, counts = gained[differing], counts[differing]
    if counts.sum() < 2:
        return 1.0
    dice, first, second = numpy.random.default_rng(SEED), sums.first.sum(axis=0), sums.second.sum(axis=0)

    def draw(times: int) -> Any:
        moved = dice.binomial(counts, 0.5, size=(times, len(counts))) @ gained
        return sums.figure(first + moved) - sums.figure(second - moved)

    wanted = resamples or max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWN // len(counts)))
    drawn = numpy.concatenate([draw(times) for times in _batches(wanted, len(counts))])
    seen = sums.difference()
    tails = (drawn <= seen + TIE).sum(), (drawn >= seen - TIE).sum()
    return min(1.0, 2 * (int(min(tails)) + 1) / (wanted + 1))


def _batches(wanted: int, kinds: int) -> list[int]:
    """How many resamples to draw at a time, so that memory holds `AT_ONCE` counts."""
    batch = max(1, AT_ONCE // kinds)
    return [min(batch, wanted - done) for done in range(0, wanted, batch)]


def _kinds(sums: Sums) -> tuple[Any, Any, Any]:
    """Rows that bring the same to both: the kinds [kinds, 2 k], the kind of each row, and the rows of each kind."""
    import numpy

    both = numpy.concatenate([sums.first, sums.second], axis=1)
    kinds, codes, counts = numpy.unique(both, axis=0, return_inverse=True, return_counts=True)
    return kinds, codes.reshape(-1).astype(numpy.int32), counts


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
