"""What trainings took and found: calibration, sweeps, seeds, learning curves."""

from typing import Literal

from tasks.records.base import Finding, Model, Record


class Calibration(Model):
    """How far a contender's probabilities could be believed on dev, before and after they were calibrated."""

    temperature: float
    """Logits are divided by this before they become probabilities: above 1 the contender was too sure, below 1 not sure enough."""
    rows: int
    """Dev rows."""
    ece_before: float
    """Expected calibration error (`tasks/metrics.py`)."""
    ece_after: float
    """Likewise; each half of dev with the temperature that the other half gives."""
    brier_before: float
    brier_after: float


class TrainingFacts(Model):
    """What training took and gave."""

    base: str
    revision: str
    method: str
    switches: list[str] = []
    """Of LoRA, those that were on: `dora`, `rslora`, `quantized`."""
    objective: str = "supervised"
    device: str
    dtype: str
    parameters: int
    """All parameters."""
    parameters_trained: int
    trained_by_part: dict[str, int] = {}
    """Parameters trained, by part: `lora` (the updates), `head`, `encoder`."""
    epochs: list[dict[str, float]]
    """By epoch: `epoch`, `loss`, `dev_accuracy`, `seconds`."""
    losses: list[dict[str, float]] = []
    """By a few steps: `epoch` (with its fraction), `loss` (mean over those steps)."""
    best_epoch: int
    """The one whose weights were kept."""
    dev_rows: int = 0
    """Dev rows on which `dev_accuracy` was measured; for free text a part of dev."""
    seconds: float
    rows_per_second: float
    peak_memory_bytes: int
    batch_size: int
    """Rows a step on the device; halved when memory ran out, at the same effective batch."""
    calibration: Calibration | None = None
    """None where it was not asked for."""
    watched: list[dict[str, float]] = []
    """For preferences and reinforcement: what was seen at each look, by `step`."""
    publish_bytes: int = 0
    """What publishing the contender takes: its weights, tokenizer and facts, without the base that they stand on."""
    findings: list[Finding] = []

    @property
    def dev_accuracy(self) -> float:
        """Of the weights that were kept."""
        return next(epoch["dev_accuracy"] for epoch in self.epochs if epoch["epoch"] == self.best_epoch)


class Trial(Model):
    """One recipe that a search tried."""

    number: int
    """From 0, which is the recipe as the config gives it."""
    learning_rate: float
    rank: int
    targets: str
    """Names with commas between them; `all-linear` for all linear layers."""
    outcome: Literal["complete", "pruned", "diverged"]
    dev_accuracy: float | None
    """Of its best epoch; of a pruned one so far; null where it diverged."""
    epochs: list[float]
    """Dev accuracy by epoch."""
    seconds: float


class SweepRecord(Record):
    """What a search tried on dev, and what it chose; `sweep.svg` draws it."""

    trials: list[Trial]
    chosen: int
    """The number of the best complete trial; of equally good ones the first."""
    seconds: float
    """Of all trials together."""


class Searched(Model):
    """What a search came to, for the verdict; all its trials are in `SweepRecord`."""

    trials: int
    stopped_early: int
    """Pruned or diverged."""
    chosen: Trial
    as_given: float | None
    """Dev accuracy of the recipe as the config gives it; null where it was stopped early."""
    seconds: float


class Repeats(Model):
    """The same recipe trained with several seeds."""

    seeds: list[int]
    dev_accuracy: list[float]
    """Of each seed's best epoch."""
    mean: float
    spread: float
    """Standard deviation over the seeds (of a sample)."""
    chosen: int
    """The seed whose training is the contender: the best on dev, of equally good ones the first."""
    seconds: float = 0.0
    """Of all these trainings together, but for one that a search had done already; 0 in records of earlier releases."""


class CurvePoint(Model):
    """The same recipe trained on a part of train."""

    share: float
    rows: int
    dev_accuracy: float
    interval: tuple[float, float]
    """Wilson interval, 95 %."""


class CurveRecord(Record):
    """How accuracy on dev grows with train, and what more labels would give; `learning_curve.svg` draws it."""

    points: list[CurvePoint]
    """Smallest part first; each holds the rows of those before it."""
    intercept: float
    slope: float
    """The odds of an error are exp(intercept) * rows ** slope."""
    gain: float
    """Accuracy that twice the labels would add, by that law."""
    gain_interval: tuple[float, float]
    """95 %; dev's noise alone is in it."""
    sentence: str
    """Whether more labels would help."""
