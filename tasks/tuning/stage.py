"""The room's Prefect tasks."""

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Tuned
from tasks.orchestration import stage
from tasks.records import ContenderRecord, DatasetRecord, TokensRecord
from tasks.settings import Settings
from tasks.tuning.tune import tune
from tasks.workspace import Workspace


@stage("base", "base {tuned.base}")
def find_base(tuned: Tuned, settings: Settings) -> ResolvedBase:
    """Where the base model lies on this machine, downloaded where it must be."""
    return resolve_base(tuned.base, tuned.revision, settings)


@stage("train", "train {tuned.name}")
def train(
    tuned: Tuned, dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, workspace: Workspace, samples: list[str]
) -> ContenderRecord:
    """Train one contender, or find the one that was trained from the same."""
    return tune(tuned, dataset, tokens, base, workspace, samples)
