"""Rollback: an older version's contender is champion again, as the command `bakeoff champion rollback` does it."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from services.places import LivePlaces
from tasks.config import Name
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.registry.champion import ChampionVersion
from tasks.registry.stage import roll_champion_back
from tasks.settings import load_settings

Version = Annotated[int, Field(ge=1)]
Reason = Annotated[str, Field(min_length=1, max_length=2_000)]
Person = Annotated[str, Field(max_length=200)]


@flow(name="rollback", flow_run_name="{name}: back to version {to}", persist_result=False)
def rollback(name: Name, to: Version, reason: Reason, by: Person = "", store: Name = "local") -> ChampionVersion:
    """Take a champion back: the contender of an older version is champion again, as a new version that says who, when and why.

    Args:
        name: the bake-off whose champion it is.
        to: the version to go back to, by its number; the page of the run that published it names it.
        reason: why, for whoever reads the record later.
        by: your name, kept in the record.
        store: which of the operator's named stores holds the champion.

    Raises:
        BadConfig: there is no such champion or version, or it is champion already.
        IntegrityError: what lies in the store is not what was published; the champion is unchanged.
        LostRace: somebody else moved the pointer meanwhile.
    """
    arrange_end()
    settings = load_settings(*roots_of_run())
    settings.check_home()
    with LivePlaces(settings) as places:
        return roll_champion_back(store, name, to, reason, by, places)
