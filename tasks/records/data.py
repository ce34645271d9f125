"""The data set and its tokens."""

from tasks.records.base import Finding, Record


class DatasetRecord(Record):
    """Validated splits: `train.parquet`, `dev.parquet` and `test.parquet`, a row an `Example`. The fingerprint is of content."""

    source: str
    """As in the config."""
    revision: str
    """The revision that was read (a commit), or the SHA-256 of the files."""
    inputs: list[str]
    """The input columns."""
    labels: list[str]
    """The label names, in their fixed order."""
    cluster: str = ""
    """The column whose rows belong together; empty where there is none."""
    slices: list[str] = []
    """Columns that test rows are sliced by."""
    rows: dict[str, int]
    """Rows by split."""
    label_rows: dict[str, dict[str, int]]
    """Rows by split and label."""
    halved: bool = False
    """Whether dev and test were made from one split of the source, so that a figure on the whole of it makes sense."""
    findings: list[Finding] = []
    """What was dropped or mended."""


class TokensRecord(Record):
    """Token ids of every split for one base model, in a `datasets` folder a split."""

    base: str
    revision: str
    rows: dict[str, int]
    tokens: dict[str, int]
    """Tokens kept, by split."""
    rows_cut: dict[str, int]
    """Rows that were truncated, by split."""
    tokens_cut: dict[str, int]
    """Tokens that truncation dropped, by split."""
    findings: list[Finding] = []
