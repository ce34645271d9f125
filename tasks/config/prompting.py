"""`prompts` and `task`: what is asked of a large model, and how."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tasks.config.part import Name, Part


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
