"""The same with an endpoint that is asked in batches: no batch is made twice, however its process dies."""

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.kills import Tally, compare
from benchmarks.campaigns.watch import Watch, answers_in, finish, kill, start_asker, wait_until
from tests.prompting.loopback import Batches, Say

KILLS = 24
ROWS = 45
STEPS = ("uploaded", "made", "listed", "looked at")
MOST_STEPS = 3
"""A process is killed at most so many steps of a kind after its start."""


class Stepping(Batches):
    """Tells of each step before the client hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 4
        self.on_step: Callable[[str], None] = lambda step: None

    def store(self, text: str) -> str:
        """A file up, or one of results."""
        name = super().store(text)
        self.on_step("uploaded")
        return name

    def create(self, body: dict[str, Any]) -> Say:
        """A batch made."""
        say = super().create(body)
        self.on_step("made")
        return say

    def list(self, after: str | None) -> Say:
        """The list of batches looked through."""
        self.on_step("listed")
        return super().list(after)

    def retrieve(self, name: str, ask: Callable[[dict[str, Any]], Say]) -> Say:
        """A batch looked at."""
        say = super().retrieve(name, ask)
        self.on_step("looked at")
        return say


@dataclass
class Made:
    """What was made at the endpoint in all rounds."""

    kills: Counter[str] = field(default_factory=Counter)
    """By the step at which they came."""
    batches: int = 0
    most_of_a_set: int = 0
    handed_in: int = 0
    handed_in_twice: int = 0


def run(options: Options) -> list[Figure]:
    """The figures."""
    rng, made, tally = Random(f"batch kills {options.seed}"), Made(), Tally()
    wanted = options.kills or KILLS
    rows = min(options.rows, ROWS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with Watch() as server:
            server.batches = Stepping()
            finish(start_asker(server, folder / "unbroken", rows, 1, "batch"), folder / "unbroken", 1)
        unbroken = answers_in(folder / "unbroken")
        for round_ in count(1):
            kill_round(folder / f"round-{round_}", rows, wanted, rng, made)
            compare(unbroken, folder / f"round-{round_}", tally)
            if made.kills.total() >= wanted:
                break
    at = ", ".join(f"{number} {step}" for step, number in sorted(made.kills.items()))
    return [
        Figure("kills", made.kills.total(), ">= 20", at),
        Figure("batches", made.batches, note=f"made in {round_} rounds"),
        Figure("batches_of_the_same_requests", made.most_of_a_set, "== 1"),
        Figure("requests_handed_in_twice", made.handed_in_twice, "== 0", f"of {made.handed_in}"),
        Figure("rows_lost", tally.lost, "== 0"),
        Figure("answers_that_differ", tally.differ, "== 0"),
    ]


def kill_round(folder: Path, rows: int, wanted: int, rng: Random, made: Made) -> None:
    """Start and kill until the process has answered everything, or there were kills enough."""
    with Watch() as server:
        server.batches = batches = Stepping()
        for life in count(1):
            started = threading.Event()
            killing = Killing(rng, started)
            batches.on_step = killing.step if made.kills.total() < wanted else lambda step: None
            process = killing.process = start_asker(server, folder, rows, life, "batch")
            started.set()
            if made.kills.total() >= wanted or not killing.see_to_it():
                finish(process, folder, life)
                break
            made.kills[killing.when] += 1
    sets = [tuple(ids_of(batches.files[batch["input_file_id"]])) for batch in batches.made]
    made.batches += len(sets)
    made.most_of_a_set = max(made.most_of_a_set, *Counter(sets).values())
    ids = Counter(name for each in sets for name in each)
    made.handed_in += ids.total()
    made.handed_in_twice += ids.total() - len(ids)


def ids_of(text: str) -> list[str]:
    """The names of the requests in an uploaded file, in order of name."""
    return sorted(json.loads(line)["custom_id"] for line in text.splitlines())


class Killing:
    """The kill of one process: at a step, before it hears of it, or a little later."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, rng: Random, started: threading.Event) -> None:
        self.kind, self.steps = rng.choices(STEPS, (1, 3, 1, 2))[0], rng.randint(1, MOST_STEPS)
        self.delay = rng.choice((0.0, rng.uniform(0, 0.4)))
        self.when = f"when {self.kind}" if not self.delay else f"after {self.kind}"
        self.started, self.reached, self.dead = started, threading.Event(), threading.Event()

    def step(self, step: str) -> None:
        """Hear of a step; in the server's thread, so that at a delay of 0 the client never gets the reply."""
        self.steps -= step == self.kind
        if self.steps > 0 or self.reached.is_set():
            return
        self.started.wait(60)
        self.reached.set()
        if not self.delay:
            self.dead.wait(60)

    def see_to_it(self) -> bool:
        """Wait for the moment and kill; whether the process was still running."""
        wait_until(self.reached.is_set, self.process)
        time.sleep(self.delay)
        killed = kill(self.process)
        self.dead.set()
        return killed
