"""Everything that could make a bake-off due, looked at in one go."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from tasks.config import BakeoffConfig
from tasks.data.sources import find_source
from tasks.records import AskedModel, ContenderRecord, Trigger
from tasks.registry.champion import champion_before
from tasks.retraining.champion import Reigning
from tasks.retraining.changes import Standing, endpoints_asked, find_changes, recorded_by
from tasks.retraining.memory import Hashes, recall_answers
from tasks.retraining.records import Looked, Signal, State
from tasks.settings import Places
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext

logger = logging.getLogger(__name__)
Asking: TypeAlias = "Callable[[ContenderRecord], AskContext | None]"
"""Gives what a champion that is a prompt asks with."""


def look(config: BakeoffConfig, because: str, places: Places, workspace: Workspace, asking: Asking, run: str = "") -> Looked:
    """Find out whether a bake-off is due, and why. Nothing is trained, and what is as before is not read again.

    Args:
        because: why somebody asks for one, in words; empty where nobody does.
        run: that looks, by its id: what it published itself, when it was begun before, is no champion that it finds.

    Raises:
        Refused: the data or a file that is named cannot be used.
        BakeoffError: the store, the Hub or an endpoint could not be asked.
    """
    asked = because.strip()
    signals = [Signal(kind=Trigger.ASKED, state=State.DUE, words=f"it was asked for: {asked}")] if asked else []
    signals += _signals(config, places, workspace, asking, run)
    found = Looked(name=config.name, signals=signals)
    logger.info("%s", found.words)
    for signal in signals:
        logger.info("%s (%s): %s", signal.kind.value, signal.state.value, signal.words)
    return found


def _signals(config: BakeoffConfig, places: Places, workspace: Workspace, asking: Asking, run: str) -> Iterator[Signal]:
    hashes = Hashes(workspace)
    champion, _ = champion_before(places, config.store, config.name, run)
    source = find_source(config.dataset, places.settings, hashes)
    answers = recall_answers(config, workspace)
    standing = Standing(config, champion, recorded_by(champion), answers, source.revision)
    yield from find_changes(standing, _models(standing, places, workspace))
    if champion is None:
        return
    around = config.store, config.dataset.max_characters, places, workspace, asking
    reigning = Reigning(champion, standing.recorded, *around)
    drift, quality = config.triggers.drift, config.triggers.quality
    if drift.incoming:
        from tasks.retraining.drift import find_drift
        from tasks.retraining.rows import find_rows

        given = "triggers.drift.incoming", drift.incoming, config.dataset, drift.most_rows
        rows = find_rows(*given, places.settings, workspace, hashes)
        yield find_drift(drift, reigning, rows, answers, workspace)
    if quality.fresh:
        from tasks.retraining.quality import find_quality
        from tasks.retraining.rows import find_rows

        given = "triggers.quality.fresh", quality.fresh, config.dataset, quality.most_rows
        rows = find_rows(*given, places.settings, workspace, hashes, reigning.manifest.labels)
        yield find_quality(quality, reigning, rows, answers, workspace)


def _models(standing: Standing, places: Places, workspace: Workspace) -> dict[str, AskedModel]:
    """The models behind the endpoints that are not embedded; each is asked about once a day."""
    if standing.config.triggers.shutdown_days is None:
        return {}
    settings = places.settings
    remote = [name for name in endpoints_asked(standing) if not settings.endpoint(name).service]
    if not remote:
        return {}
    from tasks.prompting.lookup import find_model

    return {name: find_model(name, settings, workspace) for name in remote}
