"""`bakeoff champion`: what S3 points to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.run import allow_roots
from services.places import LivePlaces
from tasks.config import load_config
from tasks.registry.champion import current_champion, show
from tasks.settings import load_settings

if TYPE_CHECKING:
    from tasks.registry.champion import ChampionVersion


def champion_of(config: Path, overrides: Sequence[str]) -> "ChampionVersion | None":
    """The champion of a config's bake-off; None where there is none yet.

    Raises:
        Refused: the config or the settings are wrong, or the home cannot be written.
        StoreError: the store refuses or is out of reach.
    """
    parsed = load_config(config, overrides)
    allow_roots(config)
    settings = load_settings()
    settings.check_home()
    with LivePlaces(settings) as places:
        return current_champion(places, parsed.store, parsed.name)


def describe(champion: "ChampionVersion | None") -> str:
    """A champion in a few lines."""
    return show(champion) if champion else "There is no champion yet: `bakeoff run` publishes one when the evidence is there."
