"""All pictures of a report, drawn once for the same figures and kept."""

from tasks.records import Record, Verdict
from tasks.reporting.charts.contenders import (
    MOST_LABELS,
    draw_confusion,
    draw_epochs,
    draw_learning,
    draw_loss,
    draw_reliability,
    draw_search,
)
from tasks.reporting.charts.drawing import slug
from tasks.reporting.charts.verdict import cost_and_figure, draw_differences, draw_front, draw_slices
from tasks.reporting.records import Evidence, Reading
from tasks.workspace import Building, Stage, Workspace

MODULES = ("pictures", "charts.drawing", "charts.contenders", "charts.verdict")
STAGE = Stage("pictures", 5, tuple(f"tasks.reporting.{module}" for module in MODULES), shared=False)


class Pictures(Record):
    """SVG elements by name."""

    svg: dict[str, str]


def find_pictures(verdict: Verdict, evidence: Evidence | None, workspace: Workspace) -> dict[str, str]:
    """The pictures of a report by name: kept ones, or drawn now."""
    drawn = {
        "metric": verdict.metric,
        "comparisons": verdict.comparisons,
        "slices": verdict.slices,
        "contenders": [
            [line.name, line.finalist, line.pareto, cost_and_figure(line, verdict.metric)] for line in verdict.contenders
        ],
    }

    def build(_: Building) -> Pictures:
        return Pictures(svg=_of_verdict(verdict) | _of_readings(evidence.readings if evidence else []))

    return workspace.produce(STAGE, [evidence.fingerprint] if evidence else [], drawn, Pictures, build).svg


def _of_verdict(verdict: Verdict) -> dict[str, str]:
    found: dict[str, str] = {}
    if verdict.comparisons:
        found["differences"] = draw_differences(verdict.comparisons)
    placed = [(line, place) for line in verdict.contenders if (place := cost_and_figure(line, verdict.metric))]
    if placed:
        found["front"] = draw_front([(line, *place) for line, place in placed])
    finalists = [line.name for line in verdict.contenders if line.finalist]
    for column in dict.fromkeys(each.column for each in verdict.slices):
        mine = [each for each in verdict.slices if each.column == column and each.contender in finalists]
        if mine:
            found[slug("slices", column)] = draw_slices(column, mine, finalists)
    return found


def _of_readings(readings: list[Reading]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in readings:
        name = each.contender
        if each.confusion and len(each.confusion.labels) <= MOST_LABELS:
            found[slug("confusion", name)] = draw_confusion(name, each.confusion)
        if each.bins:
            found[slug("reliability", name)] = draw_reliability(name, each.bins)
        if each.training and each.training.losses and each.training.epochs:
            found[slug("loss", name)] = draw_loss(name, each.training)
        if each.training and each.training.epochs:
            found[slug("epochs", name)] = draw_epochs(name, each.training)
        if each.curve:
            found[slug("learning", name)] = draw_learning(name, each.curve)
        if each.sweep:
            found[slug("search", name)] = draw_search(name, each.sweep)
    return found
