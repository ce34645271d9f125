"""Rows that belong together (one person's, one document's): how many rows they are worth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.data.examples import read_examples
from tasks.records import DatasetRecord, Split

if TYPE_CHECKING:
    import numpy


def read_clusters(dataset: DatasetRecord, split: Split) -> list[str]:
    """What each row of a split belongs to; empty where the data name nothing of the kind."""
    return [example.columns[dataset.cluster] for example in read_examples(dataset, split)] if dataset.cluster else []


def design_effect(values: "Sequence[Any] | numpy.ndarray", clusters: "Sequence[Any] | numpy.ndarray") -> float:
    """By how much the variance of a mean grows because rows belong together, at least 1: so many rows are worth one.

    By the variance between clusters (linearised, as for survey samples; Rao and Scott 1992, Biometrics 48:577-585). Where no two
    values differ it cannot be seen, and the most that it could be is taken: that the rows of a cluster are all alike.

    Args:
        values: a number a row.
        clusters: what each row belongs to.
    """
    import numpy

    figures, codes = numpy.asarray(values, dtype=float), numpy.unique(numpy.asarray(clusters), return_inverse=True)[1]
    n, sizes = len(figures), numpy.bincount(codes)
    most = float((sizes.astype(float) ** 2).sum() / n)
    spread = float(numpy.var(figures, ddof=1)) / n if n > 1 else 0.0
    if len(sizes) < 2 or spread == 0:
        return max(1.0, most)
    residuals = numpy.bincount(codes, weights=figures - figures.mean())
    between = len(sizes) / (len(sizes) - 1) * float((residuals**2).sum()) / n**2
    return max(1.0, between / spread)


def effective_clusters(sizes: "Sequence[int] | numpy.ndarray") -> float:
    """How many clusters of equal size these are worth (Kish 1965, *Survey Sampling*): a few large ones count for little more than
    themselves, however many small ones there are."""
    import numpy

    rows = numpy.asarray(sizes, dtype=float)
    return float(rows.sum() ** 2 / (rows**2).sum())
