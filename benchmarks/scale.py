"""Does a stage's memory stay flat, and its time linear, from 100,000 to 1,000,000 rows? Each stage runs in a fresh process.

python -m benchmarks.scale                         100,000 and 1,000,000 rows (a quarter of an hour)
python -m benchmarks.scale --rows 10000 --rows 100000 --output json
"""

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import click
import psutil

STAGES = ("load", "tokenize", "batch")
LABELS = ("negative", "positive")
WORDS, AT_ONCE = 20_000, 10_000
MOST_MEMORY, MOST_TIME = 1.2, 1.2
MADE_AGAIN = 0.005
"""Share of rows that repeat an earlier one but for a word, so that the search for near-duplicates has something to find."""
BASE = "sentence-transformers/all-MiniLM-L6-v2"
SAMPLE_EVERY_S = 0.02


@click.command(help=__doc__)
@click.option("--rows", "sizes", multiple=True, type=click.IntRange(min=1000), default=(100_000, 1_000_000), show_default=True)
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), default=STAGES, show_default=True)
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--folder", type=click.Path(path_type=Path), help="Where rows and products lie; removed at the end. A temporary one.")
def main(sizes: Sequence[int], stages: Sequence[str], output: str, folder: Path | None) -> None:
    """Exit status 1 when memory or time grows more than it may."""
    measured = []
    with TemporaryDirectory(dir=folder) as name:
        for rows in sizes:
            place = Path(name) / str(rows)
            make_rows(place / "rows", rows)
            for stage in [each for each in STAGES if STAGES.index(each) <= max(map(STAGES.index, stages))]:
                found = {"stage": stage, "rows": rows} | measure(stage, place)
                measured += [found] if stage in stages else []
            shutil.rmtree(place)
    compared = [compare(stage, [each for each in measured if each["stage"] == stage]) for stage in stages]
    if output == "json":
        click.echo(json.dumps({"measured": measured, "compared": compared}, indent=2))
    else:
        show(measured, compared)
    sys.exit(not all(each["flat"] and each["linear"] for each in compared))


def make_rows(folder: Path, rows: int) -> None:
    """A parquet file of labelled sentences of 8 to 40 words, written at flat memory."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for some in _sentences(rows):
            writer.write_table(pyarrow.table(list(zip(*some, strict=True)), schema=schema))


def _sentences(rows: int) -> Iterator[list[tuple[str, str]]]:
    dice = Random(rows)
    words = [f"{a}{b}{number}" for number in range(10) for a in "bdfgklmnprstvwz" for b in ("an", "er", "il", "ost", "un")]
    words = [one + other for one in words for other in words][:WORDS]
    for start in range(0, rows, AT_ONCE):
        some = []
        for place in range(min(AT_ONCE, rows - start)):
            text = dice.choices(words, k=dice.randint(8, 40))
            if some and dice.random() < MADE_AGAIN:
                text = dice.choice(some)[0].split()
                text[dice.randrange(len(text))] = dice.choice(words)
            some.append((" ".join(text), LABELS[(start + place) % 2]))
        yield some


def measure(stage: str, place: Path) -> dict[str, Any]:
    """One stage in a process of its own: seconds, and the peaks of the memory of it and its children."""
    command = [sys.executable, "-m", "benchmarks.scale", "run", stage, str(place)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)
    peaks = {"peak_bytes": 0, "peak_own_bytes": 0}
    while process.poll() is None:
        for name, found in zip(peaks, memory(watched), strict=True):
            peaks[name] = max(peaks[name], found)
        time.sleep(SAMPLE_EVERY_S)
    assert process.stdout
    said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{stage} ended with status {process.returncode}")
    return peaks | json.loads(said)


def memory(process: psutil.Process) -> tuple[int, int]:
    """Bytes of a process and its children: all that is resident, and what is not merely mapped from files."""
    whole = own = 0
    try:
        for each in (process, *process.children(recursive=True)):
            if each.name() == "forks":  # it holds libraries for a training that does not come
                continue
            known = each.memory_info()
            whole += known.rss
            own += known.rss - known.shared
    except psutil.Error:  # it has just ended
        pass
    return whole, own


def compare(stage: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest size against the smallest."""
    small, large = found[0], found[-1]
    more = large["rows"] / small["rows"]
    memory_ratio, time_ratio = large["peak_bytes"] / small["peak_bytes"], large["cpu_seconds"] / small["cpu_seconds"] / more
    return {
        "stage": stage,
        "memory_ratio": round(memory_ratio, 3),
        "own_memory_ratio": round(large["peak_own_bytes"] / small["peak_own_bytes"], 3),
        "cpu_seconds_a_row_ratio": round(time_ratio, 3),
        "flat": memory_ratio <= MOST_MEMORY,
        "linear": time_ratio <= MOST_TIME,
    }


def show(measured: Sequence[dict[str, Any]], compared: Sequence[dict[str, Any]]) -> None:
    """Tables for people."""
    print(f"{'stage':10}{'rows':>12}{'seconds':>10}{'cpu s':>10}{'peak MB':>10}{'own MB':>10}")
    for each in measured:
        peak, own = each["peak_bytes"] / 1e6, each["peak_own_bytes"] / 1e6
        print(f"{each['stage']:10}{each['rows']:12,}{each['seconds']:10.1f}{each['cpu_seconds']:10.1f}{peak:10.0f}{own:10.0f}")
    for each in compared:
        print(
            f"{each['stage']}: memory {each['memory_ratio']:.2f} times ({'flat' if each['flat'] else 'NOT flat'}), "
            f"work a row {each['cpu_seconds_a_row_ratio']:.2f} times ({'linear' if each['linear'] else 'NOT linear'})"
        )


def run_stage(stage: str, place: Path) -> dict[str, float]:
    """The stage's real function on what lies there: seconds by the clock, and of all cores' work."""
    from tasks.bases import resolve_base
    from tasks.config import Dataset, Tuned
    from tasks.data.load import load
    from tasks.data.tokenize import tokenize
    from tasks.settings import load_settings
    from tasks.workspace import Workspace

    settings, workspace = load_settings(place), Workspace(place / "workspace")
    dataset = Dataset(source="rows/rows.parquet", inputs=["text"], label="label")
    tuned = Tuned(name="scale", max_tokens=64)
    started = time.perf_counter(), time.process_time()
    record = load(dataset, settings, workspace)
    if stage != "load":
        base = resolve_base(BASE, "", settings)
        started = time.perf_counter(), time.process_time()
        tokens = tokenize(tuned, record, base, workspace)
        if stage == "batch":
            started = time.perf_counter(), time.process_time()
            batch(tuned, tokens.folder)
    return {"seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1]}


def batch(tuned: Any, folder: Path) -> None:
    """One epoch of train batches, ordered and padded as for training."""
    from datasets import Dataset
    from torch.utils.data import DataLoader

    from tasks.data.mapped import SCATTERED, Mapped
    from tasks.tuning.batches import LikeLengths, collate

    train = Dataset.load_from_disk(str(folder / "train"))
    order = LikeLengths(train["length"][:], tuned.batch_size, tuned.seed, Mapped(train.data.table, SCATTERED))
    rows = sum(len(each["labels"]) for each in DataLoader(train, tuned.batch_size, sampler=order, collate_fn=collate(0)))
    assert rows == len(train)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run_stage(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
