"""The config of one bake-off: the flow's parameter, the command line's file, the form in Prefect's UI, and what is kept beside what
was published. It holds names only; the places behind the names stand in the operator's settings (`tasks/settings.py`).

Importing this module is cheap (pydantic alone).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tasks.errors import BadConfig

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
"""A name that is safe as a file name, an S3 key and an artifact key."""


SPELLED = {"dora": "DoRA", "rslora": "rsLoRA", "usd": "USD", "ece": "ECE", "kl": "KL"}
"""Words of field names that the form spells in their own way."""


def _title(name: str, _field: object) -> str:
    """A field's title in the form: its own name, where pydantic would take that of an enum."""
    words = " ".join(SPELLED.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:] if name.split("_")[0] not in SPELLED else words


class Part(BaseModel):
    """One part of a config: frozen, no unknown keys, each field's docstring its help in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, field_title_generator=_title)


class Splits(Part):
    """Which of the source's splits play which role.

    Left empty, splits are recognised by their usual names (train; validation, valid, dev; test), and what is missing is taken
    from train by a hash of each row's content. Roles that name the same split of the source share it, by hash.
    """

    train: str = ""
    """The source's split that teaches."""
    dev: str = ""
    """The source's split that selects prompts, checkpoints and thresholds."""
    test: str = ""
    """The source's split that is scored once per contender and decides."""
    dev_share: float = Field(0.15, gt=0, lt=1)
    """Share of a split that becomes dev, where roles share one."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of a split that becomes test, where roles share one."""
    train_rows: int | None = Field(None, ge=1)
    """Keep at most this many train rows, chosen by hash."""
    dev_rows: int | None = Field(None, ge=1)
    """Keep at most this many dev rows, chosen by hash."""
    test_rows: int | None = Field(None, ge=1)
    """Keep at most this many test rows, chosen by hash."""

    @model_validator(mode="after")
    def _shares_leave_something_for_train(self) -> Self:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(f"dev_share {self.dev_share} and test_share {self.test_share} leave nothing for train: lower one")
        return self


BUILT_IN_SLICES = {"label", "length"}
"""What test rows are sliced by whatever the data: the right answer, and the length of the text."""


class Kind(StrEnum):
    """What is to be answered."""

    CLASSIFICATION = "classification"
    """One of a few labels."""
    GENERATION = "generation"
    """Free text."""


class OnBadRows(StrEnum):
    """What happens to rows that fail validation."""

    REFUSE = "refuse"
    DROP = "drop"


class Dataset(Part):
    """The labelled examples."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads `labels: {0: negative}` with a number as key

    source: str = Field(min_length=1, max_length=1024)
    """A Hub id (`owner/name`), a file (parquet, CSV, JSON lines), a folder of them, or `package:` and a file inside an installed
    Python package."""
    inputs: list[str] = Field(default=["text"], min_length=1)
    """The columns that a contender sees."""
    label: str = "label"
    """The column with the right answer."""
    labels: dict[str, str] = {}
    """Names for the values of the label column, such as `0: negative`. Values that are not listed are refused; class labels that
    bear these names already are taken as they are."""
    kind: Kind = Kind.CLASSIFICATION
    """What is to be answered: a label, or free text, which is right where it is the label column's text but for letter case,
    punctuation, markup and white space."""
    revision: str = ""
    """The Hub revision (a commit is best: a branch can move)."""
    subset: str = ""
    """The Hub configuration name, where the data set has several."""
    where: dict[str, str] = {}
    """Keep only rows whose column has this value."""
    cluster: str = ""
    """The column that says which rows belong together (one person's, one document's). They never stand in two splits, and the gate
    counts them as one piece of evidence."""
    slices: list[str] = Field(default=[], max_length=10)
    """Columns by whose values accuracy is shown, and may be guarded (gate.slices); no contender sees them."""
    splits: Splits = Splits()
    """Which rows teach, select and decide."""
    on_bad_rows: OnBadRows = OnBadRows.REFUSE
    """Refuse the data when rows are bad (empty, unknown label, too long), or drop those rows and count them."""
    max_characters: int = Field(100_000, ge=1)
    """A row with more characters than this is bad."""
    drop_repeats: bool = True
    """Keep each text once a split; off keeps repeats within a split as the source has them. Across splits they never stay."""
    near_duplicates: float = Field(0.85, ge=0, le=1)
    """Rows at least this similar (Jaccard over word trigrams) are near-duplicates; 0 looks for exact ones only."""
    max_overlap: float = Field(0.01, ge=0, le=1)
    """Stop when a larger share of the given dev and test rows is found again in train; at or below it those rows leave train."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        columns = [*self.inputs, self.label]
        if len(set(columns)) < len(columns):
            raise ValueError(f"inputs {self.inputs} and label {self.label!r} name a column twice: name each column once")
        if self.label in (self.cluster, *self.slices):
            raise ValueError(
                f"cluster or slices name the label's column {self.label!r}: a contender's rows are sliced by label as it is"
            )
        twice = len(set(self.slices)) < len(self.slices)
        if twice or BUILT_IN_SLICES & set(self.slices):
            raise ValueError(f"slices {self.slices} name a column twice, or one called label or length, which are there already")
        return self


class Trivial(StrEnum):
    """Contenders that any other must beat."""

    MAJORITY = "majority"
    TFIDF = "tfidf"


class Technique(StrEnum):
    """How a prompt is built. Techniques compose: a prompt may name several."""

    ZERO_SHOT = "zero_shot"
    """The instruction and the row; what every other technique is measured against."""
    DESCRIPTIVE = "descriptive"
    """The task's guidelines and label definitions in full."""
    PERSONA = "persona"
    """The model is given a role."""
    STRUCTURED = "structured"
    """The same prompt as Markdown, XML or JSON."""
    FEW_SHOT = "few_shot"
    """Labelled train rows as examples."""
    CHAIN_OF_THOUGHT = "chain_of_thought"
    """Steps first, then the label."""
    FLIPPED = "flipped"
    """The model asks the task's owner questions; the answers become guidelines."""
    REFLECT = "reflect"
    """The model reviews its answer and may change it."""
    SELF_CONSISTENCY = "self_consistency"
    """Several samples vote."""
    LOG_PROBABILITY = "log_probability"
    """Labels are scored by the probability of their first token, calibrated on dev."""
    OPTIMIZED = "optimized"
    """Instructions are rewritten from dev errors and examples are bootstrapped, within a budget."""


FREE_TEXT = {Technique.ZERO_SHOT, Technique.DESCRIPTIVE, Technique.PERSONA, Technique.STRUCTURED, Technique.FEW_SHOT}
"""Techniques that need no labels."""


class Format(StrEnum):
    """How the text of a prompt is marked up."""

    MARKDOWN = "markdown"
    XML = "xml"
    JSON = "json"


class Selection(StrEnum):
    """Which train rows a few-shot prompt shows."""

    BALANCED = "balanced"
    """The same for every row, as many of each label as can be."""
    RANDOM = "random"
    """The same for every row, as train has them."""
    NEAREST = "nearest"
    """For each row those nearest to it by embedding."""
    BM25 = "bm25"
    """For each row those that share most of its rare words."""


class Order(StrEnum):
    """In which order a few-shot prompt shows its examples."""

    SHUFFLED = "shuffled"
    GROUPED = "grouped"
    """By label."""
    NEAREST_LAST = "nearest_last"
    """For examples chosen by row: the most similar one stands next to the row."""


class Interview(StrEnum):
    """Who answers the questions of a flipped prompt."""

    ROWS = "rows"
    """Labelled train rows that fit the question."""
    CONFIG = "config"
    """`task.answers`, by fit to the question."""
    HUMAN = "human"
    """A person, in Prefect's UI, until the deadline; then as `config` where there are answers, else as `rows`."""


class Task(Part):
    """What a person who labels by hand would be told; prompts share it."""

    instructions: str = Field("", max_length=20_000)
    """What is asked, in a line or two; empty takes a general instruction that names the labels. May use `{{ labels }}`."""
    guidelines: str = Field("", max_length=20_000)
    """How to decide, in full; technique `descriptive` shows it."""
    definitions: dict[str, str] = {}
    """What each label means; technique `descriptive` shows it."""
    persona: str = Field("", max_length=2_000)
    """The role that technique `persona` gives, such as `a film critic of thirty years`; empty takes a general one."""
    answers: list[str] = Field(default=[], max_length=50)
    """What the task's owner would say when asked about the task; technique `flipped` answers the model's questions with it."""


class Prompt(Part):
    """One prompted contender."""

    name: Name
    """Its name in the tables: lower-case letters, digits, `-` and `_`."""
    endpoint: Name = "local"
    """Which of the operator's endpoints answers, by its name; keys and addresses stay with the operator."""
    techniques: list[Technique] = Field(default=[Technique.ZERO_SHOT], min_length=1)
    """How the prompt is built; several are stacked: the instruction and the row (`zero_shot`), guidelines in full (`descriptive`),
    a role (`persona`), a markup (`structured`), labelled rows as examples (`few_shot`), steps first (`chain_of_thought`), questions
    to the task's owner (`flipped`), a second look (`reflect`), samples that vote (`self_consistency`), labels scored
    (`log_probability`), instructions rewritten from errors (`optimized`). In a file, `technique: few_shot` is a list of one."""
    instructions: str = Field("", max_length=20_000)
    """What is asked of the model; empty takes the task's."""
    template: str = Field("", max_length=300)
    """A Jinja file of one's own for a row's message, in an allowed root, or `grader`, which shows a question, its answer and a
    student's; empty takes the plain one."""
    format: Format = Format.MARKDOWN
    """structured: how the text is marked up."""
    examples: int = Field(4, ge=1, le=64)
    """few_shot: how many labelled train rows are shown."""
    selection: Selection = Selection.BALANCED
    """few_shot: which rows are shown: as many of each label (`balanced`), as train has them (`random`), or those most like the row
    by embedding (`nearest`) or by rare words (`bm25`)."""
    order: Order = Order.SHUFFLED
    """few_shot: in which order."""
    examples_tried: list[Annotated[int, Field(ge=1, le=64)]] = Field(default=[], max_length=8)
    """few_shot: numbers of examples to try on dev beside `examples`; the best is kept."""
    selections_tried: list[Selection] = Field(default=[], max_length=4)
    """few_shot: selections to try on dev beside `selection`."""
    orders_tried: list[Order] = Field(default=[], max_length=3)
    """few_shot: orders to try on dev beside `order`."""
    tried_rows: int = Field(100, ge=10, le=10_000)
    """few_shot and optimized: how many dev rows each candidate is tried on, at most."""
    thinking_tokens: int = Field(160, ge=8, le=32_768)
    """chain_of_thought: the steps' length at most; longer ones are cut, and the label is asked all the same."""
    rounds: int = Field(1, ge=1, le=5)
    """reflect: how often the answer is reviewed, at most."""
    samples: int = Field(5, ge=3, le=31)
    """self_consistency: how many samples vote."""
    temperature: float = Field(0.7, gt=0, le=2)
    """self_consistency: of the samples."""
    interview: Interview = Interview.ROWS
    """flipped: who answers the model's questions: labelled train rows (`rows`), `task.answers` (`config`), or a person on the run's
    page (`human`)."""
    questions: int = Field(4, ge=1, le=20)
    """flipped: how many the model may ask."""
    interview_minutes: float = Field(60, gt=0, le=10_080)
    """flipped: how long a person has to answer, all questions together."""
    optimize_calls: int = Field(300, ge=20, le=100_000)
    """optimized: requests that the search may make."""
    optimize_usd: float = Field(0.5, ge=0)
    """optimized: dollars that the search may spend, within the run's cap."""
    max_answer_tokens: int = Field(32, ge=1, le=4096)
    """An answer that is longer was cut, and counts as a failure."""
    seed: int = Field(0, ge=0)
    """Chooses the examples."""

    @model_validator(mode="before")
    @classmethod
    def _one_technique(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "technique" in values:
            if "techniques" in values:
                raise ValueError("technique and techniques are both given: keep techniques")
            return {key: value for key, value in values.items() if key != "technique"} | {"techniques": [values["technique"]]}
        return values

    @model_validator(mode="after")
    def _techniques_fit(self) -> Self:
        if len(set(self.techniques)) < len(self.techniques):
            raise ValueError(f"techniques {[*map(str, self.techniques)]} name one twice: name each once")
        scored = Technique.LOG_PROBABILITY in self.techniques
        beside = [each for each in (Technique.SELF_CONSISTENCY, Technique.REFLECT) if scored and each in self.techniques]
        if beside:
            raise ValueError(f"log_probability scores every label at once, so {beside[0]} has nothing to add: name one of the two")
        by_row = {Selection.NEAREST, Selection.BM25} & {self.selection, *self.selections_tried}
        if Order.NEAREST_LAST in {self.order, *self.orders_tried} and not by_row:
            raise ValueError("order nearest_last is for examples chosen by row: take selection nearest or bm25, or another order")
        return self


class Method(StrEnum):
    """Which weights train."""

    LORA = "lora"
    HEAD = "head"
    FULL = "full"


OBJECTIVES_OWN = (
    "objective",
    "corpus",
    "corpus_column",
    "corpus_rows",
    "corpus_epochs",
    "corpus_learning_rate",
    "masked",
    "preferences",
    "most_pairs",
    "preference_epochs",
    "preference_learning_rate",
    "beta",
    "algorithm",
    "reinforce_steps",
    "reinforce_learning_rate",
    "group",
    "kl_weight",
    "kl_limit",
)
"""Fields of a tuned contender that its supervised step knows nothing of."""


class Objective(StrEnum):
    """What training minimises."""

    SUPERVISED = "supervised"
    """The right labels; for generation the right completions."""
    SELF_SUPERVISED = "self_supervised"
    """Further pre-training on unlabelled text, masked for encoders and causal for decoders; then supervised."""
    PREFERENCES = "preferences"
    """Supervised; then preference pairs at once (DPO). For answers in text."""
    REINFORCEMENT = "reinforcement"
    """Supervised; then a reward model from preference pairs; then RLOO or GRPO. For answers in text."""


class Algorithm(StrEnum):
    """How reinforcement turns rewards into steps."""

    RLOO = "rloo"
    GRPO = "grpo"


class TruncationSide(StrEnum):
    """Which end of a long text is cut."""

    LEFT = "left"
    RIGHT = "right"


class ClassWeights(StrEnum):
    """What an error on a row counts while training."""

    NONE = "none"
    """The same for every row."""
    BALANCED = "balanced"
    """More for rare labels: each label's rows weigh as much as any other's."""


LORA_SWITCHES = ("dora", "rslora", "quantized")
ALL_LINEAR = "all-linear"
"""What PEFT calls all linear layers; the same as naming no target."""


def _targets(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    return [] if names == [ALL_LINEAR] else names


class Tuned(Part):
    """One fine-tuned contender."""

    name: Name
    """Its name in the tables: lower-case letters, digits, `-` and `_`."""
    base: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1, max_length=256)
    """The base model: a Hub id, or a folder in an allowed root."""
    revision: str = ""
    """The base's Hub revision; empty takes the one that the operator's settings pin, else `main`."""
    method: Method = Method.LORA
    """Which weights train: low-rank adapters (`lora`), the classifier alone (`head`), or all (`full`)."""
    rank: int = Field(8, ge=1, le=1024)
    """LoRA: the rank of the update."""
    alpha: float = Field(16, gt=0)
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """LoRA: dropout before the update."""
    targets: Annotated[list[str], BeforeValidator(_targets)] = []
    """LoRA: names of the modules to adapt; empty (or `all-linear`) adapts all linear layers of the encoder."""
    dora: bool = False
    """LoRA: learn the size of each weight apart from its direction (DoRA)."""
    rslora: bool = False
    """LoRA: scale the update by alpha / sqrt(rank) instead, so that high ranks learn as fast (rsLoRA)."""
    quantized: bool = False
    """LoRA: hold the base in 4 bits while training (QLoRA); needs CUDA and the package bitsandbytes."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """The peak learning rate."""
    epochs: int = Field(3, ge=1, le=1000)
    """Passes over train."""
    batch_size: int = Field(16, ge=1, le=4096)
    """Rows in one optimiser step."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises; then it falls to zero."""
    gradient_clipping: float = Field(1.0, ge=0)
    """The gradient's norm is cut to this in each step; 0 leaves it as it is."""
    early_stopping: int = Field(0, ge=0)
    """Stop after so many evaluations on dev (one an epoch) in a row without a better accuracy; 0 trains all epochs."""
    class_weights: ClassWeights = ClassWeights.NONE
    """What an error counts: the same for every row (`none`), or more for rare labels (`balanced`)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each row's target that is spread over all labels; 0 trains on the labels as they are."""
    calibrate: bool = True
    """Fit a temperature on dev, so that probabilities say how often the contender is right; labels and logits stay as they are."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=20)
    """Train once with each of these instead of `seed`: mean and spread are told, and the one best on dev is the contender."""
    search_trials: int = Field(0, ge=0, le=1000)
    """Try so many recipes on dev first (the recipe itself among them), and train the best (extra `search`); 0 tries none, unless
    `search_minutes` is set."""
    search_minutes: float = Field(0.0, ge=0, le=10_080)
    """Begin no further trial once trials have taken so long; 0 sets no limit in time."""
    learning_rates_tried: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[], max_length=50)
    """Search: learning rates to try beside `learning_rate`; empty tries any from a quarter to four times of it."""
    ranks_tried: list[Annotated[int, Field(ge=1, le=1024)]] = Field(default=[], max_length=20)
    """Search, LoRA: ranks to try beside `rank` (alpha moves along, so that the update keeps its scale); empty keeps `rank`."""
    targets_tried: list[str] = Field(default=[], max_length=20)
    """Search, LoRA: targets to try beside `targets`: names with commas between them, or `all-linear`; empty keeps `targets`."""
    learning_curve: bool = False
    """Train on 12, 25 and 50 % of train as well, which tells whether more labels would help."""
    attention_dropout: float | None = Field(0.0, ge=0, lt=1)
    """The base's own attention dropout while training; 0 lets the fast attention kernels run, empty keeps the base's."""
    max_tokens: int = Field(256, ge=8, le=131_072)
    """Longer texts are cut to this many tokens."""
    truncation_side: TruncationSide = TruncationSide.RIGHT
    """Which end of a long text is cut off."""
    seed: int = Field(42, ge=0)
    """Seeds the head's first weights, the order of rows and dropout."""
    as_text: bool = False
    """Classification: a causal base writes the label's name, in place of a new head that gives its number."""
    max_answer_tokens: int = Field(32, ge=1, le=4096)
    """Generation: answers are cut at this length."""
    objective: Objective = Objective.SUPERVISED
    """What training minimises: the right labels (`supervised`), with more pre-training on text before (`self_supervised`), or with
    pairs of answers after it, at once (`preferences`) or by a reward (`reinforcement`)."""
    corpus: str = Field("", max_length=1024)
    """self_supervised: the unlabelled text, named as `dataset.source` is; empty takes the train rows' own text."""
    corpus_column: Annotated[str, Field(min_length=1)] = "text"
    """self_supervised: the column of `corpus` that holds the text."""
    corpus_rows: int | None = Field(None, ge=1)
    """self_supervised: take at most this many texts, chosen by hash."""
    corpus_epochs: int = Field(1, ge=1, le=1000)
    """self_supervised: passes over the unlabelled text."""
    corpus_learning_rate: float = Field(1e-4, gt=0, le=1)
    """self_supervised: the peak learning rate of the further pre-training, which trains all weights of the base."""
    masked: float = Field(0.15, gt=0, lt=1)
    """self_supervised: the share of tokens that an encoder must guess."""
    preferences: str = Field("", max_length=1024)
    """preferences, reinforcement: the pairs, named as `dataset.source` is: columns `prompt`, `chosen`, `rejected`, or graded
    answers, `prompt`, `answer`, `grade`; empty takes train's right answers against wrong ones of the supervised model."""
    most_pairs: int = Field(400, ge=2)
    """preferences, reinforcement: how many pairs are used at most."""
    preference_epochs: int = Field(1, ge=1, le=1000)
    """preferences, reinforcement: passes over the pairs."""
    preference_learning_rate: float = Field(5e-5, gt=0, le=1)
    """preferences: the peak learning rate."""
    beta: float = Field(0.1, gt=0)
    """preferences: how much it costs to leave the supervised model (DPO's beta)."""
    algorithm: Algorithm = Algorithm.RLOO
    """reinforcement: how rewards become steps."""
    reinforce_steps: int = Field(50, ge=1)
    """reinforcement: optimiser steps."""
    reinforce_learning_rate: float = Field(5e-5, gt=0, le=1)
    """reinforcement: the peak learning rate."""
    group: int = Field(4, ge=2, le=256)
    """reinforcement: answers to one prompt, which are compared with each other."""
    kl_weight: float = Field(0.05, gt=0)
    """reinforcement: what the KL to the supervised model costs."""
    kl_limit: float = Field(0.5, gt=0)
    """reinforcement: the run stops where the KL goes beyond this."""

    @model_validator(mode="after")
    def _switches_fit_the_method(self) -> Self:
        wrong = [name for name in LORA_SWITCHES if getattr(self, name)] if self.method is not Method.LORA else []
        if wrong:
            raise ValueError(f"tuned {self.name!r}: {wrong[0]} is a way of LoRA, but the method is {self.method}: set method: lora")
        return self

    @model_validator(mode="after")
    def _searches_within_a_budget(self) -> Self:
        tried = [name for name in SEVERAL if name.endswith("_tried") and getattr(self, name)]
        if tried and not self.searches:
            raise ValueError(f"tuned {self.name!r}: {tried[0]} needs a budget: set search_trials or search_minutes")
        lora = [name for name in tried if name != "learning_rates_tried"] if self.method is not Method.LORA else []
        if lora:
            raise ValueError(f"tuned {self.name!r}: {lora[0]} is for LoRA, but the method is {self.method}: remove it")
        several = [name for name in SEVERAL if getattr(self, name)]
        if several and self.objective not in (Objective.SUPERVISED, Objective.SELF_SUPERVISED):
            raise ValueError(f"tuned {self.name!r}: {several[0]} is for classifiers, not for objective {self.objective}: remove it")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"tuned {self.name!r}: seeds {self.seeds} name one twice: name each once")
        return self

    @property
    def searches(self) -> bool:
        """Whether recipes are tried before the training."""
        return bool(self.search_trials or self.search_minutes)

    def single(self, **changes: Any) -> "Tuned":
        """The recipe of one training: with changes, and without what asks for several."""
        plain = {name: Tuned.model_fields[name].default for name in SEVERAL}
        return self.model_copy(update=plain | changes)


OF_HEADS = ("class_weights", "label_smoothing", "early_stopping")
"""What only a training with a head heeds."""
SEVERAL = (
    "seeds",
    "search_trials",
    "search_minutes",
    "learning_rates_tried",
    "ranks_tried",
    "targets_tried",
    "learning_curve",
)
"""Fields of `Tuned` that ask for more than one training."""


class Combination(StrEnum):
    """How a tuned model and a prompt work together."""

    IN_PROMPT = "in_prompt"
    """The tuned model's prediction and confidence are shown to the prompted one."""
    ROUTING = "routing"
    """The tuned model answers when it is sure, the prompted one when it is not; dev sets the threshold."""


class Hybrid(Part):
    """One contender of two: a tuned model and a prompt of this bake-off."""

    name: Name
    """Its name in the tables: lower-case letters, digits, `-` and `_`."""
    tuned: Name
    """The name of the tuned contender."""
    prompt: Name
    """The name of the prompted contender."""
    combination: Combination = Combination.ROUTING
    """The prompt answers where the tuned model is unsure (`routing`), or is shown its prediction (`in_prompt`)."""


class Grader(Part):
    """Who says whether a free-text answer that is not its reference's text is right all the same: a prompt, or a champion."""

    prompt: Prompt | None = None
    """A prompt that grades `correct` or `wrong`; without instructions and template of its own it gets general ones."""
    champion: str = Field("", pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$")
    """Or the bake-off of graders, in the same store, whose champion grades; it has three inputs: question, right answer, answer."""
    right: list[str] = Field(default=["correct"], min_length=1)
    """The grades that count as right."""

    @property
    def named(self) -> str:
        """What it is called: the prompt's name, or the bake-off's."""
        return self.prompt.name if self.prompt else self.champion

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if bool(self.prompt) == bool(self.champion):
            raise ValueError("grader needs a prompt or a champion, and not both: name one")
        if self.prompt and self.right != ["correct"]:
            raise ValueError(f"grader.right is {self.right}, but a grader's prompt says correct or wrong: leave right out")
        return self


class Budget(Part):
    """What a run may spend on endpoints."""

    usd: float = Field(1.0, ge=0)
    """The hard cap in dollars for one run: it stops before this is passed."""
    max_failed: float = Field(0.5, gt=0, le=1)
    """A prompted contender stops asking once more than this share of its rows (at least 20 asked) failed."""


class Metric(StrEnum):
    """What the gate decides by."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"
    """The mean of the labels' F1 scores: every label counts alike, however rare."""


class Gate(Part):
    """When a contender may become champion."""

    metric: Metric = Metric.ACCURACY
    """What finalists are chosen by on dev, and compared by on test; `macro_f1` counts every label alike, however rare."""
    approval: bool = False
    """Ask a person, on the run's page in Prefect, before a winner is published."""
    approval_hours: float = Field(24, gt=0, le=720)
    """How long the run waits; without an answer nothing is published."""
    alpha: float = Field(0.05, gt=0, le=0.5)
    """The significance level of the deciding tests, two-sided; intervals cover 1 - alpha. A contender that is no better becomes
    champion with a chance of at most half of it."""
    minimum_gain: float = Field(0.0, ge=0, lt=1)
    """The gain in the metric that a new champion must show on test."""
    minimum_rows: int = Field(30, ge=2)
    """With fewer test rows (where dataset.cluster names clusters: clusters of equal size) the verdict is always
    `not_enough_evidence`; no guard on calibration holds with fewer."""
    margin: float = Field(0.01, ge=0, lt=1)
    """Contenders within this much of each other count as equally good, so that the cheaper one may take or keep the place; 0 leaves
    costs out of the decision."""
    cheaper_by: float = Field(0.5, gt=0, lt=1)
    """By what share a contender must be cheaper to run before its cost decides; measured times swing, so not by little."""
    slices: list[str] = Field(default=[], max_length=12)
    """Where a new champion must be shown to be no worse than the old one: `label`, `length`, or columns of dataset.slices."""
    slice_margin: float = Field(0.05, gt=0, lt=1)
    """How much less accurate it may be on any such slice."""
    slice_rows: int = Field(30, ge=1)
    """Values of a slice with fewer test rows than this are taken together."""
    brier_margin: float | None = Field(None, gt=0, le=1)
    """How much worse its Brier score may be; empty does not ask. Contenders without probabilities then never replace a champion."""
    ece_margin: float | None = Field(None, gt=0, le=1)
    """How much worse its expected calibration error may be; likewise."""


class Use(Part):
    """How the champion will be used: what one-off costs are spread over."""

    per_month: int = Field(100_000, ge=1)
    """Predictions a month."""
    months: int = Field(12, ge=1, le=120)
    """How long a trained model serves before it is trained anew."""


class Drift(Part):
    """Whether incoming rows are still like those that the champion learned from."""

    incoming: str = Field("", max_length=300)
    """A file or folder of incoming rows, in an allowed root, with the columns of `dataset.inputs`; empty does not look."""
    least_rows: int = Field(200, ge=20)
    """With fewer incoming rows nothing is said."""
    most_rows: int = Field(2_000, ge=20, le=100_000)
    """So many of them are looked at, chosen by hash. The champion predicts these, which costs money where it is a prompt."""
    alpha: float = Field(0.01, gt=0, le=0.5)
    """The level of both tests together, of texts and of predictions (Holm)."""
    text: float = Field(0.65, gt=0.5, le=1)
    """Texts have drifted where a classifier tells incoming rows from training rows so well (area under the curve; .5 is chance)."""
    labels: float = Field(0.1, gt=0, le=1)
    """Predictions have drifted where so large a share of them went from some labels to others."""

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Self:
        return _least_within_most(self, "drift", self.least_rows, self.most_rows)


class Quality(Part):
    """Whether the champion is still as good as the verdict said."""

    fresh: str = Field("", max_length=300)
    """A file or folder of labelled rows that it never saw, in an allowed root, with the data set's columns; empty does not look."""
    least_rows: int = Field(100, ge=20)
    """With fewer labelled rows nothing is said."""
    most_rows: int = Field(2_000, ge=20, le=100_000)
    """So many of them are predicted, chosen by hash."""
    margin: float = Field(0.02, ge=0, lt=1)
    """How much less accurate it may be than it was on test."""
    alpha: float = Field(0.05, gt=0, le=0.5)
    """The level of the one-sided test."""

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Self:
        return _least_within_most(self, "quality", self.least_rows, self.most_rows)


P = TypeVar("P", bound=Part)


def _least_within_most(part: P, name: str, least: int, most: int) -> P:
    if least > most:
        raise ValueError(f"triggers.{name}: least_rows {least} is more than most_rows {most}: nothing would ever be said")
    return part


class Triggers(Part):
    """When a new bake-off is due; what `bakeoff retrain` looks at. Nothing here changes what a bake-off finds."""

    champion: bool = True
    """While there is no champion; the same data and contenders are not tried twice."""
    contenders: bool = True
    """When the config asks for something else than the champion's version was judged by."""
    data: bool = True
    """When the data set has a new version: other bytes, or another commit."""
    shutdown_days: int | None = Field(30, ge=0)
    """When a provider ends a model that the champion or a contender asks within so many days; empty does not look."""
    age_days: float | None = Field(None, gt=0)
    """When the newest verdict is so old, whatever changed; empty does not look."""
    drift: Drift = Drift()
    """When incoming rows are no longer like the training set."""
    quality: Quality = Quality()
    """When the champion is worse on fresh labelled rows."""


class Pool(StrEnum):
    """Where contenders are made."""

    HERE = "here"
    """By the run itself."""
    GPU = "gpu"
    APPLE_SILICON = "apple-silicon"
    CPU = "cpu"


class Pools(Part):
    """Work pools that make contenders, as runs of their own. The workers must share a workspace (docs/how-to/machines.md)."""

    tuned: Pool = Pool.HERE
    """Where tuned contenders train: a run each."""
    prompts: Pool = Pool.HERE
    """Where prompted contenders are made and asked: one run for all of them, since they share the cap. Hybrids are made here."""


class BakeoffConfig(Part):
    """One bake-off. Only `dataset` is required."""

    name: str = Field("", pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$")
    """The bake-off's name, of lower-case letters, digits, `-` and `_`; its champions are kept under it. Empty takes the
    config file's name, or the data set's."""
    dataset: Annotated[Dataset, BeforeValidator(lambda value: {"source": value} if isinstance(value, str) else value)]
    """The labelled examples that every contender is measured on."""
    prompts: list[Prompt] = [Prompt(name="zero_shot"), Prompt(name="few_shot", techniques=[Technique.FEW_SHOT])]
    """The prompted contenders."""
    tuned: list[Tuned] = [Tuned(name="lora")]
    """The fine-tuned contenders."""
    hybrids: list[Hybrid] = []
    """Contenders that pair a tuned model with a prompt."""
    trivial: list[Trivial] = [Trivial.MAJORITY, Trivial.TFIDF]
    """Contenders that any other must beat."""
    task: Task = Task()
    """What prompts are told of the task."""
    grader: Grader | None = None
    """generation: who goes over answers that are not their reference's text; empty leaves those wrong."""
    budget: Budget = Budget()
    """What the run may spend."""
    gate: Gate = Gate()
    """What a contender must show to become champion."""
    use: Use = Use()
    """How much the champion will be used; costs and break-even follow from it."""
    pools: Pools = Pools()
    """Which machines make the contenders."""
    store: Name = "local"
    """Which of the operator's named stores receives the champion."""
    samples: list[str] = Field(default=[], max_length=50)
    """Texts whose predictions are shown before and after training (for a data set with one input column)."""
    triggers: Triggers = Triggers()
    """When `bakeoff retrain` runs it again."""

    def alone(self, names: Collection[str]) -> Self:
        """The same bake-off with these contenders, and the parts of hybrids among them, alone, made by the run itself. The whole
        where it has none of these names."""
        hybrids = [each for each in self.hybrids if each.name in names]
        parts = {*names, *(each.tuned for each in hybrids), *(each.prompt for each in hybrids)}
        prompts, tuned = ([each for each in group if each.name in parts] for group in (self.prompts, self.tuned))
        trivial = [each for each in self.trivial if each.value in parts]
        here: dict[str, Any] = {"pools": Pools()}
        if not (hybrids or prompts or tuned or trivial):
            return self.model_copy(update=here)
        trivial = trivial or self.trivial[:1]  # a config needs one
        return self.model_copy(update=here | {"hybrids": hybrids, "prompts": prompts, "tuned": tuned, "trivial": trivial})

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.trivial:
            raise ValueError("trivial is empty: keep at least one, since a bake-off without a baseline proves nothing")
        if not self.prompts and not self.tuned:
            raise ValueError("there is nothing to compare: name at least one contender under prompts or tuned")
        names = [*map(str, self.trivial), *(prompt.name for prompt in self.prompts), *(tuned.name for tuned in self.tuned)]
        names += [hybrid.name for hybrid in self.hybrids]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"contenders share the name {twice[0]!r}: give each its own")
        self._tasks_are_told()
        self._hybrids_have_their_parts()
        unknown = sorted(set(self.gate.slices) - BUILT_IN_SLICES - set(self.dataset.slices))
        if unknown:
            raise ValueError(f"gate.slices names {unknown[0]!r}: it may name label, length, or a column of dataset.slices")
        if self.samples and len(self.dataset.inputs) > 1:
            raise ValueError(f"samples are single texts, but dataset.inputs has {len(self.dataset.inputs)} columns: remove samples")
        self._answers_are_of_the_kind()
        return self

    def _answers_are_of_the_kind(self) -> None:
        free = self.dataset.kind is Kind.GENERATION
        if self.grader and not free:
            raise ValueError("grader goes over answers in free text, but dataset.kind is classification: remove grader")
        for tuned in self.tuned:
            if (free or tuned.as_text) and tuned.method is Method.HEAD:
                raise ValueError(f"tuned {tuned.name!r} answers in text, where there is no head to train: set method lora or full")
            unheeded = [name for name in OF_HEADS if getattr(tuned, name) != Tuned.model_fields[name].default]
            if (free or tuned.as_text) and unheeded:
                raise ValueError(
                    f"tuned {tuned.name!r} answers in text, where {unheeded[0]} has no meaning: remove it, or train a head without "
                    "as_text"
                )
            if tuned.objective in (Objective.PREFERENCES, Objective.REINFORCEMENT):
                if not (free or tuned.as_text):
                    raise ValueError(
                        f"tuned {tuned.name!r}: objective {tuned.objective} teaches what to write: set as_text: true, or "
                        "dataset.kind: generation"
                    )
                if tuned.method is not Method.LORA or tuned.quantized:
                    raise ValueError(
                        f"tuned {tuned.name!r}: objective {tuned.objective} goes on from an adapter, whose copy is the reference: "
                        "set method: lora, not quantized"
                    )
        if not free:
            return
        if Trivial.TFIDF in self.trivial:
            raise ValueError("trivial tfidf names labels, but dataset.kind is generation: keep majority")
        if self.hybrids:
            raise ValueError("hybrids pair contenders that name labels, but dataset.kind is generation: remove hybrids")
        for prompt in self.prompts:
            if prompt.order is Order.GROUPED or prompt.examples_tried or prompt.selections_tried or prompt.orders_tried:
                raise ValueError(f"prompt {prompt.name!r}: examples are grouped, and tried on dev, by label; free text has none")
            needs_labels = [each for each in prompt.techniques if each not in FREE_TEXT]
            if needs_labels:
                raise ValueError(
                    f"prompt {prompt.name!r}: technique {needs_labels[0]} needs labels, but dataset.kind is generation; there are "
                    f"{', '.join(sorted(FREE_TEXT))}"
                )

    def _tasks_are_told(self) -> None:
        for prompt in self.prompts:
            if Technique.DESCRIPTIVE in prompt.techniques and not (self.task.guidelines or self.task.definitions):
                raise ValueError(
                    f"prompt {prompt.name!r} is descriptive, but there is nothing to describe: fill task.guidelines or "
                    "task.definitions"
                )
            if Technique.FLIPPED in prompt.techniques and prompt.interview is Interview.CONFIG and not self.task.answers:
                raise ValueError(
                    f"prompt {prompt.name!r} takes its answers from the config: fill task.answers, or set interview: rows"
                )

    def _hybrids_have_their_parts(self) -> None:
        for hybrid in self.hybrids:
            for kind, name, known in (
                ("tuned", hybrid.tuned, [tuned.name for tuned in self.tuned]),
                ("prompts", hybrid.prompt, [prompt.name for prompt in self.prompts]),
            ):
                if name not in known:
                    raise ValueError(
                        f"hybrid {hybrid.name!r} wants {name!r}, which {kind} does not have: it has {', '.join(known) or 'none'}"
                    )

    @model_validator(mode="before")
    @classmethod
    def _free_text_has_one_trivial_answer(cls, values: Any) -> Any:
        dataset = values.get("dataset") if isinstance(values, Mapping) else None
        free = isinstance(dataset, Mapping) and dataset.get("kind") == Kind.GENERATION
        return {**values, "trivial": [Trivial.MAJORITY]} if free and "trivial" not in values else values

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_data_set(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("name"):
            dataset = values.get("dataset")
            source = dataset.get("source") if isinstance(dataset, Mapping) else getattr(dataset, "source", dataset)
            return {**values, "name": _slug(PurePosixPath(str(source or "")).stem)}
        return values


def load_config(path: Path, overrides: Sequence[str] = ()) -> BakeoffConfig:
    """Read a YAML config and apply `key.inner=value` overrides, their values read as YAML.

    Raises:
        BadConfig: the file is missing or not YAML, or a key or value is wrong; every wrong key is named.
    """
    values = _read_yaml(path)
    values.setdefault("name", _slug(path.stem))
    for override in overrides:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: BakeoffConfig | Mapping[str, Any], where: str = "config") -> BakeoffConfig:
    """Validate a config given as a mapping.

    Raises:
        BadConfig: naming every wrong key, its value and what is expected.
    """
    if isinstance(values, BakeoffConfig):
        return values
    try:
        return BakeoffConfig.model_validate(values)
    except ValidationError as error:
        raise BadConfig(explain(error, where)) from None


def explain(error: ValidationError, where: str) -> str:
    """A validation error as one line a fault: key, what is wrong, the value. The value of an unknown key, or of one that names a
    variable, may be a secret in the wrong place, and is not shown."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(step) for step in fault["loc"]) or "(whole)"
        value, kind = fault["input"], fault["type"]
        hidden = isinstance(value, Mapping) or kind in {"missing", "extra_forbidden"} or key.endswith("key_env")
        shown = "" if hidden else f" (got {str(value)[:80]!r})"
        bare = kind == "string_type" and isinstance(value, bool)
        hint = "; quote it, since YAML reads a bare yes, no, on, off, true or false as true or false" if bare else ""
        lines.append(f"  {key}: {fault['msg'].removeprefix('Value error, ')}{shown}{hint}")
    return f"{where} is refused:\n" + "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadConfig(f"cannot read config {path}: {error.strerror}; give the path of a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(f"config {path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise BadConfig(f"config {path} must hold keys and values, at least `dataset:`; it holds {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. Numbers index lists, so `tuned.0.epochs=1` works."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise BadConfig(f"override {override!r} is not of the form key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadConfig(f"override {override!r}: the value is not YAML; quote it") from None
    *path, last = key.split(".")
    if path and path[0] in ("prompts", "tuned") and path[0] not in values:
        default = BakeoffConfig.model_fields[path[0]].default
        values[path[0]] = [part.model_dump(mode="json", exclude_unset=True) for part in default]
    place: Any = values
    for step in path:
        place = _descend(place, step, override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _descend(place: Any, step: str, override: str) -> Any:
    inner = place[_index(place, step, override)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(inner, str) and step == "dataset":
        inner = place[step] = {"source": inner}
    if not isinstance(inner, dict | list):
        raise BadConfig(f"override {override!r}: {step!r} holds {inner!r}, which has no keys inside")
    return inner


def _index(place: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise BadConfig(f"override {override!r}: {step!r} must be a position from 0 to {len(place) - 1} in the list")
    return int(step)


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
    return slug or "bakeoff"
