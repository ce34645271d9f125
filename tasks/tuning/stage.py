"""The Train stage as a Prefect task."""

from tasks.bases import ResolvedBase
from tasks.config import Tuned
from tasks.orchestration import stage
from tasks.records import ContenderRecord, DatasetRecord, TokensRecord
from tasks.tuning.tune import tune
from tasks.workspace import Workspace


@stage("train", "train {tuned.name}")
def train(
    tuned: Tuned, dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, workspace: Workspace, samples: list[str]
) -> ContenderRecord:
    """Train one contender, or find the one that was trained from the same."""
    return tune(tuned, dataset, tokens, base, workspace, samples)
