"""Would more labels help? The same recipe on 12, 25, 50 and 100 % of train, and a power law through its errors on dev.

    products/learning_curve/<fingerprint>/learning_curve.svg

Parts are nested, stratified and chosen by hash (`batches.part_of`). A small part is trained for more epochs, so that it lacks
labels rather than steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tasks.records import ContenderRecord, CurvePoint, CurveRecord, DatasetRecord
from tasks.workspace import Building, Stage, Workspace

CURVE = Stage("learning_curve", 3, ("tasks.tuning.learning_curve", "tasks.tuning.charts"))
CHART = "learning_curve.svg"
SHARES = (0.12, 0.25, 0.5)
DRAWS = 4000
HARDLY = 0.01
"""A gain that is surely below this is hardly one."""


class Law(NamedTuple):
    """A power law of the odds of an error, with what twice the labels would give by it."""

    intercept: float
    slope: float
    gain: float
    interval: tuple[float, float]


def learning_curve(
    contender: ContenderRecord, train: Callable[[float], ContenderRecord], dataset: DatasetRecord, workspace: Workspace
) -> CurveRecord:
    """Train on parts of train, or find what they gave.

    Args:
        contender: trained on the whole.
        train: trains the same recipe on a share of train.
    """

    def build(building: Building) -> CurveRecord:
        made = [(share, train(share)) for share in SHARES] + [(1.0, contender)]
        points = [_point(share, each, dataset) for share, each in made]
        assert contender.training
        dev_rows = contender.training.dev_rows
        law = fit(points, dev_rows)
        curve = CurveRecord(
            points=points,
            intercept=law.intercept,
            slope=law.slope,
            gain=law.gain,
            gain_interval=law.interval,
            sentence=more_labels(law.gain, law.interval, dev_rows),
        )
        from tasks.tuning.charts import draw_curve

        draw_curve(curve, dev_rows, building.folder / CHART)
        return curve

    inputs = [contender.fingerprint, dataset.fingerprint]
    return workspace.produce(CURVE, inputs, {"shares": SHARES}, CurveRecord, build, f"learning curve {contender.name}")


def epochs_of(epochs: int, share: float) -> int:
    """How many epochs a part is trained for: between as many epochs and as many steps as the whole (the mean of both by ratio)."""
    return math.ceil(epochs / math.sqrt(share))


def rows_of(share: float, label_rows: dict[str, int], rows: int) -> int:
    """How many of so many train rows a share has: of each label as large a part, rounded up; of all where there are no labels."""
    return sum(math.ceil(share * count) for count in label_rows.values() or [rows])


def fit(points: Sequence[CurvePoint], dev_rows: int) -> Law:
    """The law that makes the errors on dev likeliest, and the gain of twice the labels with its 95 % interval.

    The points share dev's rows, which are taken for independent: their errors go up and down together, so that the interval is
    rather too wide. Half an error is added to each point, so that none has the odds 0. Where the points lie further from any such
    law than chance would put them (Pearson's statistic above its degrees of freedom), the interval is as much wider.
    """
    import numpy
    import statsmodels.api as models
    from scipy.stats import multivariate_t

    rows = numpy.array([point.rows for point in points], dtype=float)
    errors = numpy.array([(1 - point.dev_accuracy) * dev_rows for point in points]) + 0.5
    across = models.add_constant(numpy.log(rows))
    found = models.GLM(numpy.column_stack([errors, dev_rows + 1 - errors]), across, family=models.families.Binomial()).fit()
    misfit = max(1.0, float(found.pearson_chi2 / found.df_resid))
    drawn = multivariate_t(found.params, misfit * found.cov_params(), df=found.df_resid if misfit > 1 else numpy.inf, seed=0).rvs(
        DRAWS
    )
    gains = [accuracy_at(a, b, 2 * rows[-1]) - accuracy_at(a, b, rows[-1]) for a, b in [found.params, *drawn]]
    low, high = numpy.quantile(gains[1:], [0.025, 0.975])
    return Law(float(found.params[0]), float(found.params[1]), float(gains[0]), (float(low), float(high)))


def accuracy_at(intercept: float, slope: float, rows: float) -> float:
    """Accuracy by the law."""
    return 1 / (1 + math.exp(intercept + slope * math.log(rows)))


def more_labels(gain: float, interval: tuple[float, float], dev_rows: int) -> str:
    """Whether more labels would help, in a sentence."""
    low, high = (100 * bound for bound in interval)
    figures = f"{100 * gain:+.1f} points on dev [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"More labels should help: twice as many are worth about {figures}."
    if high < 100 * HARDLY:
        return f"More labels would hardly help: twice as many are worth {figures}."
    return (
        f"Whether more labels would help cannot be told from {dev_rows} dev rows: twice as many are worth {figures}, which is "
        "within the noise; a larger dev would tell."
    )


def _point(share: float, made: ContenderRecord, dataset: DatasetRecord) -> CurvePoint:
    from statsmodels.stats.proportion import proportion_confint

    assert made.training
    best, dev_rows = made.training.dev_accuracy, made.training.dev_rows
    low, high = proportion_confint(round(best * dev_rows), dev_rows, alpha=0.05, method="wilson")
    rows = rows_of(share, dataset.label_rows.get("train", {}), dataset.rows["train"])
    return CurvePoint(share=share, rows=rows, dev_accuracy=best, interval=(float(low), float(high)))
