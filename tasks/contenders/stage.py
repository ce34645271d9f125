"""Trivial contenders as a Prefect task."""

from tasks.config import Trivial
from tasks.contenders.trivial import build_trivial
from tasks.orchestration import stage
from tasks.records import ContenderRecord, DatasetRecord
from tasks.workspace import Workspace


@stage("trivial", "trivial {kind}")
def trivial(kind: Trivial, dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    """Make one trivial contender, or find the one that was made from the same."""
    return build_trivial(kind, dataset, workspace)
