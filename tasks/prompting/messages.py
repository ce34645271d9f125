"""The one renderer: an example becomes messages here and nowhere else, for asking, publishing and checking alike.

What does not depend on the row (instructions, labelled examples) comes first and the input last, so that servers can reuse their
cache of the shared prefix. Templates are Jinja in a sandbox, rendered once: a row's text is a value and never a template.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.config import Order, Selection, Technique
from tasks.data.examples import input_text
from tasks.errors import BadConfig
from tasks.records import Model

Message = dict[str, str]
TEMPLATES = Path(__file__).with_name("templates")
TOP_TOKENS = 20
"""How many candidates for the first token are asked for when labels are scored; as many as OpenAI gives."""


class Shot(Model):
    """A labelled train row that a few-shot prompt shows."""

    inputs: dict[str, str]
    label: str


class Pool(Model):
    """Examples that are chosen for each row anew; the rows lie beside the manifest (`tasks/prompting/techniques/pool.py`)."""

    selection: Selection
    order: Order
    count: int
    """How many are shown with a row."""
    room: int
    """Tokens that they may take together; what does not fit is left out."""


class PromptSpec(Model):
    """All that is needed to ask about a row, byte for byte the same anywhere: the `spec` in a prompt contender's manifest."""

    endpoint: str
    """The endpoint's name; where it lies is the operator's matter."""
    model: str
    """The model that it was made for."""
    techniques: list[Technique]
    labels: list[str]
    """What may be answered."""
    inputs: list[str]
    """The input columns, in the order in which they are shown."""
    instructions: str
    """What is asked, rendered."""
    answer_form: str = ""
    """How to answer; stands with the instructions, or with the last question where the model thinks first."""
    template: str
    """Jinja template of a user's turn; `render` says what it sees."""
    persona: str = ""
    guidelines: str = ""
    definitions: dict[str, str] = {}
    """What each label means."""
    shots: list[Shot] = []
    """Shown as turns before the row; the same for every row."""
    pool: Pool | None = None
    """Examples chosen by row, shown in place of `shots`."""
    structured: bool
    """Whether the answer is held to a JSON schema."""
    free: bool = False
    """Whether the answer is free text: any whole reply is one."""
    think: str = ""
    """Asks for steps before the label; empty asks for none."""
    thinking_tokens: int = 0
    review: str = ""
    """Asks for a review of the answer; empty asks for none."""
    rounds: int = 0
    """Reviews at most."""
    samples: int = 1
    """Answers that vote; one answers at temperature 0."""
    temperature: float = 0.0
    scored: bool = False
    """Whether labels are scored by the probability of their first token."""
    bias: dict[str, float] = {}
    """scored: added to each label's log-probability; fitted on dev."""
    scale: float = 1.0
    """scored: multiplies the log-probabilities before the bias; fitted on dev."""
    max_answer_tokens: int = Field(ge=1)


def template_of(name: str) -> str:
    """The text of a built-in template."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")


def render(spec: PromptSpec, inputs: Mapping[str, str], shots: Sequence[Shot] | None = None, hint: str = "") -> list[Message]:
    """The messages for one row: a user and an assistant turn for each labelled example, and the row last, as a user. The
    instructions lead the first user turn: small models follow them better there than in a system message (measured).

    The template sees `first` (whether this is the first turn, which gives the instructions), `persona`, `instructions`,
    `guidelines`, `definitions`, `labels`, `answer_form`, `text` (the one text of an example), `inputs` (by column) and `hint`.

    Values are data: a row that holds template syntax is shown as it stands.

    Args:
        shots: the labelled examples to show; those of the spec if None.
        hint: what another contender thinks of the row.

    Raises:
        BadConfig: the row lacks an input column of the prompt, or the template cannot be rendered.
    """
    messages: list[Message] = []
    for shot in spec.shots if shots is None else shots:
        messages.append({"role": "user", "content": _turn(spec, shot.inputs, not messages)})
        messages.append({"role": "assistant", "content": _answer(spec, shot.label)})
    messages.append({"role": "user", "content": _turn(spec, inputs, not messages, hint)})
    if spec.think:
        messages[-1]["content"] += f"\n\n{spec.think}"
    return messages


def render_instructions(template: str, labels: list[str], inputs: list[str]) -> str:
    """Instructions with `{{ labels }}` (a list; `{{ labels|join(", ") }}`) and `{{ inputs }}` (column names) filled in.

    Raises:
        BadConfig: it is no Jinja template, names something else, or tries to leave the sandbox.
    """
    try:
        return render_text(template, labels=labels, inputs=inputs)
    except BadConfig as error:
        raise BadConfig(f"instructions cannot be rendered: {error}; they may use {{{{ labels }}}} and {{{{ inputs }}}}") from None


def render_text(template: str, **values: Any) -> str:
    """A template in the sandbox, rendered once.

    Raises:
        BadConfig: it is no Jinja template, names what it is not given, or tries to leave the sandbox.
    """
    from jinja2 import TemplateError

    try:
        return str(_template(template).render(**values))
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        raise BadConfig(str(error)) from None


def names_in(template: str) -> set[str]:
    """What a template wants to be given. Raises BadConfig where it is no Jinja template."""
    from jinja2 import TemplateError
    from jinja2.meta import find_undeclared_variables

    try:
        return set(find_undeclared_variables(_environment().parse(template)))
    except TemplateError as error:
        raise BadConfig(str(error)) from None


def answer_schema(labels: list[str]) -> dict[str, Any]:
    """The `response_format` that holds an answer to one of the labels."""
    label = {"type": "string", "enum": list(labels)}
    schema = {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def label_request(spec: PromptSpec, messages: Sequence[Message], sample: int = 0) -> dict[str, Any]:
    """The body of a request for a label, as deterministic as endpoints allow; its hash names the answer in the journal.

    Args:
        sample: which of the voting samples; it seeds the endpoint.
    """
    request = {"model": spec.model, "messages": list(messages), "temperature": spec.temperature or 0, "seed": sample}
    if spec.scored:
        return request | {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_TOKENS}
    request["max_tokens"] = spec.max_answer_tokens
    return request | ({"response_format": answer_schema(spec.labels)} if spec.structured else {})


def text_request(spec: PromptSpec, messages: Sequence[Message], max_tokens: int, sample: int = 0) -> dict[str, Any]:
    """The body of a request for free text, such as the steps of a chain of thought."""
    sampled = {"temperature": spec.temperature or 0, "seed": sample, "max_tokens": max_tokens}
    return {"model": spec.model, "messages": list(messages), **sampled}


def build_request(
    spec: PromptSpec, inputs: Mapping[str, str], shots: Sequence[Shot] | None = None, hint: str = ""
) -> dict[str, Any]:
    """The first request for a row; where the model thinks or reviews, its replies make the next ones."""
    messages = render(spec, inputs, shots, hint)
    return text_request(spec, messages, spec.thinking_tokens) if spec.think else label_request(spec, messages)


def _turn(spec: PromptSpec, inputs: Mapping[str, str], first: bool, hint: str = "") -> str:
    missing = [name for name in spec.inputs if name not in inputs]
    if missing:
        raise BadConfig(f"the prompt shows column {missing[0]!r}, which the row lacks; it has {', '.join(inputs) or 'none'}")
    shown = {name: inputs[name] for name in spec.inputs}
    told = spec.model_dump(include={"persona", "instructions", "guidelines", "definitions", "labels"})
    form = "" if spec.think else spec.answer_form  # whoever is to think first is told how to answer when it is time to
    return render_text(spec.template, first=first, text=input_text(shown), inputs=shown, hint=hint, answer_form=form, **told)


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
    environment.filters["filled"] = lambda values: {name: value for name, value in values.items() if value is not None}
    return environment
