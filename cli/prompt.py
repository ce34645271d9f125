"""`bakeoff prompt`: the exact messages that a row becomes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cli.options import written_out
from cli.run import allow_roots
from services.bench import opened
from tasks.config import BakeoffConfig, Prompt, Technique, load_config
from tasks.errors import BadConfig
from tasks.records import Example, Split

STEPS, LABEL = "<what the model says first>", "<its label>"
"""Stand for the replies that later turns depend on; nothing is asked."""


def show_prompt(config: Path, overrides: Sequence[str], name: str, technique: str, split: Split, row: int) -> dict[str, Any]:
    """The requests that a row of a split becomes: `prompt`, `row` (its place in the source), and `requests`, in order.

    Args:
        name: the prompt's name in the config; empty goes by technique.
        technique: the first prompt of the config that has it, else one made of this technique alone.
        row: counted from 1, within the split.

    Raises:
        BadConfig: there is no such prompt or row.
    """
    from tasks.data.examples import read_examples
    from tasks.data.load import load
    from tasks.prompting.ask import questions_of, read_prompt
    from tasks.prompting.techniques.registry import build_prompt

    parsed = load_config(config, overrides)
    prompt = choose(parsed, name, technique)
    allow_roots(config)
    with opened(parsed) as bench:
        dataset = load(parsed.dataset, bench.settings, bench.workspace)
        examples = read_examples(dataset, split)
        if not 1 <= row <= len(examples):
            raise BadConfig(f"there is no row {row} in {split}: it has rows 1 to {len(examples)}")
        folder = build_prompt(prompt, parsed.task, dataset, bench.places, bench.cap, bench.workspace).folder
        spec, example = read_prompt(folder), examples[row - 1]
        [question] = questions_of(folder, spec, [example])
        return {"prompt": prompt.name, "row": example.row, "requests": list(_requests(spec, example, question.shots))}


def choose(config: BakeoffConfig, name: str, technique: str) -> Prompt:
    """The prompt that is meant; the config's first one where nothing is said."""
    if name:
        found = [prompt for prompt in config.prompts if prompt.name == name]
        if not found:
            known = ", ".join(prompt.name for prompt in config.prompts) or "none"
            raise BadConfig(f"there is no prompt named {name!r}; the config has {known}")
        return found[0]
    if technique and technique not in [*Technique]:
        raise BadConfig(f"there is no technique {technique!r}; there are {', '.join(Technique)}")
    if not technique:
        return config.prompts[0] if config.prompts else Prompt(name="zero_shot")
    with_it = sorted((prompt for prompt in config.prompts if technique in prompt.techniques), key=lambda each: len(each.techniques))
    if with_it:
        return with_it[0]
    base = config.prompts[0] if config.prompts else Prompt(name="base")
    return base.model_copy(update={"name": technique, "techniques": [Technique(technique)]})


def _requests(spec: Any, example: Example, shots: Any) -> Iterator[dict[str, Any]]:
    """The first sample's requests; the other samples of a vote differ in their seed alone."""
    from tasks.prompting.conversation import converse
    from tasks.prompting.journal import Reply

    once = spec.model_copy(update={"samples": 1, "rounds": min(spec.rounds, 1)})
    talk = converse(once, example.inputs, shots)
    request = next(talk)
    while True:
        yield request
        text = LABEL if "response_format" in request or not spec.think else STEPS
        try:
            request = talk.send(Reply(text, "stop", None, 0, 0, 0.0, 0.0, 1))
        except StopIteration:
            return


def as_text(shown: dict[str, Any]) -> str:
    """For people: each message under its role.

    Control codes, which could act on a terminal, are written out; the JSON has all as it is sent.
    """
    lines = [f"prompt {shown['prompt']}, row {shown['row']} of the source"]
    for number, request in enumerate(shown["requests"], 1):
        held = ", held to a JSON schema" if "response_format" in request else ""
        lines.append(f"\n=== request {number} to {request['model']}: at most {request['max_tokens']} tokens{held}")
        lines += [f"--- {message['role']}\n{message['content']}" for message in request["messages"]]
    return written_out("\n".join(lines))
