"""What a champion was, version by version: listed, proved by hash, and compared."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.records import Model
from tasks.registry.champion import (
    POINTER,
    RECORD,
    ChampionVersion,
    fetch_contender,
    read_champion,
    read_version,
    version_numbers,
)
from tasks.registry.signing import check_keys, sign
from tasks.settings import Settings
from tasks.store import StoreClient
from tasks.workspace import file_sha256

logger = logging.getLogger(__name__)
TEXTS = {".json", ".txt", ".md", ".jinja"}
LONGEST_TEXT = 200_000
"""Characters of a prompt's file that are compared line by line."""


class Entry(Model):
    """One version, as it is listed."""

    version: int
    event: str
    state: Literal["champion", "was champion", "never champion"]
    """`never champion`: it lost a race, or was killed before the pointer moved."""
    back_to: int | None
    contender: str
    arm: str
    sha256: str
    published: datetime
    publisher: str
    reason: str
    whole: bool
    """Whether its contender lies in the store; one that was pruned does not."""


class Proof(Model):
    """What `verify` found of a version."""

    version: int
    sha256: str
    files: int
    """Files that were downloaded and hashed."""
    fault: str
    """What is wrong; empty where all is as it was published."""


class Difference(Model):
    """What changed from one version to another: by path, before and after. null where there is no such value."""

    about: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Any, Any]]
    config: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]]
    prices: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]
    files: dict[str, tuple[Any, Any]]
    """SHA-256 by file."""
    prompts: dict[str, list[str]]
    """Lines of a unified diff by file, of prompts and hybrids."""


def names(client: StoreClient) -> list[str]:
    """The champions of a store; those too whose first version has a record and no pointer yet."""
    depth = len(client.key("champions").split("/"))
    found = (stored.key.split("/") for stored in client.listed("champions"))
    return sorted(
        {parts[depth] for parts in found if len(parts) == depth + 2 and (parts[-1] == POINTER or RECORD.match(parts[-1]))}
    )


def history(settings: Settings, client: StoreClient, name: str) -> list[Entry]:
    """Every version of a champion, the newest first.

    Raises:
        IntegrityError: a record is malformed, or the pointer is an old one.
    """
    now = read_champion(settings, client, name)
    records = versions(client, name)
    reigned, step = set(), now
    while step:
        reigned.add(step.version)
        step = records.get(step.previous) if step.previous else None
    entries = []
    for version, record in sorted(records.items(), reverse=True):
        state = "was champion" if version in reigned else "never champion"
        about = record.model_dump(include=set(Entry.model_fields) & set(ChampionVersion.model_fields))
        whole = client.exists(client.key("contenders", record.sha256, FILE))
        entries.append(Entry(**about, state="champion" if now and version == now.version else state, whole=whole))
    return entries


def versions(client: StoreClient, name: str) -> dict[int, ChampionVersion]:
    """Every record of a champion, by version."""
    found = ((version, read_version(client, name, version)) for version in version_numbers(client, name))
    return {version: record for version, record in found if record}


def verify(settings: Settings, client: StoreClient, name: str, everything: bool = False) -> list[Proof]:
    """Download the champion (or every version that was not pruned) and hash it; look whether the records agree.

    Raises:
        BadConfig: there is no champion.
        IntegrityError: the pointer is malformed, or an old one.
    """
    now = read_champion(settings, client, name)
    if now is None:
        raise BadConfig(f"{name} has no champion in store {client.name!r}: there is nothing to verify")
    records = versions(client, name)
    seen = max((record.previous or 0 for record in records.values()), default=0)
    if seen > now.version:
        raise IntegrityError(
            f"store {client.name!r} points champion {name!r} to version {now.version}, but version {seen} was champion: an old "
            "pointer was served again"
        )
    wrong = "" if records.get(now.version) == now else f"the pointer is not what the record of version {now.version} says"
    wanted = [record for record in records.values() if everything and record.version != now.version]
    others = [_proof(client, record, pruned_is_right=True) for record in wanted]
    return [*others, _proof(client, now, wrong)]


def _proof(client: StoreClient, record: ChampionVersion, fault: str = "", pruned_is_right: bool = False) -> Proof:
    about = {"version": record.version, "sha256": record.sha256}
    if pruned_is_right and not client.exists(client.key("contenders", record.sha256, FILE)):
        return Proof(**about, files=0, fault=fault)
    try:
        with TemporaryDirectory(prefix="bakeoff-") as folder:
            manifest = fetch_contender(client, record.sha256, Path(folder))
    except IntegrityError as error:
        return Proof(**about, files=0, fault="; ".join(filter(None, [fault, str(error)])))
    return Proof(**about, files=len(manifest.files) + 1, fault=fault)


def sign_version(client: StoreClient, name: str, sha256: str) -> ChampionVersion:
    """Sign a contender that lies in the store already, after every byte of it was hashed.

    Args:
        sha256: the contender that is vouched for; whatever a record or the pointer says of it may have been written by others.

    Returns: the newest version that names it.

    Raises:
        BadConfig: no version names it, or the store names no key to sign with.
        IntegrityError: it is not what that SHA-256 names.
    """
    check_keys(client.name, client.store)
    named = [record for record in versions(client, name).values() if record.sha256 == sha256]
    if not named:
        where = f"champion {name!r} in store {client.name!r}"
        raise BadConfig(f"no version of {where} is {sha256[:80]}: `bakeoff champion list CONFIG` names them")
    if not client.store.signing_key:
        raise BadConfig(f"store {client.name!r} names no key to sign with: set its signing_key")
    unbelieving = replace(client, store=client.store.model_copy(update={"verifying_key": ""}))
    with TemporaryDirectory(prefix="bakeoff-") as folder:
        fetch_contender(unbelieving, sha256, Path(folder))
        sign(client, sha256, Path(folder))
    return max(named, key=lambda record: record.version)


def difference(client: StoreClient, one: ChampionVersion, other: ChampionVersion) -> Difference:
    """What changed from the one to the other. Raises IntegrityError where a contender is not whole."""
    with TemporaryDirectory(prefix="bakeoff-") as folder:
        both = [manifest_of(client, record, Path(folder) / str(number)) for number, record in enumerate((one, other))]
        prompts = _prompts(client, [(one, both[0]), (other, both[1])], Path(folder))
    about = ({**flat(record.champion()), "arm": record.arm, "kind": record.kind, **_decided(record)} for record in (one, other))
    return Difference(
        about=changed(*about),
        metrics=changed(flat(one.scores), flat(other.scores)),
        config=changed(flat(one.config), flat(other.config)),
        data=changed(*({"fingerprint": each.dataset, **flat(each.lineage and each.lineage.data)} for each in (one, other))),
        prices=changed(*(flat(each.lineage and each.lineage.prices) for each in (one, other))),
        environment=changed(*(flat(each.lineage and each.lineage.environment) for each in (one, other))),
        files=changed(both[0].files, both[1].files),
        prompts=prompts,
    )


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values."""
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _decided(record: ChampionVersion) -> dict[str, Any]:
    return {"fingerprint": record.fingerprint, "decision": record.decision, "reason": record.reason}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every plain value inside, by its path with dots."""
    value = value.model_dump(mode="json") if isinstance(value, Model) else value
    if value is None and not path:
        return {}
    if isinstance(value, Mapping | list) and value:
        steps: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
        inner = [flat(each, f"{path}.{step}" if path else str(step)) for step, each in steps]
        return {key: each for part in inner for key, each in part.items()}
    return {path: value}


def manifest_of(client: StoreClient, record: ChampionVersion, folder: Path) -> ContenderManifest:
    """The manifest of a version's contender, downloaded into a folder and hashed."""
    client.download(client.key("contenders", record.sha256, FILE), folder / FILE, lambda _: None)
    if file_sha256(folder / FILE) != record.sha256:
        raise IntegrityError(f"{client.uri('contenders', record.sha256, FILE)} was corrupted or replaced")
    return read_manifest(folder, check_files=False)


def _prompts(client: StoreClient, both: list[tuple[ChampionVersion, ContenderManifest]], folder: Path) -> dict[str, list[str]]:
    """Line by line what differs in the texts of prompts and hybrids; the card is about both, not of them."""
    if not any(manifest.kind in ("prompt", "hybrid") for _, manifest in both):
        return {}
    (_, before), (_, after) = both
    files = [name for name in changed(before.files, after.files) if Path(name).suffix in TEXTS and name != "README.md"]
    found = {}
    for name in files:
        texts = []
        for record, manifest in both:
            path = folder / "texts" / record.sha256 / name
            if name in manifest.files:
                client.download(client.key("contenders", record.sha256, name), path, lambda _: None)
            texts.append(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "")
        if max(map(len, texts)) <= LONGEST_TEXT:
            old, new = (f"version {record.version}" for record, _ in both)
            found[name] = list(difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), old, new, lineterm=""))
    return found
