"""The decision and what stands around it."""

from datetime import date, datetime
from enum import StrEnum
from typing import Literal

from tasks.records.base import Arm, Model, Record
from tasks.records.comparisons import BestPrompt, Comparison, Effect, FormatSpread, Guard, Lift, Slice, TunedLine
from tasks.records.scores import Latency, Money, Scores


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
    """How often the test rows were looked at, over all runs in this workspace and in the store that they publish to."""

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
    """The day on which the provider ends the model, as its list of models or the settings (`ends_on`) say."""


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
    seen (at least one point) and the two go on differing as often; where there are fewer than the gate asks for, how many are
    missing; where guards alone are short of rows, how many would bring them theirs. Null where that is not what is missing."""
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
