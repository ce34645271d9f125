"""A process that asks an endpoint about rows is killed again and again; nothing is lost, and little is paid for twice."""

import subprocess
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.campaigns.asker import CONCURRENCY, plans
from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.watch import Watch, answers_in, finish, kill, repeats, start_asker, wait_until

KILLS = 60
MOST_REQUESTS = 40
"""A process is killed after at most so many requests."""


@dataclass
class Tally:
    """What became of all rounds."""

    kills: int = 0
    rounds: int = 0
    lost: int = 0
    differ: int = 0
    sent: int = 0
    within: int = 0
    repeated: list[int] = field(default_factory=list)
    """For each kill the requests that were sent again after it."""


def run(options: Options) -> list[Figure]:
    """The figures."""
    rng, tally = Random(f"kills {options.seed}"), Tally()
    wanted = options.kills or KILLS
    with TemporaryDirectory() as name:
        folder = Path(name)
        with Watch() as server:
            finish(start_asker(server, folder / "unbroken", options.rows, 1, "one-by-one"), folder / "unbroken", 1)
            needed = len(server.sent)
        unbroken = answers_in(folder / "unbroken")
        while tally.kills < wanted:
            tally.rounds += 1
            kill_round(folder / f"round-{tally.rounds}", options.rows, wanted, rng, tally)
            compare(unbroken, folder / f"round-{tally.rounds}", tally)
    return [
        Figure("kills", tally.kills, f">= {KILLS}"),
        Figure(
            "rows", sum(rows for _, rows in plans(options.rows)), note=f"{needed} requests; asked about in {tally.rounds} rounds"
        ),
        Figure("rows_lost", tally.lost, "== 0"),
        Figure("answers_that_differ", tally.differ, "== 0", "from those of an unbroken run; all but the latency is compared"),
        Figure("repeated_by_a_kill_at_most", max(tally.repeated, default=0), f"<= {CONCURRENCY}", "paid calls"),
        Figure("repeated_in_all", sum(tally.repeated), note=f"of {tally.sent} paid calls"),
        Figure("sent_twice_without_a_kill", tally.within, "== 0"),
    ]


def kill_round(folder: Path, rows: int, wanted: int, rng: Random, tally: Tally) -> None:
    """Start and kill until the process has answered everything, or there were kills enough."""
    with Watch() as server:
        killed = []
        for life in count(1):
            process = start_asker(server, folder, rows, life, "one-by-one")
            if tally.kills >= wanted or not kill_sometime(process, server, rng):
                finish(process, folder, life)
                break
            tally.kills += 1
            killed.append(life)
        by_kill, within = repeats(server.sent)
        tally.repeated += [by_kill[life] for life in killed]
        tally.within += within
        tally.sent += len(server.sent)


def kill_sometime(process: "subprocess.Popen[bytes]", server: Watch, rng: Random) -> bool:
    """Kill at random: after a number of requests and a little while, or once in eight times by the clock alone. Whether it ran."""
    enough, delay = len(server.sent) + rng.randint(1, MOST_REQUESTS), rng.uniform(0, 0.05)
    by_clock = time.monotonic() + rng.uniform(0, 3) if rng.random() < 1 / 8 else None
    wait_until(lambda: time.monotonic() >= by_clock if by_clock else len(server.sent) >= enough, process)
    time.sleep(delay)
    return kill(process)


def compare(unbroken: list[dict[str, object]], folder: Path, tally: Tally) -> None:
    """Count what is missing and what differs."""
    answers = answers_in(folder)
    tally.lost += max(0, len(unbroken) - len(answers))
    for answer, right in zip(answers, unbroken, strict=False):
        tally.lost += answer["failure"] not in (None, "invalid")
        tally.differ += answer != right
