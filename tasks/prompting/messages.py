"""The one renderer: an example becomes messages here and nowhere else, for asking, publishing and checking alike.

What does not depend on the row (instructions, labelled examples) comes first and the input last, so that servers can reuse their
cache of the shared prefix.
"""

import json
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

from pydantic import Field

from tasks.config import Technique
from tasks.data.examples import input_text
from tasks.errors import BadConfig
from tasks.records import Model

Message = dict[str, str]
ROW = "{{ text }}"
"""The row's template: one input column as it is, several as `name: value` lines."""


class Shot(Model):
    """A labelled train row that a few-shot prompt shows."""

    inputs: dict[str, str]
    label: str


class PromptSpec(Model):
    """All that is needed to ask about a row, byte for byte the same anywhere: the `spec` in a prompt contender's manifest."""

    endpoint: str
    """The endpoint's name; where it lies is the operator's matter."""
    model: str
    """The model that it was made for."""
    technique: Technique
    labels: list[str]
    """What may be answered."""
    inputs: list[str]
    """The input columns, in the order in which they are shown."""
    instructions: str
    """What is asked, rendered."""
    row: str = ROW
    """Jinja template of a row's message; sees `text` (the one text of an example) and `inputs` (by column)."""
    shots: list[Shot] = []
    """Shown as turns before the row."""
    structured: bool
    """Whether the answer is held to a JSON schema."""
    max_answer_tokens: int = Field(ge=1)


def render(spec: PromptSpec, inputs: Mapping[str, str]) -> list[Message]:
    """The messages for one row: a user and an assistant turn for each labelled example, and the row last, as a user. The
    instructions lead the first user turn: small models follow them better there than in a system message (measured).

    Values are data: a row that holds template syntax is shown as it stands.

    Raises:
        BadConfig: the row lacks an input column of the prompt.
    """
    messages = []
    for shot in spec.shots:
        messages.append({"role": "user", "content": _row(spec, shot.inputs)})
        messages.append({"role": "assistant", "content": _answer(spec, shot.label)})
    messages.append({"role": "user", "content": _row(spec, inputs)})
    messages[0]["content"] = f"{spec.instructions}\n\n{messages[0]['content']}"
    return messages


def render_instructions(template: str, labels: list[str], inputs: list[str]) -> str:
    """Instructions with `{{ labels }}` (a list; `{{ labels|join(", ") }}`) and `{{ inputs }}` (column names) filled in.

    Raises:
        BadConfig: it is no Jinja template, names something else, or tries to leave the sandbox.
    """
    from jinja2 import TemplateError

    try:
        return str(_template(template).render(labels=labels, inputs=inputs))
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        raise BadConfig(f"instructions cannot be rendered: {error}; they may use {{{{ labels }}}} and {{{{ inputs }}}}") from None


def answer_schema(labels: list[str]) -> dict[str, Any]:
    """The `response_format` that holds an answer to one of the labels."""
    label = {"type": "string", "enum": list(labels)}
    schema = {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def build_request(spec: PromptSpec, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The body of the request for one row, as deterministic as endpoints allow; its hash names the answer in the journal."""
    request: dict[str, Any] = {
        "model": spec.model,
        "messages": render(spec, inputs),
        "temperature": 0,
        "seed": 0,
        "max_tokens": spec.max_answer_tokens,
    }
    return request | ({"response_format": answer_schema(spec.labels)} if spec.structured else {})


def _row(spec: PromptSpec, inputs: Mapping[str, str]) -> str:
    missing = [name for name in spec.inputs if name not in inputs]
    if missing:
        raise BadConfig(f"the prompt shows column {missing[0]!r}, which the row lacks; it has {', '.join(inputs) or 'none'}")
    shown = {name: inputs[name] for name in spec.inputs}
    return str(_template(spec.row).render(text=input_text(shown), inputs=shown))


def _answer(spec: PromptSpec, label: str) -> str:
    return json.dumps({"label": label}, ensure_ascii=False) if spec.structured else label


@lru_cache(maxsize=64)
def _template(text: str) -> Any:
    return _environment().from_string(text)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})  # the sandbox alone lets `{{ "a" * 10 ** 10 }}` take all memory

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            raise SecurityError(f"operator {operator} is not allowed in a prompt")

    environment = Sandbox(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own `tojson` escapes for HTML
    return environment
