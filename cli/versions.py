"""What `bakeoff champion` does: each function opens the store of a config and returns a record."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.options import written_out
from cli.run import allow_roots, named_server, terminal_progress
from services.keeper import wait_until_all_stopped
from services.places import LivePlaces
from tasks.config import load_config
from tasks.errors import BadConfig, IntegrityError
from tasks.registry import history
from tasks.registry.champion import ChampionVersion, current_champion, read_champion, read_version, show, version_numbers
from tasks.registry.prune import Pruning, prune
from tasks.registry.reproduce import Reproduction, compare_made, recorded_config
from tasks.registry.rollback import roll_back
from tasks.settings import Settings, load_settings
from tasks.store import StoreClient, open_store

NONE = "There is no champion yet: `bakeoff run` publishes one when the evidence is there."


@dataclass(frozen=True)
class Registry:
    """A config's store, open, and the name that its champions are kept under."""

    settings: Settings
    client: StoreClient
    name: str

    def version(self, number: int) -> ChampionVersion:
        """Raises BadConfig when there is no such version."""
        found = read_version(self.client, self.name, number)
        if found is None:
            known = ", ".join(map(str, version_numbers(self.client, self.name))) or "none"
            raise BadConfig(f"champion {self.name!r} has no version {number}; there are {known}")
        return found


@contextmanager
def opened_registry(config: Path, overrides: Sequence[str]) -> Iterator[Registry]:
    """The registry for the time of a `with`; an embedded store runs as long.

    Raises:
        Refused: the config or the settings are wrong, or the home cannot be written.
        StoreError: the store refuses or is out of reach.
    """
    parsed = load_config(config, overrides)
    allow_roots(config)
    settings = load_settings()
    settings.check_home()
    with LivePlaces(settings) as places:
        client = open_store(places, parsed.store)
        if client.store.create:
            client.check()  # makes the bucket
        yield Registry(places.settings, client, parsed.name)


def champion_of(config: Path, overrides: Sequence[str]) -> ChampionVersion | None:
    """The champion of a config's bake-off; None where there is none yet. Raises as `opened_registry`."""
    parsed = load_config(config, overrides)
    allow_roots(config)
    settings = load_settings()
    settings.check_home()
    with LivePlaces(settings) as places:
        return current_champion(places, parsed.store, parsed.name)


def list_versions(config: Path, overrides: Sequence[str]) -> list[history.Entry]:
    """Every version of the champion, the newest first."""
    with opened_registry(config, overrides) as registry:
        return history.history(registry.settings, registry.client, registry.name)


def list_champions(config: Path, overrides: Sequence[str]) -> list[ChampionVersion]:
    """The champions of the store, of whatever name."""
    with opened_registry(config, overrides) as registry:
        found = (read_champion(registry.settings, registry.client, name) for name in history.names(registry.client))
        return [champion for champion in found if champion]


def diff_versions(config: Path, overrides: Sequence[str], one: int, other: int) -> history.Difference:
    """What changed from a version to another."""
    with opened_registry(config, overrides) as registry:
        return history.difference(registry.client, registry.version(one), registry.version(other))


def roll_champion_back(config: Path, overrides: Sequence[str], to: int, reason: str) -> ChampionVersion:
    """Make the contender of an older version champion again."""
    with opened_registry(config, overrides) as registry:
        return roll_back(registry.settings, registry.client, registry.name, to, reason)


def verify_champion(config: Path, overrides: Sequence[str], everything: bool) -> list[history.Proof]:
    """Hash what the store holds of the champion, or of every version."""
    with opened_registry(config, overrides) as registry:
        return history.verify(registry.settings, registry.client, registry.name, everything)


def sign_version(config: Path, overrides: Sequence[str], sha256: str) -> ChampionVersion:
    """Sign a published contender with the key of the store's settings."""
    with opened_registry(config, overrides) as registry:
        return history.sign_version(registry.client, registry.name, sha256)


def refuse_faults(proofs: Sequence[history.Proof]) -> None:
    """Raises IntegrityError when a version is not what was published."""
    wrong = [proof for proof in proofs if proof.fault]
    if wrong:
        said = "; ".join(f"version {proof.version}: {proof.fault}" for proof in wrong)
        raise IntegrityError(f"{said}. To have an older champion: `bakeoff champion rollback CONFIG --to VERSION --reason …`")


def prune_store(config: Path, overrides: Sequence[str], keep: int, really: bool) -> Pruning:
    """Show or remove what no pointer and no version within the policy needs."""
    with opened_registry(config, overrides) as registry:
        return prune(registry.settings, registry.client, keep, really)


def reproduce_version(config: Path, overrides: Sequence[str], number: int) -> Reproduction:
    """Make the contender of a version again, in a home of its own where nothing is reused but an earlier try that was cut short."""
    with opened_registry(config, overrides) as registry:
        champion = registry.version(number)
        recorded = recorded_config(champion)
        home = registry.settings.home / "reproduced" / f"{registry.name}-v{number:06d}"
        os.environ |= {"BAKEOFF_HOME": str(home), "BAKEOFF_WORKSPACE__STORE": ""}  # a shared workspace has it all already
        from flows.contend import contend

        with terminal_progress(), named_server():
            dataset, made = contend(recorded, [champion.contender])
        found = compare_made(registry.client, champion, dataset, *made[0])
        wait_until_all_stopped(home, 30)  # they write until they end, a moment after their last user
        shutil.rmtree(home)  # the next time is to make it again
        return found


def describe(champion: ChampionVersion | None) -> str:
    """A champion in a few lines."""
    return written_out(show(champion)) if champion else NONE


def versions_text(entries: Sequence[history.Entry]) -> str:
    """A line a version."""
    lines = [f"{'version':>8}  {'':14} {'contender':20} {'when (UTC)':16}  by"] if entries else [NONE]
    for entry in entries:
        event = f"back to {entry.back_to}: " if entry.back_to else ""
        gone = "" if entry.whole else " [pruned]"
        when = f"{entry.published:%Y-%m-%d %H:%M}"
        lines.append(f"{entry.version:>8}  {entry.state:14} {entry.contender:20} {when}  {entry.publisher}{gone}")
        lines.append(f"{'':10}{event}{entry.reason}")
    return written_out("\n".join(lines))


def difference_text(found: history.Difference, one: int, other: int) -> str:
    """Section by section, only what differs."""
    lines = [f"version {one} -> version {other}"]
    for section, changes in found.model_dump(exclude={"prompts"}).items():
        if changes:
            lines += [section, *(f"  {path}: {_short(before)} -> {_short(after)}" for path, (before, after) in changes.items())]
    for name, rows in found.prompts.items():
        lines += [f"prompts: {name}", *(f"  {row}" for row in rows)]
    return written_out("\n".join(lines))


def proofs_text(proofs: Sequence[history.Proof]) -> str:
    """A line a version."""
    right = [f"version {each.version}: {_hashed(each)} ({each.sha256[:12]})" for each in proofs if not each.fault]
    return "\n".join(right)


def pruning_text(found: Pruning, keep: int) -> str:
    """What goes, and what stays."""
    verb = "removed" if found.removed else "would be removed"
    lines = [
        f"{each.sha256[:12]}  {each.files} files, {each.bytes:,} bytes  {', '.join(each.versions) or 'never published to its end'}"
        for each in found.contenders
    ]
    lines += [f"upload in parts  {key}" for key in found.uploads]
    lines.append(
        f"{len(found.contenders)} contenders ({found.bytes:,} bytes) and {len(found.uploads)} unfinished uploads {verb}; "
        f"{found.kept} contenders stay (the newest {keep} versions of each champion; records of versions always)"
    )
    if not found.removed and (found.contenders or found.uploads):
        lines.append("To remove them: the same command with --yes. In a bucket with versions a lifecycle rule frees the space.")
    return written_out("\n".join(lines))


def reproduction_text(found: Reproduction) -> str:
    """What is the same, and what differs."""
    verdict = "the same rows, labels and metrics" if found.same else "something else came out"
    lines = [f"version {found.version}, {found.contender}, made again: {verdict}"]
    lines.append(f"  predictions: {len(found.other_labels)} of {found.rows} have another label")
    lines += [f"    {row}" for row in found.other_labels[:10]]
    for section in ("data", "files", "metrics", "environment"):
        changes = getattr(found, section)
        lines.append(f"  {section}: {f'{len(changes)} differ' if changes else 'the same'}")
        lines += [f"    {path}: {_short(before)} -> {_short(after)}" for path, (before, after) in changes.items()]
    return written_out("\n".join(lines))


def refuse_other(found: Reproduction) -> None:
    """Raises IntegrityError when something else came out."""
    if not found.same:
        raise IntegrityError(f"version {found.version} was not reproduced: rows, labels or metrics differ from what is recorded")


def _hashed(proof: history.Proof) -> str:
    return f"{proof.files} files are as they were published" if proof.files else "pruned"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
