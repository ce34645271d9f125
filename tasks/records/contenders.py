"""A contender, its answers, its predictions."""

from tasks.records.base import Arm, Failure, Finding, Model, Record
from tasks.records.tuning import CurveRecord, Repeats, SweepRecord, TrainingFacts


class ContenderRecord(Record):
    """A contender's folder: `contender.json` (`tasks/manifest.py`) and the files that it needs."""

    name: str
    arm: Arm
    kind: str
    """Which predictor reads the folder: `majority`, `tfidf`, `prompt`, `tuned`, `hybrid`."""
    occupies: str
    """The resource it needs while it predicts: `device`, or `endpoint:NAME`."""
    training: TrainingFacts | None = None
    samples: list[dict[str, str]] = []
    """For tuned contenders with `samples` in the config: `text`, `before`, `after`."""
    sweep: SweepRecord | None = None
    """For tuned contenders whose recipe was searched for."""
    repeats: Repeats | None = None
    """For tuned contenders with several seeds."""
    curve: CurveRecord | None = None
    """For tuned contenders with a learning curve."""
    findings: list[Finding] = []
    """What was left out, tried or found while it was made."""


class Answer(Model):
    """What a predictor gives for one example, before it is compared with a reference."""

    answer: str
    """What the contender said, raw; for classifiers the label's name."""
    label: str | None
    """The label read from the answer; None where it could not be, and for free text."""
    probability: float | None = None
    """Of the label, where the contender gives one."""
    latency_ms: float | None = None
    """For this row alone; None where it was only predicted within a batch."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Paid to an endpoint for this row, all attempts together."""
    failure: Failure | None = None
    """Why there is no usable answer."""
    logits: list[float] | None = None
    """One per label, in the labels' order, where the contender has them."""
    draft: str | None = None
    """The label before a review, or before another contender was asked; None where there was no such step."""
    reason: str = ""
    """What the model said before its answer."""


class Prediction(Model):
    """One row of one contender; a row of `predictions.parquet`, the same for every contender and task."""

    contender: str
    split: str
    example: str
    answer: str
    """What the contender said, raw; for classifiers the label's name."""
    label: str | None
    """The label read from the answer; None where it could not be, and for free text."""
    reference: str | None
    """The right answer; None where it is not known."""
    score: float
    """1 right, 0 wrong; graders may give more."""
    correct: bool
    probability: float | None
    """Of the label, where the contender gives one."""
    latency_ms: float | None
    """For this row alone; None where it was only predicted within a batch."""
    input_tokens: int
    output_tokens: int
    cost_usd: float
    """Paid to an endpoint for this row, all attempts together."""
    failure: Failure | None
    """Why there is no usable answer."""
    draft: str | None = None
    """The label before a review, or before another contender was asked; None where there was no such step."""


class PredictionsRecord(Record):
    """`predictions.parquet`: one contender on dev and test, a row a `Prediction`. Tuned contenders add `logits.safetensors`."""

    contender: str
    arm: Arm
    rows: dict[str, int]
    """Rows by split."""
    failures: dict[str, int]
    """Rows by kind of failure, over both splits."""
    spent_usd: float
    """Paid to endpoints while this product was made."""
    requests: int
    """Attempts sent to endpoints while this product was made."""
    rows_per_second: float
    """Throughput, batched or concurrent, as predictions are made in earnest."""
    machine: str
    """What predicted: a device (`cpu`, `mps`, `cuda`) or `endpoint:NAME`; the settings say what an hour of it costs."""
    beside: dict[str, float | None] = {}
    """Further machines that worked (a hybrid's endpoint): seconds a row, on average over all rows; null where not known."""
