"""Publications and rollbacks are killed (SIGKILL) at random moments behind a real S3 server: the champion is valid after each,
nothing is visible that is not whole, and the rerun ends without sending again what is there.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.publisher import NAME, STORE, publish_one, roll_one_back, start, status_of
from benchmarks.campaigns.registry import Registry, opened, side_by_side
from benchmarks.scratch import scratch
from services.places import LivePlaces
from tasks.errors import IntegrityError
from tasks.manifest import FILE
from tasks.registry.champion import ChampionVersion, read_champion, read_version
from tasks.registry.history import versions
from tests.registry.making import make_publication

KILLS = 200
LANES = 8
"""Champions of their own that are published and killed side by side."""
REQUESTS = 30
"""A process is killed at one of its first so many requests, or ends before."""
UNDISTURBED = 2
"""Publications of a champion before the first kill: there must be a version to go back to."""
LATEST_S = 0.02
"""A kill comes up to so much later than the request that sets it off."""


@dataclass
class Tally:
    """What became of all rounds."""

    kills: int = 0
    rounds: int = 0
    rollbacks: int = 0
    rollback_kills: int = 0
    at: Counter[str] = field(default_factory=Counter)
    """Kills by what was under way."""
    invalid: list[str] = field(default_factory=list)
    """Champions that were not valid after a kill, and why."""
    half: set[str] = field(default_factory=set)
    """Objects and contenders that could be seen and were not whole."""
    looked: int = 0
    """Objects that were looked at after kills."""
    unfinished: list[str] = field(default_factory=list)
    """Reruns that did not end in the champion that was wanted."""
    again: int = 0
    """Bytes of contenders that were sent although they were there."""
    down: int = 0
    """Versions that went down."""
    known: set[str] = field(default_factory=set)
    """Contenders that were seen whole; what is named by its content need not be looked at after every kill."""


class Trap:
    """Kills a process at its n-th request: before the server sees it, or after, and a little later."""

    def __init__(self, registry: Registry, rng: Random, armed: bool) -> None:
        self.at, self.before = rng.randint(1, REQUESTS) if armed else 0, rng.random() < 0.5
        self.later = rng.uniform(0, LATEST_S) * rng.choice((0, 1))
        self.process: BaseProcess | None = None
        self.caught = ""
        self._seen = 0
        self._lock = threading.Lock()
        registry.proxy.before, registry.proxy.after = self._hook(True), self._hook(False)

    def _hook(self, before: bool) -> Callable[[str, str], None]:
        def hook(method: str, path: str) -> None:
            with self._lock:
                self._seen += before
                now = 0 < self._seen == self.at and before == self.before and not self.caught
                if now:
                    self.caught = f"{method} {path.split('/of/')[-1].split('/')[0]}"
            if now:
                threading.Event().wait(self.later)
                assert self.process
                assert self.process.pid
                os.kill(self.process.pid, signal.SIGKILL)
                if before:
                    raise ConnectionAbortedError("the client is gone")

        return hook


def run(options: Options) -> list[Figure]:
    """The figures."""
    wanted = options.kills or KILLS
    lanes = min(LANES, wanted)
    tallies = [Tally() for _ in range(lanes)]
    with scratch() as folder, opened(folder, lanes) as registries:
        with LivePlaces(registries[0].settings) as places:
            make_publication(folder / "made", places, STORE)  # what all publications have in common

        def work(lane: int) -> None:
            registry, tally = registries[lane], tallies[lane]
            rng = Random(f"publication kills {options.seed} {lane}")
            for _ in range(UNDISTURBED):
                one_round(registry, rng, 0, tally)
            while tally.kills < wanted // lanes + (lane < wanted % lanes):
                one_round(registry, rng, wanted // lanes + (lane < wanted % lanes), tally)

        side_by_side(work, lanes)
    return figures(together(tallies))


def together(tallies: list[Tally]) -> Tally:
    """The sum of all lanes."""
    total = Tally()
    for tally in tallies:
        for name, value in vars(tally).items():
            if isinstance(value, int):
                setattr(total, name, getattr(total, name) + value)
            elif isinstance(value, list):
                getattr(total, name).extend(value)
            else:
                getattr(total, name).update(value)
    return total


def figures(tally: Tally) -> list[Figure]:
    """What is told of them."""
    where = ", ".join(f"{what} {count}" for what, count in tally.at.most_common(6))
    return [
        Figure("kills", tally.kills, ">= 200", f"at {where}"),
        Figure("rounds", tally.rounds, note=f"{tally.rollbacks} rollbacks, {tally.rollback_kills} of the kills in them"),
        Figure("champions_not_valid_after_a_kill", len(tally.invalid), "== 0", "; ".join(tally.invalid[:3])),
        Figure("objects_half_visible", len(tally.half), "== 0", f"of {tally.looked} looked at after kills"),
        Figure("reruns_that_did_not_complete", len(tally.unfinished), "== 0", "; ".join(tally.unfinished[:3])),
        Figure("bytes_sent_again", tally.again, "== 0", "of contenders' files that were there"),
        Figure("versions_that_went_down", tally.down, "== 0"),
    ]


def one_round(registry: Registry, rng: Random, wanted: int, tally: Tally) -> None:
    """Kill a publication or a rollback until it ends, or there were kills enough."""
    tally.rounds += 1
    old = read_champion(registry.settings, registry.client, NAME)
    name, target = f"round-{tally.rounds}", roll_target(registry, rng, old, tally)
    tally.rollbacks += target is not None
    folder = registry.folder / name
    while True:
        there = registry.contenders()
        trap, first = Trap(registry, rng, tally.kills < wanted), len(registry.proxy.requests)
        if target:
            process = start(roll_one_back, registry.settings, registry.env, target.version)
        else:
            process = start(publish_one, registry.settings, registry.env, registry.folder.parent / "made", folder, name)
        trap.process = process
        status = status_of(process)
        tally.again += sent_again(registry, first, there)
        if status != -signal.SIGKILL:
            break
        tally.kills += 1
        tally.rollback_kills += target is not None
        tally.at[trap.caught] += 1
        look(registry, old, name, target, tally)
    now = read_champion(registry.settings, registry.client, NAME)
    if status or not now or not is_wanted(now, name, target):
        tally.unfinished.append(f"round {tally.rounds}: status {status}, champion {now and now.contender}")


def roll_target(registry: Registry, rng: Random, old: ChampionVersion | None, tally: Tally) -> ChampionVersion | None:
    """A version to go back to, in every other round."""
    if not old or old.version == 1 or tally.rounds <= UNDISTURBED or tally.rounds % 2 == 0:
        return None
    target = read_version(registry.client, NAME, rng.randint(1, old.version - 1))
    return target if target and target.sha256 != old.sha256 else None


def is_wanted(now: ChampionVersion, name: str, target: ChampionVersion | None) -> bool:
    """Whether the champion is what the round was to make it."""
    return now.sha256 == target.sha256 if target else now.contender == name


def look(registry: Registry, old: ChampionVersion | None, name: str, target: ChampionVersion | None, tally: Tally) -> None:
    """After a kill: the champion is the old or the new one, and whole; so is every contender and record that can be seen."""
    now = read_champion(registry.settings, registry.client, NAME)
    if (now.version if now else 0) < (old.version if old else 0):
        tally.down += 1
    if now != old and not (now and is_wanted(now, name, target)):
        tally.invalid.append(f"round {tally.rounds}: {now and now.contender}")
    found = versions(registry.client, NAME)
    if now and found.get(now.version) != now:
        tally.invalid.append(f"round {tally.rounds}: the pointer is not a record")
    seen = registry.contenders()
    latest = {record.sha256 for record in sorted(found.values(), key=lambda each: -each.version)[:2]}
    new = {sha256 for sha256 in seen if FILE in seen[sha256]} - tally.known
    for sha256 in new | latest | ({now.sha256} if now else set()):
        tally.looked += len(seen.get(sha256, ())) + 1
        try:
            registry.fetch(sha256)
        except IntegrityError as error:
            tally.half.add(str(error))
            if now and sha256 == now.sha256:
                tally.invalid.append(f"round {tally.rounds}: {error}")
    tally.known.update(new)
    for sha256, files in seen.items():
        if FILE not in files:  # not committed yet; what is there must be whole all the same
            tally.looked += len(files)
            tally.half |= set(whole_or_not(registry, sha256, files, registry.folder / name))


def whole_or_not(registry: Registry, sha256: str, files: set[str], folder: Path) -> list[str]:
    """Objects of an uncommitted contender whose bytes are not those of the file."""
    inprogress = list((folder / "workspace").glob("inprogress/publish/*/contender"))
    wrong = []
    for file in files:
        body = registry.client.read(registry.client.key("contenders", sha256, file))
        if body and not any((each / file).is_file() and (each / file).read_bytes() == body[0] for each in inprogress):
            wrong.append(f"{sha256}/{file}")
    return wrong


def sent_again(registry: Registry, first: int, there: dict[str, set[str]]) -> int:
    """Bytes put to objects of contenders that were there already."""
    known = {registry.client.key("contenders", sha256, file) for sha256, files in there.items() for file in files}
    puts = (each for each in registry.proxy.requests[first:] if each[0] in ("PUT", "POST"))
    return sum(size for _, path, size in puts if path.split("/", 2)[-1] in known)
