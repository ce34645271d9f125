"""The room's Prefect tasks."""

from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig
from tasks.errors import BadConfig
from tasks.orchestration.page import show_markdown
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord, PublicationRecord, Verdict
from tasks.registry import champion as champions
from tasks.registry.champion import ChampionVersion
from tasks.registry.page import markdown_publication, markdown_rollback
from tasks.registry.publish import Publication, publish, published_verdict
from tasks.registry.rollback import roll_back
from tasks.registry.signing import check_keys
from tasks.settings import Places
from tasks.store import check_store, open_store
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


@stage("champion", "champion {config.name}")
def find_champion(config: BakeoffConfig, run: str, places: Places) -> tuple[ChampionVersion | None, Verdict | None]:
    """The champion as the run found it; and its verdict, where it has published already, and was killed before it could tell.

    A store that cannot be published to is found out here, before anything is spent.
    """
    check_keys(config.store, places.settings.store(config.store), publishes=True)
    shared = places.settings.workspace.store
    if shared and places.settings.store(config.store).verifying_key:
        raise BadConfig(
            f"store {config.store!r} names a verifying_key, but the workspace is shared through store {shared!r}, whose products "
            "nobody signs: what others wrote there would be signed here. Train in a workspace of this machine's own"
        )
    if not places.settings.store(config.store).service:
        check_store(places, config.store)
    before, own = champions.champion_before(places, config.store, config.name, run)
    if own is None:
        return before, None
    _show_champion(config.name, markdown_publication(own.champion(), before, config.name, config.store, own.reason))
    return before, published_verdict(open_store(places, config.store), own)


@stage("grader", "grader {config.grader.champion}")
def grading_champion(config: BakeoffConfig, places: Places, workspace: Workspace) -> ContenderRecord:
    """The champion that goes over free-text answers. Raises BadConfig where its bake-off has none."""
    assert config.grader
    name = config.grader.champion
    found = champions.champion_contender(places, config.store, name, workspace)
    if found is None:
        raise BadConfig(f"grader.champion names {name!r}, which has no champion in store {config.store!r}: run its bake-off first")
    return found


@stage("fetch", "fetch {champion.contender}")
def fetch_champion(config: BakeoffConfig, champion: ChampionVersion, places: Places, workspace: Workspace) -> ContenderRecord:
    """The champion's folder, from the store."""
    return champions.fetch_champion(places, config.store, champion, workspace)


@stage("publish", "publish {publication.winner.name}")
def publish_winner(publication: Publication, places: Places, workspace: Workspace, cap: "Cap | None" = None) -> PublicationRecord:
    """Upload the winner, prove it by the round trip, make it champion, and say on the run's page which version it is."""
    published = publish(publication, places, workspace, cap)
    config, reason = publication.config, publication.verdict.reason
    _show_champion(config.name, markdown_publication(published.champion, publication.previous, config.name, config.store, reason))
    return published


@stage("rollback", "rollback {name} to {to}")
def roll_champion_back(store: str, name: str, to: int, reason: str, by: str, places: Places) -> ChampionVersion:
    """Make an older version's contender champion again, and say on the run's page who is champion now."""
    now = roll_back(places.settings, open_store(places, store), name, to, reason, by)
    _show_champion(name, markdown_rollback(now, store))
    return now


def _show_champion(name: str, markdown: str) -> None:
    """Under one key a bake-off, so that the artifact's page in Prefect lists its champions."""
    show_markdown(f"champion {name}", markdown, f"The champion of {name}")
