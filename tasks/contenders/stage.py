"""Contenders that are neither prompted nor tuned, as Prefect tasks."""

from tasks.config import Hybrid, Trivial
from tasks.contenders.hybrid import CHART, Predicted, build_hybrid
from tasks.contenders.trivial import build_trivial
from tasks.orchestration.page import show_svg
from tasks.orchestration.stages import stage
from tasks.prompting.budget import Cap
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import Places
from tasks.workspace import Workspace


@stage("trivial", "trivial {kind}")
def trivial(kind: Trivial, dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    """Make one trivial contender, or find the one that was made from the same."""
    return build_trivial(kind, dataset, workspace)


@stage("hybrid", "hybrid {hybrid.name}")
def pair(
    hybrid: Hybrid,
    tuned: ContenderRecord,
    of_tuned: Predicted,
    prompt: ContenderRecord,
    of_prompt: Predicted,
    dataset: DatasetRecord,
    places: Places,
    cap: Cap,
    workspace: Workspace,
) -> ContenderRecord:
    """Pair a tuned contender with a prompted one once both were evaluated, or find the pair that was made from the same; what
    routing would cost and give is drawn on the run's page."""
    made = build_hybrid(hybrid, tuned, of_tuned.predictions, prompt, of_prompt.predictions, dataset, places, cap, workspace)
    chart = made.folder / CHART
    if chart.exists():
        show_svg(f"routing {hybrid.name}", chart, "\n".join(finding.message for finding in made.findings))
    return made
