"""The Prefect task of this room."""

from typing import TYPE_CHECKING

from tasks.orchestration import stage
from tasks.records import PublicationRecord
from tasks.registry.publish import Publication, publish
from tasks.settings import Places
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


@stage("publish", run_name="publish-{publication.winner.name}")
def publish_winner(publication: Publication, places: Places, workspace: Workspace, cap: "Cap | None" = None) -> PublicationRecord:
    """Upload the winner, prove it by the round trip, and make it champion."""
    return publish(publication, places, workspace, cap)
