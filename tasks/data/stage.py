"""The Prefect tasks of this room."""

from tasks.bases import ResolvedBase
from tasks.config import Dataset, Tuned
from tasks.data import load as loading
from tasks.data import tokenize as tokenizing
from tasks.orchestration.page import show_table
from tasks.orchestration.stages import stage
from tasks.records import SPLITS, DatasetRecord, TokensRecord
from tasks.settings import Settings
from tasks.workspace import Workspace


@stage("load", "load {dataset.source}")
def load(dataset: Dataset, settings: Settings, workspace: Workspace) -> DatasetRecord:
    """The validated splits of the data set, with their labels and what was dropped on the run's page."""
    loaded = loading.load(dataset, settings, workspace)
    show_table(
        "splits", [{"split": split, "rows": loaded.rows[split], **loaded.label_rows[split]} for split in SPLITS], loaded.source
    )
    show_table("findings", [finding.model_dump() for finding in loaded.findings], "What validation dropped or mended")
    return loaded


@stage("tokenize", "tokenize {tuned.name}")
def tokenize(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace) -> TokensRecord:
    """Token ids of every split for one base model, with what truncation cut on the run's page."""
    tokens = tokenizing.tokenize(tuned, dataset, base, workspace)
    counts = {"rows": tokens.rows, "tokens": tokens.tokens, "rows cut": tokens.rows_cut, "tokens cut": tokens.tokens_cut}
    rows = [{"split": split, **{name: count[split] for name, count in counts.items()}} for split in SPLITS]
    show_table(f"tokens {tuned.name}", rows, f"{tokens.base}, at most {tuned.max_tokens} tokens a row")
    return tokens
