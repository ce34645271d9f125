"""The server under load while the champion changes: requests per second and latency beside one-at-a-time prediction, and failures.

python -m benchmarks.serving --seconds 300 --moves 10 --output json

Server, driver and this process, which moves the pointer on a real S3 server, are three processes. Two tuned models take turns.
One-at-a-time is the same model in a process of its own, a row a call, before and after the load.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import yaml

from benchmarks.scratch import scratch
from services.places import LivePlaces
from tasks.bases import resolve_base
from tasks.config import Trivial, Tuned
from tasks.contenders.loader import load_contender
from tasks.contenders.trivial import build_trivial
from tasks.records import ContenderRecord, Example
from tasks.settings import load_settings
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.champions import crown
from tests.live import environment
from tests.tiny_model import examples, make_base, make_dataset, make_tokens

ROOT = Path(__file__).parents[1]
NAME = "served"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@click.command(help=__doc__)
@click.option("--seconds", type=click.FloatRange(1), default=300.0, show_default=True, help="Of load.")
@click.option("--moves", type=click.IntRange(0), default=10, show_default=True, help="Times that the pointer moves meanwhile.")
@click.option("--clients", type=click.IntRange(1), default=16, show_default=True, help="Connections that ask at once.")
@click.option("--base", type=click.Choice(["minilm", "tiny"]), default="minilm", show_default=True, help="The tuned models' base.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
def main(seconds: float, moves: int, clients: int, base: str, output: str) -> None:
    """Exit status 1 when a request failed."""
    with scratch() as folder:
        told = measure(folder, seconds, moves, clients, base)
    if output == "json":
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo("\n".join(f"{key:28} {value}" for key, value in told.items()))
    sys.exit(told["failed"] > 0 or told["moves"] < moves)


def measure(folder: Path, seconds: float, moves: int, clients: int, base: str) -> dict[str, Any]:
    """All figures of one campaign."""
    os.environ |= {"BAKEOFF_HOME": str(folder / "home"), "BAKEOFF_SETTINGS": str(folder / "settings.yaml")}
    (folder / "settings.yaml").write_text(yaml.safe_dump({"roots": [str(folder)]}))
    (folder / "task.yaml").write_text(yaml.safe_dump({"name": NAME, "dataset": "rows.csv", "prompts": []}))
    rivals = make_rivals(folder, base)
    single = max(1.0, seconds / 30)
    with LivePlaces(load_settings()) as places:
        crown(places, "local", NAME, rivals[0])
        with serving(folder) as url:
            alone = [one_at_a_time(rivals[0], single)]
            with driving(url, clients, seconds) as driver:
                moved = move(places, rivals, moves, seconds, url)
                time.sleep(1)  # under the last champion as well
                told: dict[str, Any] = json.loads(driver.communicate(timeout=seconds + 300)[0])
            alone.append(one_at_a_time(rivals[0], single))
            batches = metrics(url)
            back = take_back(folder, len(moved))
    rows_a_batch = batches["bakeoff_batch_rows_sum"] / batches["bakeoff_batch_rows_count"]
    before, after = alone
    one = {key: round((before[key] + after[key]) / 2, 2) for key in before}
    return told | {
        "moves": len(moved),
        "longest_move_s": round(max(moved, default=0.0), 2),
        "rollback_s": round(back, 2),
        "clients": clients,
        "base": base,
        "rows_a_batch": round(rows_a_batch, 2),
        **{f"one_at_a_time_{key}": value for key, value in one.items()},
        "speedup": round(told["requests_per_second"] / one["requests_per_second"], 2),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def make_rivals(folder: Path, base: str) -> list[ContenderRecord]:
    """Two tuned models that differ in their seed; for the tiny base one, and TF-IDF."""
    settings, dataset = load_settings(), make_dataset(folder / "data")
    if base == "tiny":
        make_base(folder / "tiny")
    resolved = resolve_base("tiny" if base == "tiny" else MINILM, "", settings)
    tokens, workspace = make_tokens(folder / "tokens", resolved, dataset), Workspace(folder / "home" / "workspace")
    recipe = {"base": "tiny" if base == "tiny" else MINILM, "learning_rate": 0.01 if base == "tiny" else 0.001, "epochs": 2}
    recipes = [Tuned.model_validate(recipe | {"name": f"lora-{seed}", "seed": seed, "batch_size": 8}) for seed in (1, 2)]
    if base == "tiny":
        return [tune(recipes[0], dataset, tokens, resolved, workspace), build_trivial(Trivial.TFIDF, dataset, workspace)]
    return [tune(each, dataset, tokens, resolved, workspace) for each in recipes]


def one_at_a_time(contender: ContenderRecord, seconds: float) -> dict[str, float]:
    """The same model a row a call, in a process of its own."""
    command = [sys.executable, "-c", f"from benchmarks.serving import alone; alone({str(contender.folder)!r}, {seconds})"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def alone(folder: str, seconds: float) -> None:
    """The other side of `one_at_a_time`."""
    predictor, times = load_contender(Path(folder)), []
    rows: list[Example] = examples("load", 500)
    predictor.predict(rows[:3])
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        began = time.perf_counter()
        predictor.predict([rows[len(times) % len(rows)]])
        times.append(1000 * (time.perf_counter() - began))
    rate, times = len(times) / (time.perf_counter() - started), sorted(times)
    json.dump({"requests_per_second": rate, "p50_ms": times[len(times) // 2], "p95_ms": times[len(times) * 95 // 100]}, sys.stdout)


def move(places: LivePlaces, rivals: list[ContenderRecord], moves: int, seconds: float, url: str) -> list[float]:
    """Move the pointer at even distances; for each move the seconds until the server answers with the new champion."""
    started, took = time.monotonic(), []
    for number in range(1, moves + 1):
        time.sleep(max(0.0, started + seconds * number / (moves + 1) - time.monotonic()))
        began, version = time.monotonic(), crown(places, "local", NAME, rivals[number % 2]).version
        while httpx.get(f"{url}/health", timeout=60).json()["champion"]["version"] != version:
            if time.monotonic() - began > seconds + 120:
                return took
            time.sleep(0.05)
        took.append(time.monotonic() - began)
    return took


def take_back(folder: Path, version: int) -> float:
    """Seconds that the command takes which makes a version champion again."""
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "champion",
        "rollback",
        str(folder / "task.yaml"),
        "--to",
        str(version),
        "--reason",
        "timed",
    ]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return time.monotonic() - began


def metrics(url: str) -> dict[str, float]:
    """The server's figures that have no labels."""
    text = httpx.get(f"{url}/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.e+-]+)$", text, re.MULTILINE)}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`bakeoff serve` in a process of its own: its address."""
    env = environment(**{name: os.environ[name] for name in ("BAKEOFF_HOME", "BAKEOFF_SETTINGS")})
    command = [str(Path(sys.executable).parent / "bakeoff"), "serve", "task.yaml", "--port", "0", "--poll-seconds", "0.5"]
    process = subprocess.Popen(command, env=env, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"on (http://\S+)", line):
                yield found[1]
                break
        else:
            raise RuntimeError(f"the server did not start: {''.join(said)}")
    finally:
        process.terminate()
        rest = process.communicate(timeout=90)[1]
    if process.returncode:
        raise RuntimeError(f"the server ended with status {process.returncode}: {rest[-3000:]}")


@contextmanager
def driving(url: str, clients: int, seconds: float) -> "Iterator[subprocess.Popen[str]]":
    """The driver in a process of its own."""
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "benchmarks.load_driver", host, port, str(clients), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


if __name__ == "__main__":
    main()
