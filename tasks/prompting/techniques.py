"""How a prompt is built, by technique, and the folder that it becomes.

A technique chooses what the prompt shows besides the row. A new one is a function here, its line in `TECHNIQUES`, and its name in
`tasks.config.Technique`.
"""

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from tasks.config import Prompt, Technique
from tasks.data.examples import input_text, read_examples
from tasks.errors import BadConfig, BadData
from tasks.manifest import ContenderManifest, write_manifest
from tasks.prompting.budget import count_prompt_tokens, count_tokens
from tasks.prompting.messages import PromptSpec, Shot, render, render_instructions
from tasks.records import Arm, ContenderRecord, DatasetRecord, Example
from tasks.settings import Endpoint
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
STAGE = Stage("prompt", 1, ("tasks.prompting.techniques", "tasks.prompting.messages"))
TASK = "Classify the text."
"""The general instructions, for a prompt that has none of its own."""
NAMES = ' Answer with one of these labels: {{ labels|join(", ") }}.'
FORM = ' Answer as {"label": "…"}.'
FORMS = ' Answer with JSON: {% for label in labels %}{{ " or " if not loop.first }}{"label": {{ label|json }}}{% endfor %}.'
"""How to answer where the answer is held to a schema: FORM without labelled examples, FORMS with them. Unsaid, small models fill
the object with white space; and SmolLM2 says one label to nearly every row with FORMS alone, or with FORM and examples."""
SHOTS_SHARE = 0.5
"""Of the context, at most so much goes to labelled examples; the rest is the row's."""

ANSWER_TOKENS = 24
"""Of the context, about so much goes to an example's answer and the marks of its two turns."""

Choose = Callable[[Prompt, DatasetRecord, Endpoint], list[Shot]]


def zero_shot(prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint) -> list[Shot]:
    """Instructions alone."""
    return []


def few_shot(prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint) -> list[Shot]:
    """Labelled train rows, balanced over the labels, chosen and ordered by the seed; rows too long for the context are passed over.

    Raises:
        BadData: no train row is short enough.
    """
    room = (endpoint.context_tokens - prompt.max_answer_tokens) * SHOTS_SHARE / prompt.examples
    rows = [row for row in read_examples(dataset, "train") if row.label is not None]
    short = [row for row in rows if count_tokens(input_text(row.inputs)) + ANSWER_TOKENS <= room]
    if len(short) < len(rows):
        passed_over = len(rows) - len(short)
        logger.info("%s: %d of %d train rows are too long to be shown as examples", prompt.name, passed_over, len(rows))
    if not short:
        raise BadData(
            f"no train row is short enough to show {prompt.examples} examples in half of {endpoint.context_tokens} tokens: "
            f"lower `examples` of prompt {prompt.name!r}"
        )
    return [Shot(inputs=row.inputs, label=str(row.label)) for row in _balanced(short, dataset.labels, prompt)]


TECHNIQUES: dict[Technique, Choose] = {Technique.ZERO_SHOT: zero_shot, Technique.FEW_SHOT: few_shot}


def build_prompt(prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint, workspace: Workspace) -> ContenderRecord:
    """The prompt contender's folder, which holds everything that its messages need; nothing is sent.

    Args:
        prompt: the contender's part of the config.
        dataset: its train rows give the examples.
        endpoint: as the settings have it; it need not listen.

    Raises:
        BadConfig: the instructions cannot be rendered, or leave no room for a row.
        BadData: no train row fits as an example.
    """
    config = {"prompt": prompt, "model": endpoint.model, "structured": endpoint.json_schema, "context": endpoint.context_tokens}

    def build(building: Building) -> ContenderRecord:
        spec = _spec(prompt, dataset, endpoint)
        manifest = ContenderManifest(
            name=prompt.name,
            arm=Arm.PROMPT,
            kind="prompt",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies=f"endpoint:{prompt.endpoint}",
            spec=spec.model_dump(mode="json"),
        )
        write_manifest(building.folder, manifest)
        return ContenderRecord(name=prompt.name, arm=Arm.PROMPT, kind="prompt", occupies=manifest.occupies)

    return workspace.produce(STAGE, [dataset.fingerprint], config, ContenderRecord, build, label=f"prompt {prompt.name}")


def _spec(prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint) -> PromptSpec:
    shots = TECHNIQUES[prompt.technique](prompt, dataset, endpoint)
    template = _instructions(prompt.instructions, endpoint.json_schema, bool(shots))
    spec = PromptSpec(
        endpoint=prompt.endpoint,
        model=endpoint.model,
        technique=prompt.technique,
        labels=dataset.labels,
        inputs=dataset.inputs,
        instructions=render_instructions(template, dataset.labels, dataset.inputs),
        shots=shots,
        structured=endpoint.json_schema,
        max_answer_tokens=prompt.max_answer_tokens,
    )
    fixed = count_prompt_tokens(render(spec, dict.fromkeys(dataset.inputs, "")))
    if 0.8 * fixed + prompt.max_answer_tokens >= endpoint.context_tokens:
        raise BadConfig(
            f"prompt {prompt.name!r} takes about {fixed} tokens before any row, and endpoint {prompt.endpoint!r} has "
            f"{endpoint.context_tokens}: shorten `instructions` or lower `examples`"
        )
    return spec


def _instructions(own: str, structured: bool, with_examples: bool) -> str:
    """The instructions' template: the prompt's own or the general ones, and the form of the answer."""
    forms = FORMS if with_examples else FORM
    if own:
        return own + (forms if structured else "")
    return TASK + (forms if structured and with_examples else NAMES + (FORM if structured else ""))


def _balanced(rows: Sequence[Example], labels: Sequence[str], prompt: Prompt) -> list[Example]:
    """As many rows of each label as can be, then shuffled so that no label always comes last. Depends on rows and seed alone."""
    chooser: Any = random.Random(f"{prompt.seed}")  # noqa: S311
    pools = []
    for label in labels:
        pool = sorted((row for row in rows if row.label == label), key=lambda row: row.example)
        chooser.shuffle(pool)
        pools.append(pool)
    chosen: list[Example] = []
    while len(chosen) < prompt.examples and any(pools):
        for pool in chooser.sample(pools, len(pools)):
            if pool and len(chosen) < prompt.examples:
                chosen.append(pool.pop())
    chooser.shuffle(chosen)
    return chosen
