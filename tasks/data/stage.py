"""The Prefect tasks of this room."""

from tasks.bases import ResolvedBase
from tasks.config import Dataset, Tuned
from tasks.data import load as loading
from tasks.data import tokenize as tokenizing
from tasks.orchestration import stage
from tasks.records import DatasetRecord, TokensRecord
from tasks.settings import Settings
from tasks.workspace import Workspace


@stage("load")
def load(dataset: Dataset, settings: Settings, workspace: Workspace) -> DatasetRecord:
    """The validated splits of the data set."""
    return loading.load(dataset, settings, workspace)


@stage("tokenize", "tokenize {tuned.name}")
def tokenize(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace) -> TokensRecord:
    """Token ids of every split for one base model."""
    return tokenizing.tokenize(tuned, dataset, base, workspace)
