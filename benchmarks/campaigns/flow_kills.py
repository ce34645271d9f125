"""The whole main job is killed at random moments; it ends in the verdict of an unbroken run, and shows nothing half made."""

import hashlib
import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import yaml

from benchmarks.campaigns.asker import KEY_ENV
from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.watch import Watch, kill, repeats, wait_until
from benchmarks.scratch import scratch
from tests.flows.test_bakeoff import BAKEOFF, CONFIG, slowly
from tests.live import environment, make_readable, prefect_server, same

KILLS = 12
CONCURRENCY = 4


@dataclass(frozen=True)
class World:
    """A Prefect server, rows and a base model to read, and an endpoint's name."""

    folder: Path
    api: str

    @property
    def readable(self) -> Path:
        """Where runs may read."""
        return self.folder / "readable"

    def start(self, server: Watch, home: Path, life: int) -> "subprocess.Popen[bytes]":
        """`bakeoff run`, its output in files of the home."""
        home.mkdir(exist_ok=True)
        endpoint = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "json_schema": False, "key_env": KEY_ENV}
        endpoint |= {"base_url": server.url, "concurrency": CONCURRENCY}
        (home / "settings.yaml").write_text(yaml.safe_dump({"endpoints": {"loopback": endpoint}}))
        (self.folder / "whole.yaml").write_text(yaml.safe_dump(CONFIG))
        env = environment(
            PREFECT_API_URL=self.api, PREFECT_HOME=str(self.folder / "prefect"), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"
        )
        env |= {"BAKEOFF_HOME": str(home), "BAKEOFF_SETTINGS": str(home / "settings.yaml"), KEY_ENV: f"life-{life}"}
        command = [*BAKEOFF, str(self.folder / "whole.yaml"), "--output", "json"]
        with (home / "verdict.json").open("wb") as out, (home / f"life-{life}.log").open("wb") as log:
            return subprocess.Popen(command, env=env, cwd=self.readable, stdout=out, stderr=log)

    def finish(self, process: "subprocess.Popen[bytes]", home: Path, life: int) -> dict[str, Any]:
        """The verdict. Raises RuntimeError when there is none."""
        if process.wait(600):
            log = (home / f"life-{life}.log").read_text()
            raise RuntimeError(f"the run ended with status {process.returncode}: {log[-3000:]}")
        return dict(json.loads((home / "verdict.json").read_text()))


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody killed."""

    verdict: dict[str, Any]
    sent: Counter[str]
    """How often each body was sent; those of the publication's round trip twice."""
    took_s: float


@dataclass
class Tally:
    """What became of all rounds."""

    kills: int = 0
    rounds: int = 0
    same: int = 0
    published: int = 0
    """Runs that were killed after their publication."""
    differences: list[str] = field(default_factory=list)
    """Where verdicts differ from the unbroken one."""
    repeated: list[int] = field(default_factory=list)
    within: int = 0
    sent: int = 0
    partial: set[str] = field(default_factory=set)
    seen: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    """The stages whose products were in progress at a kill."""


def run(options: Options) -> list[Figure]:
    """The figures."""
    rng, tally = Random(f"flow kills {options.seed}"), Tally()
    wanted = options.kills or KILLS
    with scratch() as folder, prefect_server(make_folder(folder / "server")) as api, Watch(slowly) as server:
        world = World(folder, api)
        make_readable(make_folder(world.readable))
        started = time.monotonic()
        verdict = world.finish(world.start(server, world.folder / "unbroken", 0), world.folder / "unbroken", 0)
        unbroken = Unbroken(verdict, Counter(body for _, body in server.sent), time.monotonic() - started)
        while tally.kills < wanted:
            tally.rounds += 1
            kill_round(world, server, wanted, rng, unbroken, tally)
    needed = unbroken.sent.total()
    return [
        Figure("kills", tally.kills, ">= 10", f"while {', '.join(sorted(tally.stages)) or 'nothing'} was in progress"),
        Figure(
            "runs",
            tally.rounds,
            note=f"{tally.published} killed after publication; an unbroken one took {unbroken.took_s:.0f} s, {needed} paid calls",
        ),
        Figure("runs_with_another_verdict", tally.rounds - tally.same, "== 0", "; ".join(tally.differences[:5])),
        Figure("repeated_by_a_kill_at_most", max(tally.repeated, default=0), f"<= {CONCURRENCY}", "paid calls"),
        Figure("repeated_in_all", sum(tally.repeated), note=f"of {tally.sent}"),
        Figure("sent_twice_without_a_kill", tally.within, "== 0", f"beyond the {needed - len(unbroken.sent)} of the round trip"),
        Figure("partial_products_visible", len(tally.partial), "== 0", f"of {tally.seen} seen after kills"),
    ]


def make_folder(path: Path) -> Path:
    """The folder, made."""
    path.mkdir(parents=True)
    return path


def kill_round(world: World, server: Watch, wanted: int, rng: Random, unbroken: Unbroken, tally: Tally) -> None:
    """Kill a run until it ends, or there were kills enough; then compare its verdict and its products."""
    home, first, killed, seen = world.folder / f"home-{tally.rounds}", len(server.sent), [], []
    for life in count(100 * tally.rounds):
        process = world.start(server, home, life)
        moment = time.monotonic() + rng.uniform(0.2, 0.95) * unbroken.took_s
        asked = len(server.sent) + rng.choice((rng.randint(1, 50), 10**9))
        if tally.kills < wanted:
            wait_until(partial(passed, moment, server, asked), process)
        if tally.kills >= wanted or not kill(process):
            break
        tally.kills += 1
        killed.append(life)
        seen.append(products(home))
        tally.stages.update({path.parent.name for path in (home / "workspace" / "inprogress").glob("*/*") if path.is_dir()})
    verdict = world.finish(process, home, life)
    sent = server.sent[first:]
    by_kill, within = repeats(sent, unbroken.sent)
    told, right = ({**same(each), "decision": each["decision"]} for each in (verdict, unbroken.verdict))
    if any(name.startswith("publish/") for before in seen for name in before):
        tally.published += 1
        right["decision"] = "keep_champion"  # what was killed had published already; only its end was missing
    tally.same += told == right
    tally.differences += differences(told, right)
    tally.repeated += [by_kill[each] for each in killed]
    tally.within += within
    tally.sent += len(sent)
    last = products(home)
    for before in seen:
        tally.seen += len(before)
        tally.partial |= {f"{home.name}: {name}" for name, files in before.items() if last.get(name) != files}


def differences(told: Any, right: Any, where: str = "") -> list[str]:
    """Where two verdicts differ, and in what."""
    if isinstance(told, dict) and isinstance(right, dict):
        steps: list[Any] = sorted(told.keys() | right.keys())
        return [text for step in steps for text in differences(told.get(step), right.get(step), f"{where}.{step}")]
    if isinstance(told, list) and isinstance(right, list) and len(told) == len(right):
        return [text for step in range(len(told)) for text in differences(told[step], right[step], f"{where}.{step}")]
    return [] if told == right else [f"{where.lstrip('.')}: {str(told)[:60]} instead of {str(right)[:60]}"]


def passed(moment: float, server: Watch, asked: int) -> bool:
    """Whether it is as late, or so many requests have come."""
    return time.monotonic() >= moment or len(server.sent) >= asked


def products(home: Path) -> dict[str, dict[str, str]]:
    """Every product that a reader would find: its files and their hashes."""
    found = {}
    for folder in (home / "workspace" / "products").glob("*/*"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        found[f"{folder.parent.name}/{folder.name}"] = {
            os.path.relpath(path, folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }
    return found
