"""From predictions to the scores of one contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.config import BakeoffConfig
from tasks.data.predictions import read_predictions
from tasks.evaluation.clusters import design_effect, read_clusters
from tasks.evaluation.cost import beside_usd, money_of, training_usd, usd_per_1000
from tasks.evaluation.predictions import predict
from tasks.records import ContenderRecord, DatasetRecord, Latency, Prediction, PredictionsRecord, Scores, ScoresRecord, Split
from tasks.settings import Places, Settings
from tasks.workspace import Building, Stage, Workspace, digest

if TYPE_CHECKING:
    from tasks.grading.judge import Judge
    from tasks.prompting.budget import Cap

STAGE = Stage("scores", 4, ("tasks.evaluation.scores", "tasks.evaluation.cost", "tasks.evaluation.clusters", "tasks.metrics"))
SCORED: tuple[Split, ...] = ("dev", "test")


@dataclass(frozen=True)
class Evaluation:
    """What evaluating one contender gives."""

    predictions: PredictionsRecord
    scores: ScoresRecord


def evaluate(
    contender: ContenderRecord,
    dataset: DatasetRecord,
    places: Places,
    cap: "Cap",
    config: BakeoffConfig,
    workspace: Workspace,
    grader: "Judge | None" = None,
) -> Evaluation:
    """A contender's predictions on dev and test, and their scores; errors as of `predict`.

    Args:
        grader: goes over free-text answers that are not their reference's text; as `config.grader` says.
    """
    predictions = predict(contender, dataset, places, cap, workspace, config.budget.max_failed)
    if grader and config.grader:
        from tasks.evaluation.graded import regrade

        predictions = regrade(predictions, dataset, grader, config.grader.right, workspace)
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
    clusters = {split: read_clusters(dataset, split) for split in SCORED}

    def build(building: Building) -> ScoresRecord:
        by_split = {split: read_predictions(predictions, split) for split in SCORED}

        def scores(*splits: Split) -> Scores:
            rows = [row for split in splits for row in by_split[split]]
            belongs = [cluster for split in splits for cluster in clusters[split]]
            return score_rows(rows, predictions.rows_per_second, price, alpha, bool(dataset.labels), beside, belongs)

        return ScoresRecord(
            contender=contender.name,
            arm=contender.arm,
            of=contender.fingerprint,
            dev=scores("dev"),
            test=scores("test"),
            whole=scores("dev", "test") if dataset.halved else None,
            money=money_of(contender, predictions, by_split["test"], settings),
            failures=predictions.failures,
        )

    config: dict[str, Any] = {"alpha": alpha, "usd_per_hour": price, "training_usd": training_usd(contender, settings)}
    config |= {"beside_usd": beside} if predictions.beside else {}
    config |= {"clusters": digest(clusters)} if dataset.cluster else {}
    return workspace.produce(STAGE, [predictions.fingerprint], config, ScoresRecord, build, f"scores {contender.name}")


def score_rows(
    rows: Sequence[Prediction],
    rows_per_second: float,
    usd_per_hour: float | None,
    alpha: float,
    classification: bool,
    beside: float | None = 0.0,
    clusters: Sequence[str] = (),
) -> Scores:
    """The scores of some rows of one contender; a row without a usable answer is wrong. Costs as of `usd_per_1000`.

    Args:
        clusters: what each row belongs to; empty where each stands alone. Rows that are alike make the interval wider.
    """
    from statsmodels.stats.proportion import proportion_confint

    from tasks.metrics import accuracy, brier, calibration_error, macro_f1

    right = [row.correct for row in rows]
    effect = design_effect(right, clusters) if clusters else 1.0
    low, high = proportion_confint(sum(right) / effect, len(rows) / effect, alpha=alpha, method="wilson")
    sure = [row for row in rows if row.probability is not None]
    confidence = [row.probability or 0.0 for row in sure], [row.correct for row in sure]
    return Scores(
        accuracy=accuracy(right, [True] * len(rows)),
        interval=(float(low), float(high)),
        macro_f1=macro_f1([row.label for row in rows], [row.reference for row in rows]) if classification else None,
        n=len(rows),
        failed=sum(row.failure is not None for row in rows),
        brier=brier(*confidence) if sure else None,
        ece=calibration_error(*confidence) if sure else None,
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
