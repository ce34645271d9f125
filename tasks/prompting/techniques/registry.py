"""The techniques by name, and the folder that a prompt becomes.

A technique takes a draft of the prompt one step further. A new one is a function in this package, its line in `TECHNIQUES`, and its
name in `tasks.config.Technique`. They are applied in the order of this table, so that those which try things on dev try the rest.
"""

from tasks.config import Prompt, Task
from tasks.config import Technique as Name
from tasks.errors import BadConfig
from tasks.manifest import ContenderManifest, write_manifest
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap, count_prompt_tokens
from tasks.prompting.messages import PromptSpec, names_in, render, render_instructions, template_of
from tasks.prompting.techniques.drafting import Drafting, Exchange, Technique
from tasks.prompting.techniques.examples import few_shot
from tasks.prompting.techniques.interview import flipped
from tasks.prompting.techniques.optimize import optimized
from tasks.prompting.techniques.reasoning import chain_of_thought, reflect, self_consistency
from tasks.prompting.techniques.scoring import calibrate, log_probability
from tasks.prompting.techniques.wording import FORM, FORMS, FREE, NAMES, TASK, descriptive, persona, structured, zero_shot
from tasks.records import Arm, ContenderRecord, DatasetRecord
from tasks.settings import Places, Settings
from tasks.workspace import Building, Stage, Workspace

STAGE = Stage(
    "prompt",
    2,
    (
        "tasks.prompting.conversation",
        "tasks.prompting.embed",
        "tasks.prompting.messages",
        "tasks.prompting.techniques.drafting",
        "tasks.prompting.techniques.examples",
        "tasks.prompting.techniques.free_text",
        "tasks.prompting.techniques.interview",
        "tasks.prompting.techniques.optimize",
        "tasks.prompting.techniques.pool",
        "tasks.prompting.techniques.reasoning",
        "tasks.prompting.techniques.registry",
        "tasks.prompting.techniques.scoring",
        "tasks.prompting.techniques.trials",
        "tasks.prompting.techniques.wording",
    ),
)
BUILT_IN_TEMPLATES = ("plain", "markdown", "xml", "json", "grader")
"""What a prompt's `template` may name instead of a file."""
NOT_RENDERED = "the template {0!r} of prompt {1!r} cannot be rendered: {2}"
WITHOUT_ROW = "the template {0!r} of prompt {1!r} does not show the row: use {{{{ text }}}}, or {{{{ inputs.NAME }}}}"

TECHNIQUES: dict[Name, Technique] = {
    Name.ZERO_SHOT: zero_shot,
    Name.PERSONA: persona,
    Name.DESCRIPTIVE: descriptive,
    Name.STRUCTURED: structured,
    Name.CHAIN_OF_THOUGHT: chain_of_thought,
    Name.REFLECT: reflect,
    Name.SELF_CONSISTENCY: self_consistency,
    Name.LOG_PROBABILITY: log_probability,
    Name.FLIPPED: flipped,
    Name.FEW_SHOT: few_shot,
    Name.OPTIMIZED: optimized,
}


def build_prompt(
    prompt: Prompt,
    task: Task,
    dataset: DatasetRecord,
    places: Places,
    cap: Cap,
    workspace: Workspace,
    transcript: list[Exchange] | None = None,
) -> ContenderRecord:
    """The prompt contender's folder, which holds everything that its messages need.

    Most techniques send nothing. Those that choose or calibrate on dev ask the endpoint, within the cap.

    Args:
        prompt: the contender's part of the config.
        task: what prompts are told of the task.
        dataset: its train rows give the examples, its dev rows select.
        transcript: flipped: what a person answered; None where nobody was asked.

    Raises:
        BadConfig: the instructions or the template cannot be rendered, or leave no room for a row.
        BadData: no train row fits as an example.
        BudgetReached, EndpointError: as asking raises them.
    """
    endpoint = places.settings.endpoint(prompt.endpoint)
    template = read_template(prompt, places.settings)
    config = {
        "prompt": prompt.model_dump(exclude={"name", "template"}, mode="json"),
        "name": prompt.name,
        "task": task,
        "template": template,
        "model": endpoint.model,
        "structured": endpoint.json_schema,
        "context": endpoint.context_tokens,
        "transcript": transcript,
    }

    def build(building: Building) -> ContenderRecord:
        def ask() -> AskContext:
            return AskContext.of(prompt.endpoint, places, cap, workspace)

        drafting = Drafting(prompt, task, dataset, endpoint, places.settings, building.folder, ask, transcript)
        spec = draft(drafting, template)
        manifest = ContenderManifest(
            name=prompt.name,
            arm=Arm.PROMPT,
            kind="prompt",
            task="classification" if dataset.labels else "generation",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies=f"endpoint:{prompt.endpoint}",
            spec=spec.model_dump(mode="json"),
        )
        write_manifest(building.folder, manifest)
        return ContenderRecord(
            name=prompt.name, arm=Arm.PROMPT, kind="prompt", occupies=manifest.occupies, findings=drafting.findings
        )

    return workspace.produce(STAGE, [dataset.fingerprint], config, ContenderRecord, build, label=f"prompt {prompt.name}")


def read_template(prompt: Prompt, settings: Settings) -> str:
    """The Jinja text of a row's message: the prompt's own file, or a built-in one.

    Raises:
        OutsideRoots, BadConfig: the file lies outside the allowed roots, is not there, or is no text.
    """
    if not prompt.template or prompt.template in BUILT_IN_TEMPLATES:
        return template_of(prompt.template or "plain")
    try:
        return settings.readable(prompt.template).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"template {prompt.template!r} of prompt {prompt.name!r} cannot be read as UTF-8 text: {error}") from None


def draft(drafting: Drafting, template: str) -> PromptSpec:
    """The prompt with all its techniques applied, and checked."""
    spec = plain_spec(drafting, template)
    check_template(spec, drafting.prompt)
    for name, technique in TECHNIQUES.items():
        if name in drafting.prompt.techniques:
            spec = technique(spec, drafting)
            check_room(spec, drafting)
    return calibrate(spec, drafting) if spec.scored else spec


def plain_spec(drafting: Drafting, template: str) -> PromptSpec:
    """The prompt before any technique."""
    prompt, dataset, endpoint = drafting.prompt, drafting.dataset, drafting.endpoint
    own = prompt.instructions or drafting.task.instructions
    scored = Name.LOG_PROBABILITY in prompt.techniques
    form = NAMES if scored else answer_form(bool(own), endpoint.json_schema, Name.FEW_SHOT in prompt.techniques)
    form = form if dataset.labels else ""
    form = form or (NAMES if Name.CHAIN_OF_THOUGHT in prompt.techniques else "")  # the label is asked for in a turn of its own
    return PromptSpec(
        endpoint=prompt.endpoint,
        model=endpoint.model,
        techniques=prompt.techniques,
        labels=dataset.labels,
        inputs=dataset.inputs,
        instructions=render_instructions(own or (TASK if dataset.labels else FREE), dataset.labels, dataset.inputs),
        answer_form=render_instructions(form, dataset.labels, dataset.inputs),
        template=template,
        structured=endpoint.json_schema and bool(dataset.labels),
        free=not dataset.labels,
        max_answer_tokens=prompt.max_answer_tokens,
    )


def answer_form(own: bool, structured: bool, with_examples: bool) -> str:
    """How to answer, as a template: the labels' names unless the prompt's own instructions give them, and the JSON form."""
    forms = FORMS if with_examples else FORM
    if own:
        return forms if structured else ""
    return forms if structured and with_examples else f"{NAMES} {FORM}" if structured else NAMES


def check_template(spec: PromptSpec, prompt: Prompt) -> None:
    """Raises BadConfig when the template cannot be rendered, or when two different rows look the same in it."""
    try:
        one, other = (render(spec, dict.fromkeys(spec.inputs, text)) for text in ("one row", "another row"))
    except BadConfig as error:
        raise BadConfig(NOT_RENDERED.format(prompt.template, prompt.name, error)) from None
    if one == other:
        raise BadConfig(WITHOUT_ROW.format(prompt.template, prompt.name))


def refuse_bad_template(prompt: Prompt, settings: Settings) -> None:
    """What can be known of a prompt's own template while there are no rows. Raises as `read_template` and `check_template` do."""
    template = read_template(prompt, settings)
    try:
        names = names_in(template)
    except BadConfig as error:
        raise BadConfig(NOT_RENDERED.format(prompt.template, prompt.name, error)) from None
    if not names & {"text", "inputs"}:
        raise BadConfig(WITHOUT_ROW.format(prompt.template, prompt.name))


def check_room(spec: PromptSpec, drafting: Drafting) -> None:
    """Raises BadConfig when what is shown before any row leaves no room for one."""
    context = drafting.endpoint.context_tokens
    by_row = spec.pool.room if spec.pool else 0
    fixed = count_prompt_tokens(render(spec, dict.fromkeys(spec.inputs, ""))) + by_row + spec.thinking_tokens
    if 0.8 * fixed + spec.max_answer_tokens >= context:
        raise BadConfig(
            f"prompt {drafting.prompt.name!r} takes about {fixed} tokens before any row, and endpoint {spec.endpoint!r} has "
            f"{context}: shorten `instructions` or lower `examples`"
        )
