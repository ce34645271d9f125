"""Prune: what no pointer and no version within the policy needs is shown, and removed when that is asked for.

Records of versions are never removed. What is kept of contenders, over all champions of the store:

    what a pointer names, what it replaced or went back to, and what the newest `keep` versions of each champion name;
    what versions newer than the pointer name (somebody may be about to move it);
    what is younger than a day (somebody may be publishing it).

    pruning/<sha256>/<id>   the mark of a prune that is about to remove this contender

A prune marks first, then reads the records again, then removes, the manifest first. Whoever makes a version writes its record
first, then looks for marks (`champion._refuse_pruned`). So no pointer ever leads to what is removed, however the two interleave.
"""

import logging
from collections import defaultdict
from uuid import uuid4

from tasks.manifest import FILE
from tasks.records import Model
from tasks.registry.champion import PRUNING, read_champion
from tasks.registry.history import names, versions
from tasks.registry.signing import signatures
from tasks.settings import Settings
from tasks.store import ORPHANED_S, StoreClient, Stored

logger = logging.getLogger(__name__)
KEEP = 10
"""Versions of each champion whose contenders stay."""
MARK_S = 3600
"""A mark as old as this, by the store's clock, is of a prune that was killed."""


class Doomed(Model):
    """A contender that nothing needs."""

    sha256: str
    versions: list[str]
    """The versions that name it, such as `tickets 3`; none for one whose publication never ended."""
    files: int
    bytes: int


class Pruning(Model):
    """What a prune would remove, or has removed."""

    removed: bool
    """Whether it was done, or only shown."""
    contenders: list[Doomed]
    uploads: list[str]
    """Keys of uploads in parts that nobody ends."""
    kept: int
    """Contenders that stay."""
    bytes: int
    """Of the contenders that go."""


def prune(settings: Settings, client: StoreClient, keep: int = KEEP, really: bool = False, grace_s: float = ORPHANED_S) -> Pruning:
    """Show what nothing needs; with `really` remove it.

    Args:
        keep: the newest versions of each champion whose contenders stay, at least 1.
        grace_s: what is younger stays.

    Raises:
        StoreError: the store refuses, or a record cannot be read: then nothing is removed.
    """
    stored = _contenders(client)
    needed, named = _needed(settings, client, keep)
    doomed = [
        Doomed(sha256=sha256, versions=named.get(sha256, []), files=len(files), bytes=sum(file.size for file in files))
        for sha256, files in sorted(stored.items())
        if sha256 not in needed and min(file.age_s for file in files) >= grace_s
    ]
    uploads = client.orphans("contenders")
    if really:
        doomed = _remove(settings, client, doomed, stored, keep)
        for key, upload in uploads:
            client.abort(key, upload)
    return Pruning(
        removed=really,
        contenders=doomed,
        uploads=[key for key, _ in uploads],
        kept=len(stored) - len(doomed),
        bytes=sum(each.bytes for each in doomed),
    )


def _remove(
    settings: Settings, client: StoreClient, doomed: list[Doomed], stored: dict[str, list[Stored]], keep: int
) -> list[Doomed]:
    """What was removed: all of it but what somebody began to need meanwhile."""
    for old in client.listed(PRUNING):
        if old.age_s >= MARK_S:
            client.remove(old.key)
    marks = {each.sha256: client.key(PRUNING, each.sha256, uuid4().hex) for each in doomed}
    try:
        for mark in marks.values():
            client.write_once(mark, b"{}")
        needed, _ = _needed(settings, client, keep)
        gone = [each for each in doomed if each.sha256 not in needed]
        for each in gone:
            files = sorted(stored[each.sha256], key=lambda file: not file.key.endswith(f"{each.sha256}/{FILE}"))
            keys = [file.key for file in files]
            # the manifest goes first: what has none is no contender; then signatures: by the rest a later prune finds it again
            for key in [*keys[:1], *signatures(client, each.sha256), *keys[1:]]:
                client.remove(key)
            logger.info("removed %s", client.uri("contenders", each.sha256))
        return gone
    finally:
        for mark in marks.values():
            client.remove(mark)


def _contenders(client: StoreClient) -> dict[str, list[Stored]]:
    """The objects of every contender, by its name."""
    depth = len(client.key("contenders").split("/"))
    found: dict[str, list[Stored]] = defaultdict(list)
    for file in client.listed("contenders"):
        found[file.key.split("/")[depth]].append(file)
    return found


def _needed(settings: Settings, client: StoreClient, keep: int) -> tuple[set[str], dict[str, list[str]]]:
    """The contenders that must stay; and the versions that name each contender."""
    needed: set[str] = set()
    named: dict[str, list[str]] = defaultdict(list)
    for name in names(client):
        records = versions(client, name)
        now = read_champion(settings, client, name)
        reach = [number for number in (now.version, now.previous, now.back_to) if number] if now else []
        newest = sorted(records)[-max(keep, 1) :]
        newest += [number for number in records if number > (now.version if now else 0)]
        needed |= {records[number].sha256 for number in {*reach, *newest} if number in records} | ({now.sha256} if now else set())
        for version, record in records.items():
            named[record.sha256].append(f"{name} {version}")
    return needed, named
