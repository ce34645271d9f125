"""The room's Prefect tasks."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run

from tasks.config import BakeoffConfig
from tasks.orchestration.page import page_may_be_away, show_markdown
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord, DatasetRecord, Verdict
from tasks.retraining import look as looking
from tasks.retraining.memory import remember_answer
from tasks.retraining.records import Looked
from tasks.retraining.report import markdown_looked, short, tagged
from tasks.settings import Places
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext


@stage("look", run_name="look at {config.name}")
def look(
    config: BakeoffConfig,
    because: str,
    places: Places,
    workspace: Workspace,
    asking: "Callable[[ContenderRecord], AskContext | None]",
) -> Looked:
    """Find out whether a bake-off is due, and say why on the run's page, in its name and in its tags."""
    found = looking.look(config, because, places, workspace, asking, str(flow_run.id))
    show_markdown(f"why {config.name}", markdown_looked(found), found.words)
    with page_may_be_away(), get_client(sync_client=True) as client:
        tags = tagged(flow_run.tags or [], found)
        client.update_flow_run(UUID(str(flow_run.id)), name=f"{config.name}: {short(found)}", tags=tags)
    return found


@stage("remember", run_name="remember {verdict.name}")
def remember(config: BakeoffConfig, dataset: DatasetRecord, verdict: Verdict, workspace: Workspace) -> None:
    """Keep what the verdict dealt with, so that the same is no reason for another one."""
    remember_answer(config, dataset.revision, verdict, workspace)
