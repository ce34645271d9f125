"""Examples on disk (`train.parquet`, `dev.parquet`, `test.parquet`), and the one text of an example."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.records import DatasetRecord, Example, Split

ROWS_AT_ONCE = 1000


def split_path(record: DatasetRecord, split: Split) -> Path:
    """The file of one split."""
    return record.folder / f"{split}.parquet"


def read_examples(record: DatasetRecord, split: Split) -> list[Example]:
    """The examples of one split, in the file's order."""
    return list(read_example_file(split_path(record, split)))


def read_example_file(path: Path) -> Iterator[Example]:
    """The examples of one file, in its order, read a batch at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield Example.model_validate(row)


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples at flat memory and return how many there were. All must have the same input columns.

    Raises:
        ValueError: there are none, so that the columns are not known.
    """
    import pyarrow
    import pyarrow.parquet

    rows = iter(examples)
    first = list(islice(rows, ROWS_AT_ONCE))
    if not first:
        raise ValueError(f"there are no examples to write to {path}")
    schema = _schema(pyarrow, list(first[0].inputs), list(first[0].columns))
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while first:
            writer.write_table(pyarrow.Table.from_pylist([example.model_dump() for example in first], schema))
            count += len(first)
            first = list(islice(rows, ROWS_AT_ONCE))
    return count


def input_text(inputs: Mapping[str, str]) -> str:
    """The one text of an example, for every arm that wants one: a single column as it is, several as `name: value` lines."""
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    return "\n".join(f"{name}: {value}" for name, value in inputs.items())


def _schema(pyarrow: Any, columns: list[str], beside: list[str]) -> Any:
    text = pyarrow.string()
    return pyarrow.schema(
        [
            ("example", text),
            ("row", pyarrow.int64()),
            ("inputs", pyarrow.struct([(column, text) for column in columns])),
            ("label", text),
            *([("columns", pyarrow.struct([(column, text) for column in beside]))] if beside else []),
        ]
    )
