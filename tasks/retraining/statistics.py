"""The tests behind drift and falling quality. Pure functions: counts and texts in, figures out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

RESAMPLES = 9_999
DOUBT = 0.1
"""The share of alpha that is spent on not knowing how good the champion really was on test."""


class Shift(NamedTuple):
    """How far two samples are apart, and how likely at least so far is by chance."""

    effect: float
    p_value: float


def text_shift(before: Sequence[str], now: Sequence[str]) -> Shift:
    """How well a classifier tells new texts from old ones: the area under its curve (0.5 is chance), with a one-sided p-value.

    It learns from one half of both and is tested on the other, so there the ranks of its scores are exchangeable if nothing
    changed, and Mann and Whitney's test holds (Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests, ICLR).
    """
    import numpy
    from scipy.stats import mannwhitneyu
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    orders = [numpy.random.default_rng(0).permutation(len(texts)) for texts in (before, now)]
    both = list(zip((before, now), orders, strict=True))
    learned, tested = ([[texts[place] for place in order[part::2]] for texts, order in both] for part in (0, 1))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=50_000)
    rows = words.fit_transform([*learned[0], *learned[1]])
    told = LogisticRegression(max_iter=1000, class_weight="balanced").fit(rows, _sides(learned))
    scores = [told.decision_function(words.transform(texts)) for texts in tested]
    found = mannwhitneyu(scores[1], scores[0], alternative="greater")
    return Shift(float(found.statistic) / (len(tested[0]) * len(tested[1])), float(found.pvalue))


def label_shift(before: Mapping[str, int], now: Mapping[str, int]) -> Shift:
    """The share of rows that went from some labels to others, with the p-value of a chi-square test by random tables of the same
    margins, which holds for rare labels too."""
    import numpy
    from scipy.stats import MonteCarloMethod, chi2_contingency

    labels = sorted(label for label in {*before, *now} if before.get(label) or now.get(label))
    table = numpy.array([[counts.get(label, 0) for label in labels] for counts in (before, now)])
    if len(labels) < 2:
        return Shift(0.0, 1.0)
    shares = table / table.sum(axis=1, keepdims=True)
    chance = MonteCarloMethod(n_resamples=RESAMPLES, rng=numpy.random.default_rng(0))
    found = chi2_contingency(table, correction=False, method=chance)
    return Shift(float(numpy.abs(shares[0] - shares[1]).sum() / 2), float(found.pvalue))


def fall(right: int, rows: int, right_before: int, rows_before: int, margin: float, alpha: float) -> float:
    """The one-sided p-value that accuracy is now less than `margin` below what it was, by exact binomials.

    What it was is itself only known from so many rows: the lower end of Clopper and Pearson's interval stands for it, and the
    chance that the truth lies below that is added (Berger and Boos 1994, JASA 89:1012), so the level holds.
    """
    from scipy.stats import binomtest

    doubt = DOUBT * alpha
    least = binomtest(right_before, rows_before, alternative="greater").proportion_ci(1 - doubt, method="exact").low
    if least <= margin:
        return 1.0
    return min(1.0, float(binomtest(right, rows, least - margin, alternative="less").pvalue) + doubt)


def _sides(learned: Sequence[Sequence[str]]) -> list[int]:
    return [0] * len(learned[0]) + [1] * len(learned[1])


def count(labels: Sequence[str | None], none: str) -> dict[str, int]:
    """Rows by label; `none` where there is none."""
    return dict(Counter(none if label is None else label for label in labels))
