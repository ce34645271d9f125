"""The room's Prefect task."""

from tasks.config import Prompt
from tasks.orchestration import stage
from tasks.prompting.techniques import build_prompt
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import Endpoint
from tasks.workspace import Workspace


@stage("prompt", run_name="prompt {prompt.name}")
def prompt_contender(prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint, workspace: Workspace) -> ContenderRecord:
    """Build one prompt contender's folder; asking comes with evaluation."""
    return build_prompt(prompt, dataset, endpoint, workspace)
