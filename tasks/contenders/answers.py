"""Answers on disk: parquet, a row an `Answer`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.records import Answer


def read_answers(path: Path) -> list[Answer]:
    """The answers in a file, in its order."""
    import pyarrow.parquet

    return [Answer.model_validate(row) for row in pyarrow.parquet.read_table(path).to_pylist()]


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write a file of answers whole or not at all: aside, then renamed."""
    import pyarrow
    import pyarrow.parquet

    aside = path.with_name(f".{path.name}")
    rows = [answer.model_dump(mode="json") for answer in answers]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=answer_schema(pyarrow)), aside)
    aside.replace(path)


def answer_schema(pyarrow: Any) -> Any:
    """The columns of an `Answer`."""
    text, number, count = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    types = {
        "answer": text,
        "label": text,
        "probability": number,
        "latency_ms": number,
        "input_tokens": count,
        "output_tokens": count,
        "cost_usd": number,
        "failure": text,
        "logits": pyarrow.list_(number),
        "draft": text,
        "reason": text,
    }
    return pyarrow.schema([(name, types[name]) for name in Answer.model_fields])
