"""The small records of this room."""

from datetime import datetime
from pathlib import Path

from tasks.records import Failure, Model


class Grade(Model):
    """What a judge says of one answer."""

    grade: str | None
    """One of the grades; None where there is no usable one."""
    confidence: float | None = None
    """The grade's share of the votes, or its probability; None where the judge gives neither: it is never made up."""
    reason: str = ""
    """What the judge said before it graded."""
    failure: Failure | None = None
    """Why there is no grade."""


class GradingFile(Model):
    """A validated file of answers, and where its grades go."""

    path: Path
    to: Path
    """In the same format."""
    sha256: str
    """Of the file's bytes."""
    rows: int
    inputs: list[str]
    """The columns that a judge sees; the last one is the answer to be graded."""
    label: str | None
    """The column with people's grades; None where the file has none."""
    names: dict[str, str] = {}
    """The grade by the value that stands in that column, where the config names them."""
    grades: list[str]
    """What may be given."""
    human_graded: int
    """Rows that a person graded."""


class Agreement(Model):
    """How a judge's grades agree with people's. Rows that say the same twice count once; a row without a grade disagrees."""

    n: int
    """Rows that both graded, each text and grade once."""
    accuracy: float
    interval: tuple[float, float]
    """Wilson's, at 95 %."""
    kappa: float | None
    """Cohen's; None where people gave one grade only, so that chance explains everything."""
    kappa_interval: tuple[float, float] | None
    """At 95 %."""
    confusion: dict[str, dict[str, int]]
    """Rows by people's grade, then by the judge's; `no grade` where it gave none."""
    failed: int
    """Rows without a grade from the judge."""


class Wording(Model):
    """The same prompt in another order."""

    inputs: list[str]
    """The columns' order."""
    labels: list[str]
    """The grades' order."""
    sections: list[int]
    """The template's sections, by their place in the original; empty where it has no marked sections."""


class Reworded(Model):
    """What one wording did."""

    wording: Wording
    stayed: float
    """Share of the rows whose grade stayed."""
    agreement: Agreement | None
    """With people, where they graded rows."""


class Consistency(Model):
    """Whether grades stay when the wording is shuffled and its meaning is not."""

    n: int
    """Rows that were asked again, each text once."""
    share: float
    """Of them, those whose grade stayed in every wording. A row without a grade did not stay."""
    wordings: list[Reworded]


class JudgeRecord(Model):
    """How far a judge can be trusted; kept in the workspace under its fingerprint."""

    fingerprint: str
    """Of the judge: its folder's content, and where it asks."""
    name: str
    kind: str
    """As in its manifest."""
    worded: bool
    """Whether it asks a model in words, which must then not decide its grades."""
    file: str
    """SHA-256 of the file that it was measured on."""
    agreement: Agreement | None = None
    consistency: Consistency | None = None
    validated: bool
    doubts: list[str]
    """Why it is not validated; empty for one that is."""


class GradedRecord(Model):
    """A run's grades: the file for its user, and `grades.parquet` for what comes after."""

    folder: Path
    """Where `grades.parquet` lies, a row a `Grade`, in the file's order."""
    rows: int
    grades: dict[str, int]
    """Rows by grade."""
    failures: dict[str, int]
    """Rows without a grade, by kind of failure."""


class GradingReport(Model):
    """The answer of `bakeoff grade`. The documented JSON of `--output json`."""

    run_id: str
    name: str
    """The config's."""
    input: str
    output: str
    """The file with the grades."""
    judge: str
    """The contender's name."""
    judge_kind: str
    judge_fingerprint: str
    rows: int
    grades: dict[str, int]
    """Rows by grade."""
    failures: dict[str, int]
    """Rows without a grade, by kind of failure."""
    agreement: Agreement | None
    """With people's grades in this file; null where it has none."""
    consistency: Consistency | None
    """On this file; null where it was not measured."""
    validated: bool
    doubts: list[str]
    """Why the judge is not validated; empty for one that is, by this file or by an earlier one."""
    spent_usd: float
    """Paid to endpoints by this run."""
    created: datetime
