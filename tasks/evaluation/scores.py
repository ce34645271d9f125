"""From predictions to the scores of one contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig
from tasks.data.predictions import read_predictions
from tasks.evaluation.cost import beside_usd, usd_per_1000
from tasks.evaluation.predictions import predict
from tasks.records import ContenderRecord, DatasetRecord, Latency, Prediction, PredictionsRecord, Scores, ScoresRecord
from tasks.settings import Places, Settings
from tasks.workspace import Building, Stage, Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap

STAGE = Stage("scores", 2, ("tasks.evaluation.scores", "tasks.evaluation.cost", "tasks.metrics"))


@dataclass(frozen=True)
class Evaluation:
    """What evaluating one contender gives."""

    predictions: PredictionsRecord
    scores: ScoresRecord


def evaluate(
    contender: ContenderRecord, dataset: DatasetRecord, places: Places, cap: "Cap", config: BakeoffConfig, workspace: Workspace
) -> Evaluation:
    """A contender's predictions on dev and test, and their scores; errors as of `predict`."""
    predictions = predict(contender, dataset, places, cap, workspace, config.budget.max_failed)
    return Evaluation(predictions, score(contender, predictions, dataset, config.gate.alpha, places.settings, workspace))


def score(
    contender: ContenderRecord,
    predictions: PredictionsRecord,
    dataset: DatasetRecord,
    alpha: float,
    settings: Settings,
    workspace: Workspace,
) -> ScoresRecord:
    """The contender's scores on dev and test, and on both together where they were one split of the source.

    Args:
        alpha: intervals cover 1 - alpha.
        settings: say what an hour of the machine costs; with another price the scores are made anew, the predictions not.
    """
    price, beside = settings.hourly_price(predictions.machine), beside_usd(predictions, settings)

    def build(building: Building) -> ScoresRecord:
        by_split = {split: read_predictions(predictions, split) for split in ("dev", "test")}
        whole = [*by_split["dev"], *by_split["test"]]

        def scores(rows: Sequence[Prediction]) -> Scores:
            return score_rows(rows, predictions.rows_per_second, price, alpha, bool(dataset.labels), beside)

        return ScoresRecord(
            contender=contender.name,
            arm=contender.arm,
            of=contender.fingerprint,
            dev=scores(by_split["dev"]),
            test=scores(by_split["test"]),
            whole=scores(whole) if dataset.halved else None,
            failures=predictions.failures,
        )

    config = {"alpha": alpha, "usd_per_hour": price} | ({"beside_usd": beside} if predictions.beside else {})
    return workspace.produce(STAGE, [predictions.fingerprint], config, ScoresRecord, build, f"scores {contender.name}")


def score_rows(
    rows: Sequence[Prediction],
    rows_per_second: float,
    usd_per_hour: float | None,
    alpha: float,
    classification: bool,
    beside: float | None = 0.0,
) -> Scores:
    """The scores of some rows of one contender; a row without a usable answer is wrong. Costs as of `usd_per_1000`."""
    from statsmodels.stats.proportion import proportion_confint

    from tasks.metrics import accuracy, macro_f1

    right = sum(row.correct for row in rows)
    low, high = proportion_confint(right, len(rows), alpha=alpha, method="wilson")
    return Scores(
        accuracy=accuracy([row.correct for row in rows], [True] * len(rows)),
        interval=(float(low), float(high)),
        macro_f1=macro_f1([row.label for row in rows], [row.reference for row in rows]) if classification else None,
        n=len(rows),
        failed=sum(row.failure is not None for row in rows),
        cost_usd_per_1000=usd_per_1000(rows, rows_per_second, usd_per_hour, beside),
        latency_ms=latency([row.latency_ms for row in rows if row.latency_ms is not None]),
    )


def latency(milliseconds: Sequence[float]) -> Latency:
    """The median and the 95th percentile; null where no row was timed by itself."""
    import numpy

    if not milliseconds:
        return Latency(p50=None, p95=None)
    p50, p95 = numpy.percentile(milliseconds, [50, 95])
    return Latency(p50=float(p50), p95=float(p95))
