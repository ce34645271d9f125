"""The room's Prefect task."""

from typing import TYPE_CHECKING

from tasks.config import Prompt, Task
from tasks.orchestration.stages import stage
from tasks.prompting.lookup import find_model
from tasks.prompting.techniques.drafting import Exchange
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import AskedModel, ContenderRecord, DatasetRecord
from tasks.settings import Places, Settings
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


@stage("model", run_name="model behind {name}")
def model_behind(name: str, settings: Settings, workspace: Workspace) -> AskedModel:
    """Reach a remote endpoint, and find its model's prices and announced end, before anything is spent."""
    return find_model(name, settings, workspace)


@stage("prompt", run_name="prompt {prompt.name}")
def prompt_contender(
    prompt: Prompt,
    task: Task,
    dataset: DatasetRecord,
    places: Places,
    cap: "Cap",
    workspace: Workspace,
    transcript: list[Exchange] | None = None,
) -> ContenderRecord:
    """Build one prompt contender's folder; techniques that choose on dev ask about its rows here, all others ask at evaluation."""
    return build_prompt(prompt, task, dataset, places, cap, workspace, transcript)
