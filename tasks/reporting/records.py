"""What is kept of a run, and what a report is made of: pure records, no drawing and no markup."""

from datetime import datetime
from typing import Any

from tasks.records import Arm, CurveRecord, DatasetRecord, Decision, Finding, Model, Record, Repeats, SweepRecord, TrainingFacts
from tasks.registry.lineage import Environment


class KeptContender(Model):
    """Where a contender's products lie."""

    name: str
    arm: Arm
    kind: str
    fingerprint: str
    folder: str
    """Its folder; like all folders here relative to the workspace where it lies there, so that a home may be moved."""
    predictions: str
    """Fingerprint of its predictions."""
    predictions_folder: str
    spent_usd: float
    """Paid to endpoints when the predictions were made, by this run or by the one whose product it reuses."""
    requests: int
    machine: str
    base: str = ""
    """What a tuned contender was trained from; empty for others, and in runs of earlier releases."""
    revision: str = ""
    """Of the base, as it was found; of a folder the SHA-256 of its files."""
    findings: list[Finding] = []
    """Of its tokens, of what was tried for it, and of its training."""
    curve: CurveRecord | None = None
    sweep: SweepRecord | None = None
    repeats: Repeats | None = None


class KeptRun(Model):
    """`run.json`, beside the run's `verdict.json`: what the verdict leaves out and a report needs."""

    run_id: str
    config: dict[str, Any]
    """The bake-off's config as it was, defaults filled in."""
    dataset: DatasetRecord
    dataset_folder: str
    contenders: list[KeptContender]
    judgement: str
    """Fingerprint of what the gate found."""
    environment: Environment


class Confusion(Model):
    """Test rows by what is right and by what was answered."""

    labels: list[str]
    cells: list[tuple[int, int, int]]
    """The right label, the answered one (one more than the last: no usable answer), and how many rows; those with none left out."""


class Bin(Model):
    """Test rows whose answer came with a probability in one range."""

    low: float
    high: float
    rows: int
    probability: float
    """Mean."""
    right: float
    """The share that was right."""


class Text(Model):
    """Data to be shown: a text, or its beginning."""

    text: str
    characters: int
    """Of the whole text; more than are shown where it was cut."""


class Said(Model):
    """One contender's answer to one row."""

    contender: str
    label: Text | None
    """What was read from the answer, or the answer itself where it is free text; None where there is no usable one."""
    probability: float | None
    correct: bool
    failure: str | None
    raw: Text | None = None
    """The answer itself, where no label could be read from it."""


class ShownRow(Model):
    """A test row, with what was said to it."""

    row: int
    """Its place in the source, counted from 1."""
    inputs: dict[str, Text]
    reference: Text
    said: list[Said]


class Reading(Model):
    """What a contender's predictions on test show, and how it was made."""

    contender: str
    arm: Arm
    confusion: Confusion | None
    """None for free text."""
    bins: list[Bin]
    """Empty for a contender without probabilities."""
    failures: dict[str, int]
    """Test rows by kind of failure."""
    failed: list[ShownRow]
    """Some of the rows without a usable answer."""
    training: TrainingFacts | None = None
    curve: CurveRecord | None = None
    sweep: SweepRecord | None = None
    repeats: Repeats | None = None
    prompt: dict[str, Any] | None = None
    """The `spec` of its prompt; of a prompted contender, or of a hybrid's prompted part."""


class Evidence(Record):
    """What the rows of a run show, gathered once: the report is drawn from this and from the verdict."""

    readings: list[Reading]
    voters: list[str]
    """The contenders that are not trivial; all of them where there are not two of these."""
    differing: int
    """Test rows to which those gave different answers."""
    of: int
    """All test rows."""
    shown: list[ShownRow]
    """Some of those that differ, most evenly divided first."""


class Run(Model):
    """One line of `bakeoff runs`."""

    run_id: str
    name: str
    created: datetime
    decision: Decision
    winner: str | None
    spent_usd: float
    path: str
    """The run's folder."""
    report: str | None
    """The report, where there is one."""
