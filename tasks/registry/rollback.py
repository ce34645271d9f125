"""Rollback: the pointer goes on to a new version, which names the contender of an older one.

The contender is downloaded and hashed first, and nothing is uploaded. A rollback that was killed goes on when it is run again.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.errors import BadConfig
from tasks.registry.champion import (
    ChampionVersion,
    fetch_contender,
    move_champion,
    read_champion,
    read_version,
    version_numbers,
    who,
)
from tasks.settings import Settings
from tasks.store import StoreClient

logger = logging.getLogger(__name__)


def roll_back(settings: Settings, client: StoreClient, name: str, to: int, reason: str, by: str = "") -> ChampionVersion:
    """Make the contender of version `to` champion again; what there is already after an earlier try of the same rollback.

    Args:
        reason: why, for whoever reads the record later.
        by: whose wish it is, where that is not who runs this process.

    Raises:
        BadConfig: no champion, no such version, its contender is champion already, or no reason.
        IntegrityError: what lies in the store is not what was published; the champion is unchanged.
        LostRace: somebody moved the pointer meanwhile.
    """
    if not reason.strip():
        raise BadConfig("the reason is empty: say why, for whoever reads the record later")
    client.check()
    now = read_champion(settings, client, name)
    if now is None:
        raise BadConfig(f"{name} has no champion in store {client.name!r}: there is nothing to take back")
    if now.event == "rollback" and now.back_to == to:
        return now
    target = read_version(client, name, to)
    if target is None:
        known = ", ".join(map(str, version_numbers(client, name)))
        raise BadConfig(f"champion {name!r} has no version {to}; there are {known}")
    if target.sha256 == now.sha256:
        raise BadConfig(f"{now.contender} of version {to} is champion {name!r} already, as version {now.version}")
    with TemporaryDirectory(prefix="bakeoff-") as folder:
        fetch_contender(client, target.sha256, Path(folder))
    champion = move_champion(settings, client, _event(target, now, to, reason, by))
    logger.info("champion %s is now version %d, which is version %d again: %s", name, champion.version, to, champion.uri)
    return champion


def _event(target: ChampionVersion, now: ChampionVersion, to: int, reason: str, by: str) -> ChampionVersion:
    about = {"version": now.version + 1, "previous": now.version, "event": "rollback", "back_to": to}
    publisher = f"{by.strip()} ({who()})" if by.strip() else who()
    return target.model_copy(update={**about, "published": datetime.now(UTC), "publisher": publisher, "reason": reason.strip()})
