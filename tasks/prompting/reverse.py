"""The renderer backwards: which row a chat asks about, so that whoever answers instead of the prompted LLM sees the row alone.

The rule: the row stands in the user's last message, turns that only ask for the answer's form or for a review passed over.
1. Where one of the bake-off's prompts words a row like this message, the row is what stands in the place of the inputs. It counts
   only if rendering those inputs again gives the same message to the byte.
2. Else the message is the row: a single input as it stands; several as a JSON object, or as `name: value` lines.
"""

import html
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.config import BakeoffConfig, Prompt, Technique
from tasks.data.examples import input_text
from tasks.errors import BadConfig, BakeoffError
from tasks.prompting.messages import PromptSpec, Shot, render
from tasks.prompting.techniques.drafting import Drafting
from tasks.prompting.techniques.registry import TECHNIQUES, plain_spec, read_template
from tasks.records import DatasetRecord
from tasks.settings import Endpoint, Settings

logger = logging.getLogger(__name__)
WORDING = (Technique.PERSONA, Technique.DESCRIPTIVE, Technique.STRUCTURED, Technique.CHAIN_OF_THOUGHT, Technique.REFLECT)
"""Techniques that say something which is known without data: what the others add stands in other turns, or cannot be known here."""
DECODE: Sequence[Callable[[str], str]] = (str, html.unescape, lambda text: str(json.loads(f'"{text}"')))
"""What a template may have done to a value: nothing, escaped it for XML, or for JSON."""


@dataclass(frozen=True)
class Wording:
    """How a prompt words a row in one turn."""

    spec: PromptSpec
    first: bool
    """Whether it is the conversation's first turn, which gives the instructions."""
    pattern: re.Pattern[str]

    def read(self, message: str) -> dict[str, str] | None:
        """The inputs in a message; None where this is not how it is worded."""
        found = self.pattern.fullmatch(message)
        for decode in DECODE if found else ():
            try:
                inputs = {name: decode(value) for name, value in zip(self.spec.inputs, found.groups(), strict=True)}  # type: ignore[union-attr]
            except ValueError:
                continue
            if _turn(self.spec, inputs, self.first) == message:
                return inputs
        return None


@dataclass(frozen=True)
class Reader:
    """Finds rows in messages."""

    inputs: Sequence[str]
    wordings: Sequence[Wording] = ()
    asides: frozenset[str] = frozenset()
    """What users say that is no row: how to answer, what to review."""

    def inputs_of(self, messages: Sequence[str]) -> dict[str, str]:
        """The row that a chat asks about.

        Args:
            messages: what the user said, turn by turn.

        Raises:
            BadConfig: there is none.
        """
        rows = [message for message in messages if message not in self.asides]
        if not rows:
            raise BadConfig("no message of the user holds a row")
        found = next(filter(None, (wording.read(rows[-1]) for wording in self.wordings)), None)
        if found:
            return found
        return {self.inputs[0]: rows[-1]} if len(self.inputs) == 1 else self._several(rows[-1])

    def _several(self, message: str) -> dict[str, str]:
        lines = _pattern(lambda inputs: input_text(inputs), self.inputs).fullmatch(message)
        try:
            told: Any = json.loads(message) if message.lstrip().startswith("{") else None
        except ValueError:
            told = None
        if isinstance(told, Mapping) and all(isinstance(told.get(name), str) for name in self.inputs):
            return {name: str(told[name]) for name in self.inputs}
        if lines:
            return dict(zip(self.inputs, lines.groups(), strict=True))
        columns = ", ".join(self.inputs)
        raise BadConfig(f"the champion sees {columns}: give them as a JSON object with these keys, or as `name: value` lines")


def reader_of(config: Mapping[str, Any], labels: Sequence[str], inputs: Sequence[str], settings: Settings) -> Reader:
    """What finds rows in messages worded by the prompts of a bake-off.

    Args:
        config: the bake-off's, as the champion's record holds it. A prompt whose wording cannot be known here is left out.
    """
    wordings: list[Wording] = []
    asides: set[str] = set()
    try:
        parsed = BakeoffConfig.model_validate(config) if config else None
    except ValueError:
        logger.warning("the bake-off's config is one of another release: messages are read by the general rule alone")
        parsed = None
    for prompt in parsed.prompts if parsed else ():
        try:
            for spec in _specs(prompt, parsed, labels, inputs, settings):  # type: ignore[arg-type]
                wordings += [wording for first in (True, False) if (wording := _wording(spec, first))]
                asides |= {text for text in (spec.answer_form, spec.review) if text}
        except (BakeoffError, OSError) as error:
            logger.warning("messages worded by prompt %s are read by the general rule alone: %s", prompt.name, error)
    return Reader(list(inputs), sorted(wordings, key=lambda each: -len(each.pattern.pattern)), frozenset(asides))


def _specs(
    prompt: Prompt, config: BakeoffConfig, labels: Sequence[str], inputs: Sequence[str], settings: Settings
) -> list[PromptSpec]:
    """The prompt as it is worded for endpoints that are held to a schema, and for those that are not."""
    dataset = DatasetRecord(source="", revision="", inputs=list(inputs), labels=list(labels), rows={}, label_rows={})
    specs = []
    for structured in (True, False):
        endpoint = Endpoint(model="any", json_schema=structured, context_tokens=10_000_000)
        drafting = Drafting(prompt, config.task, dataset, endpoint, settings, Path(), _nobody)
        spec = plain_spec(drafting, read_template(prompt, settings))
        for name in (name for name in WORDING if name in prompt.techniques):
            spec = TECHNIQUES[name](spec, drafting)
        specs.append(spec)
    return specs


def _nobody() -> Any:
    raise AssertionError("wording a row asks nobody")


def _wording(spec: PromptSpec, first: bool) -> Wording | None:
    """None where a turn is the row alone, which any message would match."""
    pattern = _pattern(lambda inputs: _turn(spec, inputs, first), spec.inputs)
    fixed = pattern.pattern.replace("(.*)", "")
    return Wording(spec, first, pattern) if fixed else None


def _turn(spec: PromptSpec, inputs: Mapping[str, str], first: bool) -> str:
    shown = [] if first else [Shot(inputs=dict(inputs), label=(spec.labels or [""])[0])]
    return render(spec, inputs, shown)[-1]["content"]


def _pattern(worded: Callable[[Mapping[str, str]], str], inputs: Sequence[str]) -> re.Pattern[str]:
    """What matches a row's wording, each input a group. Marks stand in the inputs' places, that no text has."""
    marks = {name: f"\ue000{place}\ue001" for place, name in enumerate(inputs)}
    text = worded(marks)
    if any(text.count(mark) != 1 for mark in marks.values()) or [*marks.values()] != re.findall("\ue000\\d+\ue001", text):
        raise BadConfig("the template does not show each input once, in order")
    return re.compile("(.*)".join(map(re.escape, re.split("\ue000\\d+\ue001", text))), re.DOTALL)
