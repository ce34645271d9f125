"""The child process that predicts with a contender: throughput in batches, then the latency of single rows.

    run_child("tasks.contenders.predict", {"contender": folder, "splits": {"test": parquet}, "out": folder, "latency_rows": 50})

It writes `<split>.parquet` (a row an `Answer`) into `out`. The check after publication runs the same, on what came back from S3.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.child import serve_child
from tasks.contenders.answers import answer_schema
from tasks.contenders.loader import Predictor, load_contender
from tasks.data.examples import read_example_file
from tasks.manifest import read_manifest
from tasks.progress import Bar, progress
from tasks.records import Example
from tasks.settings import load_settings

logger = logging.getLogger(__name__)
ROWS_AT_ONCE = 4_096
"""Rows read, predicted and written together: memory stays flat."""
WARM_UP_ROWS = 3


class Request(BaseModel):
    """What the child is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contender: Path
    splits: dict[str, Path]
    """Examples by split."""
    out: Path
    latency_rows: int = Field(0, ge=0)
    """So many rows of the last split are predicted singly as well, to be timed."""
    roots: list[Path] = []
    """Folders, beside those of the settings, in which a base model may lie."""


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Predict splits of examples with a contender's folder.

    Returns:
        `rows_per_second`, `device` (where the model ran: `cuda`, `mps` or `cpu`), `rows` by split.

    Raises:
        IntegrityError: the folder is not what its manifest says, or its base is another.
    """
    asked = Request.model_validate(request)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    predictor = load_contender(asked.contender, settings=load_settings(*asked.roots))
    name = read_manifest(asked.contender, check_files=False).name
    asked.out.mkdir(parents=True, exist_ok=True)
    total = sum(_count(path) for path in asked.splits.values())
    rows: dict[str, int] = {}
    seconds = 0.0
    with progress(f"predict {name}", total) as bar:
        for split, path in asked.splits.items():
            timed = asked.latency_rows if split == list(asked.splits)[-1] else 0
            rows[split], took = _predict_split(predictor, path, asked.out / f"{split}.parquet", timed, bar)
            seconds += took
    device = getattr(predictor, "device", "cpu")
    return {"rows_per_second": round(sum(rows.values()) / max(seconds, 1e-9), 3), "device": device, "rows": rows}


def _predict_split(predictor: Predictor, path: Path, out: Path, latency_rows: int, bar: Bar) -> tuple[int, float]:
    """Answer a file of examples into a file of answers: how many, and the seconds that prediction took."""
    import pyarrow
    import pyarrow.parquet

    count, seconds = 0, 0.0
    with pyarrow.parquet.ParquetWriter(out, answer_schema(pyarrow)) as writer:
        for examples in _chunks(path):
            if count == 0:
                predictor.predict(examples[:WARM_UP_ROWS])
                latencies = _single_rows(predictor, examples[:latency_rows])
            started = time.perf_counter()
            answers = predictor.predict(examples)
            seconds += time.perf_counter() - started
            answers = [
                answer.model_copy(update={"latency_ms": latencies.get(count + index)}) for index, answer in enumerate(answers)
            ]
            writer.write_table(pyarrow.Table.from_pylist([answer.model_dump() for answer in answers], writer.schema))
            count += len(answers)
            bar.advance(len(answers))
    return count, seconds


def _single_rows(predictor: Predictor, examples: Sequence[Example]) -> dict[int, float]:
    """Milliseconds of each row alone."""
    latencies = {}
    for index, example in enumerate(examples):
        started = time.perf_counter()
        predictor.predict([example])
        latencies[index] = 1000 * (time.perf_counter() - started)
    return latencies


def _chunks(path: Path) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for example in read_example_file(path):
        chunk.append(example)
        if len(chunk) == ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(path: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(path).num_rows)


if __name__ == "__main__":
    serve_child(predict)
