"""The small records of this room."""

from datetime import datetime
from pathlib import Path

from tasks.records import Champion, Model, Record


class PredictFile(Model):
    """A file that can be read, and where its rows go with their predictions."""

    path: Path
    to: Path
    """In the same format."""
    sha256: str
    """Of the file's bytes."""
    rows: int


class PredictedRecord(Record):
    """A contender's answers to the rows of one file: `chunks/<number>.parquet`, a row an `Answer`, in the file's order."""

    rows: int
    labels: dict[str, int]
    """Rows by label."""
    failures: dict[str, int]
    """Rows without a usable answer, by kind."""
    cost_usd: float
    """Paid to endpoints for these rows, whenever that was."""


class PredictedFile(Model):
    """What became of one file."""

    input: str
    output: str
    rows: int
    labels: dict[str, int]
    """Rows by label; empty for free text."""
    failures: dict[str, int]
    """Rows without a usable answer, by kind."""
    cost_usd: float
    """Paid to endpoints for these rows, by this run or an earlier one."""
    reused: bool
    """Whether all of it had been predicted before."""


class PredictionReport(Model):
    """The answer of `bakeoff predict CONFIG --input FILE --to FILE`. The documented JSON of `--output json`."""

    run_id: str
    name: str
    """The bake-off's."""
    champion: Champion
    files: list[PredictedFile]
    rows: int
    labels: dict[str, int]
    """Rows by label, over all files."""
    failures: dict[str, int]
    """Rows without a usable answer, by kind, over all files."""
    spent_usd: float
    """Paid to endpoints by this run."""
    created: datetime
