"""`trivial`, `hybrids` and `grader`."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from tasks.config.part import Name, Part
from tasks.config.prompting import Prompt


class Trivial(StrEnum):
    """Contenders that any other must beat."""

    MAJORITY = "majority"
    TFIDF = "tfidf"


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
