"""Techniques that change what a prompt says: `zero_shot`, `descriptive`, `persona`, `structured`."""

from tasks.errors import BadConfig
from tasks.prompting.messages import PromptSpec, template_of
from tasks.prompting.techniques.drafting import Drafting

TASK = "Classify the text."
"""The general instructions, for a prompt that has none of its own."""
FREE = "Answer in as few words as will do."
NAMES = 'Answer with one of these labels: {{ labels|join(", ") }}.'
FORM = 'Answer as {"label": "…"}.'
FORMS = 'Answer with JSON: {% for label in labels %}{{ " or " if not loop.first }}{"label": {{ label|json }}}{% endfor %}.'
"""How to answer where the answer is held to a schema: FORM without labelled examples, FORMS with them. Unsaid, small models fill
the object with white space; and SmolLM2 says one label to nearly every row with FORMS alone, or with FORM and examples."""
PERSONA = "an expert who has labelled thousands of texts like these by hand"
"""The role where the task names none."""


def zero_shot(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The instruction and the row, nothing else."""
    return spec


def descriptive(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The task's guidelines and label definitions in full.

    Raises:
        BadConfig: a definition is of a label that the data does not have.
    """
    unknown = [label for label in drafting.task.definitions if label not in spec.labels]
    if unknown:
        raise BadConfig(f"task.definitions defines {unknown[0]!r}, which is no label: the labels are {', '.join(spec.labels)}")
    definitions = {label: drafting.task.definitions[label] for label in spec.labels if label in drafting.task.definitions}
    return spec.model_copy(update={"guidelines": drafting.task.guidelines, "definitions": definitions})


def persona(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """A role."""
    return spec.model_copy(update={"persona": drafting.task.persona or PERSONA})


def structured(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The same text as Markdown, XML or JSON."""
    return spec.model_copy(update={"template": template_of(drafting.prompt.format)})
