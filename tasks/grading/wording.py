"""The same prompt in another order: columns, grades, and the template's sections. What it says stays what it was, so a judge that
understood it gives the same grades.

A template's sections are divided by `{#- section -#}`; the built-in `grader` has them, and a template of one's own may.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from tasks.grading.records import Wording
from tasks.prompting.messages import PromptSpec, render, render_instructions, render_text, template_of
from tasks.prompting.techniques.registry import BUILT_IN_TEMPLATES
from tasks.prompting.techniques.wording import FORM, FORMS, NAMES
from tasks.workspace import digest

MARK = re.compile(r"\s*\{#-? section -?#\}\s*")
TRIES = 200
"""Orders that are drawn to find enough different ones."""


class Other(NamedTuple):
    """A prompt in another order, and which."""

    spec: PromptSpec
    wording: Wording


def reword(spec: PromptSpec, count: int) -> list[Other]:
    """The prompt in up to `count` other orders, the same ones each time. All differ in what the model sees; there are fewer where
    a prompt has too little that could stand in another order."""
    seen, found = {_seen(spec)}, list[Other]()
    for seed in range(TRIES):
        other = _shuffled(spec, random.Random(f"wording {seed}"))  # noqa: S311
        shown = _seen(other.spec)
        if len(found) < count and shown not in seen:
            seen.add(shown)
            found.append(other)
    return found


def _shuffled(spec: PromptSpec, chooser: random.Random) -> Other:
    inputs, labels = _order(spec.inputs, chooser), _order(spec.labels, chooser)
    parts = _sections(spec.template)
    places = _order(range(len(parts)), chooser) if len(parts) > 1 else []
    definitions = {label: spec.definitions[label] for label in labels if label in spec.definitions}
    changes = {
        "inputs": inputs,
        "labels": labels,
        "definitions": definitions,
        "answer_form": _in_order(spec.answer_form, spec, labels),
        "think": _in_order(spec.think, spec, labels),
        "review": _in_order(spec.review, spec, labels),
        "template": _joined([parts[place] for place in places]) if places else spec.template,
    }
    return Other(spec.model_copy(update=changes), Wording(inputs=inputs, labels=labels, sections=places))


def _order(values: Sequence, chooser: random.Random) -> list:
    return chooser.sample(list(values), len(values))


def _sections(template: str) -> list[str]:
    """The template's sections. The built-in templates say the same as `grader`, whose sections stand for theirs."""
    if any(template == template_of(name) for name in BUILT_IN_TEMPLATES):
        template = template_of("grader")
    return [part for part in MARK.split(template) if part.strip()]


def _joined(parts: Sequence[str]) -> str:
    """A template of these sections, with an empty line between those that say something."""
    kept = "".join(f"{{% set part{place} %}}{part}{{% endset %}}" for place, part in enumerate(parts))
    names = ", ".join(f"part{place}" for place in range(len(parts)))
    return f'{kept}{{{{ [{names}]|map("trim")|select|join("\\n\\n") }}}}'


def _in_order(text: str, spec: PromptSpec, labels: Sequence[str]) -> str:
    """A text with the built-in sentences that list the labels in this order."""
    for sentence in (NAMES, FORMS, FORM):
        before, after = (render_instructions(sentence, list(order), spec.inputs) for order in (spec.labels, labels))
        text = text.replace(before, after)
    think = template_of("think")
    return render_text(think, labels=list(labels)) if text and text == render_text(think, labels=spec.labels) else text


def _seen(spec: PromptSpec) -> str:
    """What the model sees of a prompt, whatever the row."""
    shown = render(spec, {column: f"the {column}" for column in spec.inputs}, spec.shots)
    return digest([shown, spec.answer_form if spec.think else "", spec.review])
