"""The small records that pass between tasks, and the shapes of what lies in files. Payloads stay in the workspace.

A record of a stage's product is stored beside it as `record.json`; `folder` and `reused` are filled in when it is read back.
"""

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Arm(StrEnum):
    """A kind of contender; dev picks one finalist of each."""

    TRIVIAL = "trivial"
    PROMPT = "prompt"
    TUNED = "tuned"
    HYBRID = "hybrid"


class Failure(StrEnum):
    """Why a row has no usable answer. Such a row counts as wrong, and is never dropped."""

    INVALID = "invalid"
    """No label, or more than one, in the answer."""
    REFUSED = "refused"
    """The model declined."""
    CUT = "cut"
    """The answer ended before it was whole (length, a cut stream, no finish reason)."""
    TOO_LONG = "too_long"
    """The prompt does not fit the model's context, or the row has more characters than `dataset.max_characters`."""
    EMPTY = "empty"
    """The row has no text."""
    NOT_TEXT = "not_text"
    """The row is none that can be read: bytes that are not UTF-8, a NUL, a list, a column that is not there."""
    PROTOCOL = "protocol"
    """Not an answer at all: HTML with status 200, bad JSON, no choices."""
    ENDPOINT = "endpoint"
    """The endpoint kept failing until the row's attempts were used up."""
    DEADLINE = "deadline"
    """The row's total deadline passed."""
    BUDGET = "budget"
    """Not asked: the cap in dollars would have been passed."""
    STOPPED = "stopped"
    """Not asked: too large a share of the rows before it failed."""


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")


class Record(Model):
    """What a stage hands on: where its product lies, and what is in it."""

    fingerprint: str = ""
    """SHA-256 that names the product for whatever builds on it; the stage's own key unless the product has a content hash."""
    folder: Path = Field(default=Path(), exclude=True)
    """Where the product lies on this machine."""
    reused: bool = Field(default=False, exclude=True)
    """Whether the product was there already."""


class Example(Model):
    """One row of a split, as contenders see it."""

    example: str
    """Identifies the row: a hash of its inputs."""
    row: int
    """Its place in the source, counted from 1."""
    inputs: dict[str, str]
    """Text by input column, in the config's order."""
    label: str | None
    """The right answer's name; None where it is not known."""
    columns: dict[str, str] = {}
    """What travels with the row and no contender sees, by column: its cluster, and what it is sliced by."""


class Finding(Model):
    """Something that validation or tokenization saw and dealt with."""

    kind: str
    """Such as `duplicate`, `overlap`, `near_overlap`, `dropped`, `truncated`, `pad_token`."""
    count: int
    """How many rows (or tokens)."""
    message: str
    """A sentence for people, with row numbers where there are any."""


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


class Difference(Model):
    """One measure of two contenders on the same test rows."""

    metric: Literal["accuracy", "macro_f1", "brier", "ece"]
    difference: float
    """The one's figure less the other's. Of accuracy and macro-F1 more is better, of the other two less."""
    interval: tuple[float, float] | None
    """Of the difference, at 1 - alpha: Tango's for accuracy, else a BCa bootstrap of rows (of clusters, where there are any); null
    where no resample differs from another."""
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


class BreakEven(Model):
    """From which volume on the best tuned contender is cheaper than the best prompted one."""

    prompt: str
    tuned: str
    answer: Literal["from", "always", "never", "unknown"]
    """`from` a volume, at `always` every one, `never`, or `unknown`, where a cost is."""
    per_month: float | None
    """Predictions a month from which the tuned one is cheaper; null unless the answer is `from`."""
    prompt_usd_per_1000: float | None
    tuned_usd_per_1000: float | None
    """Running costs: tokens and time, without training."""
    training_usd: float | None
    months: int
    """Over which training is spread."""


class Route(StrEnum):
    """By what a contender became champion."""

    FIRST = "first"
    """There was none; it beats every trivial contender."""
    GAIN = "gain"
    """It is better than the champion."""
    COST = "cost"
    """It is as good as the better one, and cheaper by enough."""


class Looks(Model):
    """How often the test rows were looked at, over all runs in this workspace."""

    fingerprint: str
    """Of the test rows."""
    contenders: int
    """Different contenders, but for the trivial ones, whose answers to these rows (or to most of them) a decision has seen."""
    chance_of_luck: float
    """Had none of them been better than the champion of its day, the chance that one would have been promoted all the same, at
    most."""
    worn: bool
    """Whether that is more likely than not: then new test rows are due."""


class Approval(Model):
    """What a person said to a publication."""

    approved: bool | None
    """Null where nobody answered in time, or nobody could be asked."""
    by: str = ""
    note: str = ""
    hours: float
    """How long the run would have waited."""


class Decision(StrEnum):
    """What a verdict says."""

    PUBLISH = "publish"
    KEEP_CHAMPION = "keep_champion"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


class Trigger(StrEnum):
    """Why a bake-off can be due."""

    ASKED = "asked"
    """By a person or an event, in words."""
    CHAMPION = "champion"
    """There is none yet."""
    CONTENDERS = "contenders"
    """The config asks for something else than before."""
    DATA = "data"
    """A new version of the data."""
    SHUTDOWN = "shutdown"
    """A provider ends a model."""
    AGE = "age"
    """The newest verdict is old."""
    DRIFT = "drift"
    """Incoming rows are no longer like the training set."""
    QUALITY = "quality"
    """The champion is worse on fresh labelled rows."""


class Reason(Model):
    """Why a bake-off ran, with its evidence."""

    kind: Trigger
    words: str
    figures: dict[str, float | str] = {}
    """The evidence."""
    subject: str = ""
    """What was found, as a hash: a verdict answers it, so that it is no reason again."""
    level: int = 0
    """How much of it, in steps: more of it is a reason again."""


class Why(Model):
    """Why a bake-off ran."""

    words: str
    """All reasons in a sentence."""
    reasons: list[Reason]


class ContenderVerdict(Model):
    """One line of the contenders' table."""

    name: str
    arm: Arm
    fingerprint: str
    dev: Scores
    test: Scores
    whole: Scores | None = None
    """On dev and test together, where both come from one split of the source."""
    finalist: bool
    cost_usd_per_1000: float | None
    """As on test."""
    latency_ms: Latency
    """As on test."""
    money: Money | None = None
    """What 1,000 predictions cost, with training spread over the foreseen use."""
    pareto: bool | None = None
    """Whether no other contender is as good on test (by the gate's metric) and as cheap (in total), and better in one of the two;
    null where its cost is not known."""
    failures: dict[str, int] = {}


class Judgement(Record):
    """What the gate found; the part of a verdict that is the same in every run over the same predictions and champion."""

    decision: Decision
    reason: str
    winner: str | None
    route: Route | None = None
    metric: str = "accuracy"
    more_rows: int | None = None
    contenders: list[ContenderVerdict]
    comparison: Comparison | None
    comparisons: list[Comparison]
    guards: list[Guard] = []
    slices: list[Slice] = []
    break_even: BreakEven | None = None
    effects: list[Effect] = []
    """Of the techniques of every prompted contender: by endpoint, its baseline first, then single techniques, then stacks."""
    format_spread: list[FormatSpread] = []
    """Where prompts differ in nothing but their format."""
    best_prompts: list[BestPrompt] = []
    """By endpoint, where prompts were tried on several."""
    lifts: list[Lift] = []
    """What the methods and objectives of tuned contenders add."""


class Champion(Model):
    """What S3 points to."""

    uri: str
    version: int
    sha256: str
    """Of the contender's manifest; it names the folder."""
    contender: str
    """The contender's name when it was published."""


class PublicationRecord(Record):
    """A contender that was uploaded, proved by the round trip, and made champion."""

    champion: Champion
    files: int
    """Files of the contender, its manifest included."""
    uploaded_bytes: int
    """Sent by the run that finished the publication; what an earlier try had sent is not sent again."""
    rows_verified: int
    """Test rows whose prediction (or, for a prompt, rendered messages) came out the same from what S3 returned."""
    largest_logit_difference: float | None
    """Over those rows and all labels; null for contenders without logits."""
    rows_asked_again: int = 0
    """For prompts: rows asked once more, within the cap."""
    answers_repeated: int = 0
    """How many of those gave the same label again."""


class DatasetSummary(Model):
    fingerprint: str
    train: int
    dev: int
    test: int


class AskedModel(Record):
    """The model behind an endpoint that is not embedded, as the run found it."""

    endpoint: str
    model: str
    usd_per_million_input: float
    usd_per_million_cached: float
    usd_per_million_output: float
    priced_by: str
    """`settings`, or the library that knows the price."""
    priced_on: date | None
    """The day of these prices; null where the settings do not tell."""
    shutdown_date: date | None
    """The day on which the provider ends the model, where it has announced one."""


class Verdict(Model):
    """The answer to *prompt it or fine-tune it?* The documented JSON of `bakeoff run --output json`."""

    run_id: str
    name: str
    decision: Decision
    reason: str
    """The decision in a sentence."""
    winner: str | None
    """The contender that is champion after this run because of this run's evidence; null without enough of it."""
    route: Route | None = None
    """By what the winner was published; null where nothing was."""
    metric: str = "accuracy"
    """What was decided by: the gate's metric."""
    more_rows: int | None = None
    """Without enough evidence: how many more labelled test rows would tell, with a chance of 80 %, if the difference is what was
    seen (at least one point) and the two go on differing as often; null where that is not what is missing."""
    contenders: list[ContenderVerdict]
    comparison: Comparison | None
    """The one that decided: the best on dev against the champion, else against the trivial contender that came closest."""
    comparisons: list[Comparison]
    """The best contender on dev against every other finalist, every trivial contender, and the champion; where a cheaper finalist
    was considered, also that one against the same."""
    guards: list[Guard] = []
    """What the gate's margins on slices and calibration asked of those that were to replace the champion."""
    slices: list[Slice] = []
    """Every contender on parts of the test rows: by label, by length in thirds, by the columns of dataset.slices."""
    break_even: BreakEven | None = None
    """Between the finalists of the prompt and the tuned arms; null where one arm has none."""
    looks: Looks | None = None
    """How often these test rows were looked at; a verdict of an earlier release has none."""
    grader: str | None = None
    """Who went over free-text answers that are not their reference's text: a prompt, or the champion of a bake-off; null where
    nobody did."""
    doubts: list[str] = []
    """Why the grader is not validated, where nothing was published for that reason alone."""
    approval: Approval | None = None
    """What a person said, where the gate asked for approval; null where nobody was asked."""
    effects: list[Effect] = []
    """Of the techniques of every prompted contender: by endpoint, its baseline first, then single techniques, then stacks."""
    format_spread: list[FormatSpread] = []
    """Where prompts differ in nothing but their format."""
    best_prompts: list[BestPrompt] = []
    """By endpoint, where prompts were tried on several."""
    tuned: list[TunedLine] = []
    """What training took, by tuned contender."""
    lifts: list[Lift] = []
    """What the methods and objectives of tuned contenders add."""
    models: list[AskedModel] = []
    """By endpoint that is not embedded: its model, prices and announced end."""
    champion: Champion | None
    spent_usd: float
    """Paid to endpoints by this run."""
    reused: list[str]
    """The stages that found their product."""
    why: Why | None = None
    """Why it ran, where `bakeoff retrain` ran it; null where somebody ran the bake-off itself."""
    dataset: DatasetSummary
    created: datetime
