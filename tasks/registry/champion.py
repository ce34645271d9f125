"""The champion: which contender S3 points to under a name, and how the pointer moves.

    champions/<name>/v000001.json   one record a version, written once
    champions/<name>/champion.json  the pointer: a copy of the newest champion's record, replaced only on condition

A rollback is a version too: the pointer goes on to a new record that names what an older one named. Order is by version, never by
time. What was last seen of a pointer is remembered on this machine, so that an older one served again is noticed, and so that an
embedded store need not start just to learn that nothing changed.
"""

import getpass
import logging
import os
import re
import socket
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field, ValidationError

from tasks.config import NAME
from tasks.errors import BadConfig, IntegrityError, LostRace, Refused, StoreError
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.progress import progress
from tasks.records import Arm, Champion, Comparison, ContenderRecord, Decision, Looks, Model
from tasks.registry.lineage import Lineage
from tasks.registry.signing import key_id, refuse_forged, signature_of
from tasks.settings import Places, Settings
from tasks.store import StoreClient, open_store
from tasks.workspace import Building, Stage, Workspace, digest, file_sha256, write_durably

logger = logging.getLogger(__name__)
FETCH = Stage("fetch", 1, ("tasks.registry.champion", "tasks.store"), shared=False)
POINTER = "champion.json"
RECORD = re.compile(r"^v(\d{6,})\.json$")
PRUNING = "pruning"
"""A folder of the store: what a prune is about to remove has a mark here."""
SHA256 = r"^[0-9a-f]{64}$"


class ChampionVersion(Model):
    """One version of a champion: what was published, on what evidence, by whom and why."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME)
    """The champion's name: the bake-off's."""
    version: int = Field(ge=1)
    """Counts up; some numbers may belong to publications that lost a race."""
    event: Literal["publish", "rollback"] = "publish"
    back_to: int | None = None
    """For a rollback: the version whose contender is champion again. What is told of the contender is that version's; who, when and
    why are the rollback's."""
    previous: int | None
    """The champion's version that this one replaces."""
    sha256: str = Field(pattern=SHA256)
    """Of the contender's manifest; it names the folder under `contenders/`."""
    uri: str
    contender: str
    arm: Arm
    kind: str
    fingerprint: str
    """Of what the contender was made from."""
    run_id: str
    published: datetime
    publisher: str
    """user@host; before it, for a rollback from the UI, the name that was given there."""
    decision: Decision
    reason: str
    dataset: str
    """Fingerprint of the data set that decided."""
    comparison: Comparison | None
    contenders: dict[str, str]
    """Fingerprints of all that were compared, by name."""
    config: dict[str, Any]
    """The bake-off's config."""
    scores: dict[str, Any] = {}
    """The contender's line of the verdict."""
    looks: Looks | None = None
    """How often the test rows had been looked at when this contender was decided on; a record of an earlier release has none."""
    lineage: Lineage | None = None
    """What it came from, by hash."""

    def champion(self) -> Champion:
        """The short form that a verdict holds."""
        return Champion(uri=self.uri, version=self.version, sha256=self.sha256, contender=self.contender)

    def same_try(self, other: "ChampionVersion") -> bool:
        """Whether both are one publication or rollback (perhaps tried twice): the same bytes after the same champion."""
        mine = self.name, self.sha256, self.previous, self.event, self.back_to
        return mine == (other.name, other.sha256, other.previous, other.event, other.back_to)


class Memory(Model):
    """What this machine last saw of a pointer."""

    store: str
    """Which bucket and prefix: a store's name may be pointed elsewhere."""
    incarnation: str
    """Random; changes when this memory is removed by hand, so that publications to an emptied store are made again."""
    champion: ChampionVersion | None
    unsure: bool = False
    """Whether only the store itself knows: a move was begun and may have happened, or nothing was read yet."""


def read_champion(settings: Settings, client: StoreClient, name: str) -> ChampionVersion | None:
    """The champion that the store points to now; None where there is none yet.

    Raises:
        IntegrityError: the pointer is malformed, or older than one that this machine has seen.
        StoreError: the store refuses or is out of reach.
    """
    found = _read_pointer(settings, client, name)
    return found[0] if found else None


def current_champion(places: Places, store_name: str, name: str) -> ChampionVersion | None:
    """The champion under a name. Only this machine's runs write to an embedded store, so what is remembered of it holds, and it is
    not started; any other store is asked.

    Raises: as `read_champion`, and BadConfig for an unknown store.
    """
    store = places.settings.store(store_name)
    memory = recall(places.settings, store_name, name)
    if store.service and memory and not memory.unsure:
        return memory.champion
    client = open_store(places, store_name)
    if store.create:
        client.check()  # makes the bucket
    return read_champion(places.settings, client, name)


def champion_before(places: Places, store_name: str, name: str, run: str) -> tuple[ChampionVersion | None, ChampionVersion | None]:
    """The champion that a run finds, and its own version where it was begun before and has replaced that champion already.

    Raises: as `current_champion`.
    """
    now = current_champion(places, store_name, name)
    if now is None or now.event != "publish" or now.run_id != run:
        return now, None
    before = read_version(open_store(places, store_name), name, now.previous) if now.previous else None
    return before, now


def move_champion(settings: Settings, client: StoreClient, draft: ChampionVersion) -> ChampionVersion:
    """Make `draft` the champion if the champion is still `draft.previous`. Its version becomes the next free one.

    The version's record is written first, and once; then the pointer moves on condition. After a kill in between, the same
    publication finds its record and goes on.

    Raises:
        LostRace: another publisher moved the pointer first; the message says who.
        Refused: a rollback took this very contender down, and nobody has brought it back since.
        IntegrityError: the contender is not whole there any more, or the pointer is an old one.
    """
    found = _read_pointer(settings, client, draft.name)
    now, etag = found or (None, "")
    if now and now.same_try(draft):
        return now  # an earlier try got this far
    if (now.version if now else None) != draft.previous:
        raise _lost(draft, now)
    _refuse_taken_back(client, draft, now)
    recorded = _record_version(settings, client, draft)
    _refuse_pruned(client, recorded)
    key, body = _key(client, draft.name, POINTER), _json(recorded)
    _remember(settings, client.name, draft.name, now, unsure=True)
    moved = client.replace(key, body, etag) if now else client.write_once(key, body)
    if not moved:
        after = read_champion(settings, client, draft.name)
        if not after or not after.same_try(draft):  # else it was our own write, whose answer was lost
            raise _lost(draft, after)
    _remember(settings, client.name, draft.name, recorded)
    return recorded


def expect_champion(settings: Settings, client: StoreClient, draft: ChampionVersion) -> ChampionVersion | None:
    """Before work is done for a publication: the champion if it is this very publication already, None if the way is free.

    Raises:
        LostRace: the champion is another than the one that the verdict compared with.
        Refused: a rollback took this very contender down, and nobody has brought it back since.
    """
    now = read_champion(settings, client, draft.name)
    if now and now.same_try(draft):
        return now
    if (now.version if now else None) != draft.previous:
        raise _lost(draft, now)
    _refuse_taken_back(client, draft, now)
    return None


def read_version(client: StoreClient, name: str, version: int) -> ChampionVersion | None:
    """The record of a version; None where there is none. Raises IntegrityError when it is malformed or another's."""
    found = client.read(_key(client, name, f"v{version:06d}.json"))
    if found is None:
        return None
    record = _parse(found[0], client, name)
    if record.version != version:
        raise IntegrityError(f"version {version} of champion {name!r} in store {client.name!r} says that it is {record.version}")
    return record


def version_numbers(client: StoreClient, name: str) -> list[int]:
    """The versions that have a record, upwards."""
    _key(client, name, POINTER)
    files = (stored.key.rsplit("/", 1)[-1] for stored in client.listed("champions", name))
    return sorted(int(match[1]) for match in map(RECORD.match, files) if match)


def who() -> str:
    """user@host"""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def fetch_contender(client: StoreClient, sha256: str, folder: Path) -> ContenderManifest:
    """Download a published contender into an empty folder and hash every byte of it again.

    Raises:
        IntegrityError: a file is missing, corrupted, or of a kind that can run code; or the key that this machine believes has not
            signed it.
    """
    if not re.match(SHA256, sha256):
        raise Refused(f"contender {sha256[:80]!r} is not named by a SHA-256 of 64 hex digits")
    signature = signature_of(client, sha256)  # before gigabytes are fetched that nobody vouches for
    folder.mkdir(parents=True, exist_ok=True)
    client.download(client.key("contenders", sha256, FILE), folder / FILE, lambda _: None)
    found = file_sha256(folder / FILE)
    if found != sha256:
        raise IntegrityError(f"{client.uri('contenders', sha256, FILE)} has SHA-256 {found}: it was corrupted or replaced")
    manifest = read_manifest(folder, check_files=False)
    with progress(f"download {manifest.name}", len(manifest.files)) as bar:
        for name in manifest.files:
            client.download(client.key("contenders", sha256, name), folder / name, lambda _: None)
            bar.advance()
    manifest = read_manifest(folder)
    refuse_forged(client, sha256, signature, folder)
    return manifest


def champion_contender(places: Places, store_name: str, name: str, workspace: Workspace) -> ContenderRecord | None:
    """The champion as a contender that can be evaluated; None where there is no champion. Downloaded once a version.

    Raises: as `current_champion` and `fetch_contender`.
    """
    champion = current_champion(places, store_name, name)
    return fetch_champion(places, store_name, champion, workspace) if champion else None


def fetch_champion(places: Places, store_name: str, champion: ChampionVersion, workspace: Workspace) -> ContenderRecord:
    """The contender of one version, as a product of the workspace."""

    def build(building: Building) -> ContenderRecord:
        manifest = fetch_contender(open_store(places, store_name), champion.sha256, building.folder)
        return ContenderRecord(
            fingerprint=manifest.fingerprint,
            name=manifest.name,
            arm=manifest.arm,
            kind=manifest.kind,
            occupies=manifest.occupies,
        )

    believed = key_id(store_name, places.settings.store(store_name))
    config = {"believed": believed} if believed else {}
    return workspace.produce(FETCH, [champion.sha256], config, ContenderRecord, build, f"fetch champion {champion.contender}")


def show(champion: ChampionVersion) -> str:
    """A champion in a few lines for people."""
    lines = [
        f"{champion.name}: version {champion.version} is {champion.contender} ({champion.arm})",
        f"  at         {champion.uri}",
        f"  sha256     {champion.sha256}",
        f"  {'published ' if champion.event == 'publish' else 'taken back'} {champion.published:%Y-%m-%d %H:%M} UTC "
        f"by {champion.publisher}, run {champion.run_id}",
        f"  replaces   {'nothing' if champion.previous is None else f'version {champion.previous}'}",
        *([f"  goes back  to version {champion.back_to}"] if champion.back_to else []),
        f"  because    {champion.reason}",
        *([f"  looks      {_looked(champion.looks)}"] if champion.looks else []),
    ]
    return "\n".join(lines)


def _looked(looks: Looks) -> str:
    seen = f"{looks.contenders} contender{'' if looks.contenders == 1 else 's'} measured on the test rows by then"
    return f"{seen}; had none been better, luck would have promoted one with a chance of up to {100 * looks.chance_of_luck:.0f} %"


def recall(settings: Settings, store_name: str, name: str) -> Memory | None:
    """What this machine remembers of a pointer; None when nothing, or when the store's name leads elsewhere by now."""
    try:
        memory = Memory.model_validate_json(_memory_file(settings, store_name, name).read_bytes())
    except FileNotFoundError:
        return None
    return memory if memory.store == _identity(settings, store_name) else None


def incarnation(settings: Settings, store_name: str, name: str) -> str:
    """Tells publications to a store from those to the same store after it was emptied and its memory removed."""
    memory = recall(settings, store_name, name)
    return (memory or _remember(settings, store_name, name, None, unsure=True)).incarnation


def _remember(settings: Settings, store_name: str, name: str, champion: ChampionVersion | None, unsure: bool = False) -> Memory:
    """Keep what was seen of a pointer, unless something newer was seen meanwhile."""
    from filelock import FileLock

    file = _memory_file(settings, store_name, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        memory = recall(settings, store_name, name)
        if memory and _order(champion) < _order(memory.champion):
            return memory
        kept = memory.incarnation if memory else uuid4().hex
        new = Memory(store=_identity(settings, store_name), incarnation=kept, champion=champion, unsure=unsure)
        if new != memory:
            write_durably(file, new.model_dump_json(indent=2))
        return new


def _read_pointer(settings: Settings, client: StoreClient, name: str) -> tuple[ChampionVersion, str] | None:
    """The pointer and its ETag; what was remembered before the reading is the least that it may show."""
    memory = recall(settings, client.name, name)
    known = memory.champion if memory else None
    found = client.read(_key(client, name, POINTER))
    champion = _parse(found[0], client, name) if found else None
    if _order(champion) < _order(known):
        shown = f"version {champion.version}" if champion else "nothing"
        raise IntegrityError(
            f"store {client.name!r} points champion {name!r} to {shown}, but version {_order(known)} was seen before: an old "
            "pointer was served again; if the store was emptied or set back on purpose, remove "
            f"{_memory_file(settings, client.name, name)}"
        )
    _remember(settings, client.name, name, champion)
    return (champion, found[1]) if champion and found else None


def _record_version(settings: Settings, client: StoreClient, draft: ChampionVersion) -> ChampionVersion:
    """Take the next free version number by writing its record, or find the record that an earlier try of this publication wrote."""
    version = (draft.previous or 0) + 1
    while True:
        record = draft.model_copy(update={"version": version})
        key = _key(client, draft.name, f"v{version:06d}.json")
        if client.write_once(key, _json(record)):
            return record
        there = client.read(key)
        if there:
            found = _parse(there[0], client, draft.name)
            if found.same_try(draft) and found.version == version:
                return found
            if (found.previous or 0) > (draft.previous or 0):
                raise _old_pointer(settings, client, draft, found)
        version += 1


def _old_pointer(settings: Settings, client: StoreClient, draft: ChampionVersion, found: ChampionVersion) -> Exception:
    """A record replaced a champion that is newer than the pointer shows: the pointer has moved since, or it was set back."""
    now = read_champion(settings, client, draft.name)
    if _order(now) != (draft.previous or 0):
        return _lost(draft, now)
    return IntegrityError(
        f"store {client.name!r} points champion {draft.name!r} to version {_order(now)}, but version {found.version} replaced "
        f"version {found.previous}: an old pointer was served again; put the newest champion's record back in its place"
    )


def _refuse_taken_back(client: StoreClient, draft: ChampionVersion, now: ChampionVersion | None) -> None:
    """A person's rollback holds: the same contender does not come back by a nightly run."""
    rollback = now
    while draft.event == "publish" and rollback and rollback.event == "rollback" and rollback.previous:
        replaced = read_version(client, draft.name, rollback.previous)
        if replaced and replaced.fingerprint == draft.fingerprint and now and now.fingerprint != draft.fingerprint:
            raise Refused(
                f"{draft.contender} was champion {draft.name!r} as version {replaced.version} until {rollback.publisher} took it "
                f"back on {rollback.published:%Y-%m-%d} ({rollback.reason}): it is not published again; to have it back, "
                f"`bakeoff champion rollback CONFIG --to {replaced.version} --reason …`"
            )
        rollback = replaced


def _refuse_pruned(client: StoreClient, champion: ChampionVersion) -> None:
    """A prune marks, then reads the records, then removes. So either it saw this version's record, or this sees its mark, or what
    it removed first (the manifest) is gone."""
    if client.listed(PRUNING, champion.sha256):
        raise StoreError(
            f"{client.uri('contenders', champion.sha256)} is about to be removed by a prune: run again when that has ended "
            "(one that was killed is ended by `bakeoff champion prune CONFIG --yes`)"
        )
    if not client.exists(client.key("contenders", champion.sha256, FILE)):
        raise IntegrityError(f"{client.uri('contenders', champion.sha256)} is not there any more: a prune removed it; run again")


def _parse(body: bytes, client: StoreClient, name: str) -> ChampionVersion:
    try:
        champion = ChampionVersion.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise IntegrityError(
            f"the champion record of {name!r} in store {client.name!r} is malformed at {where}: {fault['msg']}"
        ) from None
    if champion.name != name:
        raise IntegrityError(f"the champion record of {name!r} in store {client.name!r} is that of {champion.name!r}")
    return champion


def _key(client: StoreClient, name: str, file: str) -> str:
    if not re.match(NAME, name):
        raise BadConfig(f"champion name {name[:80]!r} must be lower-case letters, digits, `-` and `_` (at most 64)")
    return client.key("champions", name, file)


def _lost(draft: ChampionVersion, now: ChampionVersion | None) -> LostRace:
    decided = f"version {draft.previous}" if draft.previous else "no champion"
    winner = f"is now version {now.version} ({now.contender}, published by {now.publisher}, run {now.run_id})" if now else "is gone"
    if draft.event == "rollback":
        return LostRace(
            f"champion {draft.name!r} {winner}, but this rollback was to replace {decided}: look at it, and decide anew"
        )
    return LostRace(
        f"champion {draft.name!r} {winner}, but this run compared {draft.contender} with {decided}: run again to compare with the "
        "champion that there is now; nothing has to be trained or uploaded again"
    )


def _order(champion: ChampionVersion | None) -> int:
    return champion.version if champion else 0


def _json(champion: ChampionVersion) -> bytes:
    return champion.model_dump_json(indent=2).encode()


def _memory_file(settings: Settings, store_name: str, name: str) -> Path:
    return settings.home / "champions" / store_name / f"{name}.json"


def _identity(settings: Settings, store_name: str) -> str:
    """Which pointers a store's name leads to, without the port of an embedded server; with the endpoint that the environment names
    where the settings name none, as boto3 has it."""
    store = settings.store(store_name)
    named = store.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return digest([store.service or named, store.bucket, store.prefix])
