"""The whole config, and what its parts must have in common."""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.config.contenders import Grader, Hybrid, Trivial
from tasks.config.data import BUILT_IN_SLICES, Dataset, Kind
from tasks.config.gate import Budget, Gate, Metric, Use
from tasks.config.part import Name, Part, slug_of
from tasks.config.pools import Pools
from tasks.config.prompting import FREE_TEXT, Interview, Order, Prompt, Task, Technique
from tasks.config.triggers import Triggers
from tasks.config.tuning import OF_HEADS, Method, Objective, Tuned


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
        if "label" in self.gate.slices:
            raise ValueError("gate.slices names label, but dataset.kind is generation, whose rows have none: remove it")
        if self.gate.metric is Metric.MACRO_F1:
            raise ValueError("gate.metric macro_f1 is a mean over labels, but dataset.kind is generation: set accuracy")
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
            return {**values, "name": slug_of(PurePosixPath(str(source or "")).stem)}
        return values
