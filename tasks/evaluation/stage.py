"""The room's Prefect task."""

from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig
from tasks.evaluation import scores
from tasks.evaluation.scores import Evaluation
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import Places
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.grading.judge import Judge
    from tasks.prompting.budget import Cap


@stage("evaluate", run_name="evaluate {contender.name}")
def evaluate(
    contender: ContenderRecord,
    dataset: DatasetRecord,
    places: Places,
    cap: "Cap",
    config: BakeoffConfig,
    workspace: Workspace,
    grader: "Judge | None" = None,
) -> Evaluation:
    """Predict dev and test with one contender, and score it, or find what was predicted and scored."""
    return scores.evaluate(contender, dataset, places, cap, config, workspace, grader)
