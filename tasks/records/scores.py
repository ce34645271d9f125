"""How good a contender is, how fast, and what it costs."""

from tasks.config import Metric
from tasks.records.base import Arm, Model, Record


class Latency(Model):
    """Milliseconds for one row."""

    p50: float | None
    p95: float | None


class Scores(Model):
    """How one contender did on one split. A figure that cannot be had is null."""

    accuracy: float
    interval: tuple[float, float]
    """Wilson interval of the accuracy, at 1 - alpha."""
    macro_f1: float | None
    n: int
    failed: int
    """Rows without a usable answer; they count as wrong."""
    brier: float | None = None
    """Mean squared error of the probability given to the answered label, over the rows that have one; null where none has."""
    ece: float | None = None
    """Expected calibration error, over the same rows; null likewise."""
    cost_usd_per_1000: float | None
    latency_ms: Latency

    def by(self, metric: str) -> float | None:
        """The figure of the gate's metric; None where it cannot be had."""
        return self.macro_f1 if metric == Metric.MACRO_F1 else self.accuracy

    def told(self, metric: str) -> str:
        """The same in words: `79.2 %`, or `71.0 % macro-F1`."""
        return f"{100 * (self.by(metric) or 0.0):.1f} %{' macro-F1' if metric == Metric.MACRO_F1 else ''}"


class Money(Model):
    """What 1,000 predictions of a contender cost, and why. A figure that cannot be known is null."""

    tokens_usd_per_1000: float | None
    """Paid to endpoints for test rows, all attempts together, at the prices in the verdict's `models`."""
    time_usd_per_1000: float | None
    """The machines' time at their price an hour, at the measured throughput."""
    machine: str
    """A device, or `endpoint:NAME`."""
    usd_per_hour: float | None
    """What an hour of it costs, by the settings."""
    rows_per_second: float
    """As measured, batched or concurrent."""
    training_usd: float | None
    """The hours that training took, at the device's price; 0 where nothing was trained, null where they are not known."""
    training_usd_per_1000: float | None = None
    """Training spread over the predictions that the config's `use` foresees."""
    total_usd_per_1000: float | None = None
    """Tokens, time and training together."""


class ScoresRecord(Record):
    """The scores of one contender's predictions."""

    contender: str
    arm: Arm
    of: str
    """The contender's fingerprint."""
    dev: Scores
    test: Scores
    whole: Scores | None = None
    """On dev and test together, where both come from one split of the source."""
    money: Money | None = None
    """What test rows cost, and training."""
    failures: dict[str, int] = {}
    """Rows by kind of failure, over both splits."""
