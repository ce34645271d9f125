"""What is told of contenders side by side: differences, effects, slices, guards."""

from typing import Literal

from tasks.records.base import Model
from tasks.records.tuning import CurvePoint, Repeats, Searched


class Difference(Model):
    """One measure of two contenders on the same test rows."""

    metric: Literal["accuracy", "macro_f1", "brier", "ece"]
    difference: float
    """The one's figure less the other's. Of accuracy and macro-F1 more is better, of the other two less."""
    interval: tuple[float, float] | None
    """Of the difference, at 1 - alpha: Tango's for accuracy, corrected for continuity; else a BCa bootstrap of rows (of clusters,
    where there are any); null where no resample differs from another."""
    n: int
    """Rows that count: for calibration those on which both gave a probability."""


class Comparison(Model):
    """Two contenders on the same test rows."""

    contender: str
    against: str
    test: str
    """The statistical test's name."""
    metric: str = "accuracy"
    """What is compared: the gate's metric."""
    difference: float
    """The one's figure less that of the other."""
    interval: tuple[float, float]
    """Of the difference, at 1 - alpha."""
    p_value: float
    p_holm: float | None = None
    """Corrected by Holm over all comparisons of the verdict."""
    n: int
    clusters: int | None = None
    """How many clusters the rows come in; null where each stands alone."""
    others: list[Difference] = []
    """What else was measured of the two; describes, and decides only where the gate asks for it."""
    only_contender: int
    """Rows that only the contender had right."""
    only_against: int
    """Rows that only the other had right."""


class Effect(Model):
    """What a prompt's techniques do on one endpoint: a prompted contender beside the endpoint's baseline, on the same test rows."""

    contender: str
    endpoint: str
    techniques: list[str]
    """Without `zero_shot`, which is none; empty for a plain prompt."""
    format: str | None
    """How the text is marked up; null where `structured` is not among the techniques."""
    baseline: str
    """The endpoint's plain prompt; where there is none, the prompt with the fewest techniques. It may be the contender itself."""
    accuracy: float
    """On test; rows without a usable answer count as wrong."""
    comparison: Comparison | None
    """Against the baseline; null for the baseline itself, and where the two were not scored on the same rows."""
    p_holm: float | None
    """The comparison's p-value, corrected by Holm over all effects of the run."""
    finding: Literal["gain", "loss", "none"] | None
    """What the corrected p-value says at the gate's alpha (`none`: no difference found); null without a comparison."""
    dev_gap: float
    """Accuracy on dev less that on test: large where a prompt was fitted to dev."""
    usd_per_1000: float | None
    extra_usd_per_1000: float | None
    """Cost of 1,000 rows less the baseline's; negative where the contender is cheaper."""
    usd_per_point: float | None
    """Extra dollars for 1,000 rows over the points of accuracy gained, sure or not; 0 where the gain costs nothing more; null where
    nothing was gained or a cost is not known."""
    input_tokens: float | None
    """A row, on average over the test rows that were asked."""
    output_tokens: float | None
    """A row, likewise."""
    extra_output_tokens: float | None
    """A row, less the baseline's."""
    latency_p50_ms: float | None
    repaired: int | None
    """Test rows whose draft was wrong or unreadable and whose answer is right; null where no row has a draft."""
    damaged: int | None
    """Test rows whose draft was right and whose answer is not; null where no row has a draft."""


class FormatSpread(Model):
    """How far the same prompt's accuracy moves with its format alone."""

    endpoint: str
    techniques: list[str]
    """What the prompts share; without `structured`."""
    formats: dict[str, str]
    """Format by contender, the best on test first; `plain` without markup."""
    accuracies: dict[str, float]
    """Accuracy on test by contender, the best first."""
    spread: float
    """The highest accuracy less the lowest."""


class BestPrompt(Model):
    """The prompted contender that is best on dev, for one endpoint."""

    endpoint: str
    contender: str
    dev_accuracy: float
    test_accuracy: float
    beaten_on: dict[str, str] = {}
    """Endpoints where the same prompt was tried and another did better on dev: that other by endpoint."""


class Lift(Model):
    """What a method or an objective adds to a tuned contender: beside one without it, on the same test rows."""

    contender: str
    against: str
    """For `method` the contender on the same base that trains the head alone; for `objective` the one of the same recipe that is
    supervised alone."""
    of: Literal["method", "objective"]
    comparison: Comparison
    p_holm: float
    """The comparison's p-value, corrected by Holm over all lifts of the run."""
    finding: Literal["gain", "loss", "none"]
    """What the corrected p-value says at the gate's alpha (`none`: no difference found)."""


class TunedLine(Model):
    """One line of the table of tuned contenders: what training took, and what publishing takes."""

    contender: str
    base: str
    method: str
    """`lora`, `head` or `full`, with the switches of LoRA that were on, such as `lora (dora)`."""
    objective: str
    accuracy: float
    """On test."""
    parameters: int
    parameters_trained: int
    trained_by_part: dict[str, int]
    """`lora` (the updates), `head`, `encoder`."""
    seconds: float
    """For training, evaluation on dev among it; of the run that trained, where the product is reused."""
    peak_memory_bytes: int
    publish_bytes: int
    searched: Searched | None = None
    """Null where the recipe stood in the config."""
    repeats: Repeats | None = None
    """Null where it was trained with one seed."""
    curve: list[CurvePoint] = []
    """The learning curve, where one was asked for."""
    more_labels: str = ""
    """What the learning curve says: whether more labels would help."""


class Slice(Model):
    """One contender on a part of the test rows."""

    contender: str
    column: str
    """`label`, `length`, or a column of the data."""
    value: str
    """The rows' value there; rare values are taken together as `(rare)`."""
    n: int
    accuracy: float
    interval: tuple[float, float]
    """Wilson's, at 1 - alpha."""


class Guard(Model):
    """Something that a new champion must be shown to be no worse at than the old one, within a margin."""

    contender: str
    against: str
    what: str
    """A slice such as `label = positive`, or `brier`, `ece`."""
    margin: float
    difference: float | None
    """The contender's figure less the champion's; null where there is none."""
    interval: tuple[float, float] | None
    n: int
    """Test rows that count."""
    held: bool | None
    """True: shown to be no worse; false: shown to be worse by more than the margin; null: not enough evidence for either."""
    more_rows: int | None = None
    """How many more such rows would tell, if it is as good there, or as much worse as was seen; null where none would, or where it
    has held."""
