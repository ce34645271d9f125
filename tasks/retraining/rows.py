"""Rows that came in since: some of them, chosen by hash, as a product. Whatever the files' size, memory is flat.

products/incoming/<fingerprint>/rows.parquet   the input columns, and the label's name where labels are wanted
"""

import hashlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.config import Dataset
from tasks.data.tables import FORMATS, columns_of, rows_of
from tasks.data.text_files import check_shape
from tasks.data.validate import as_text
from tasks.errors import BadConfig, BadData
from tasks.predicting.records import PredictFile
from tasks.predicting.rows import read_row
from tasks.records import Failure, Record
from tasks.retraining.memory import Hashes
from tasks.settings import Settings
from tasks.workspace import Building, Stage, Workspace, file_sha256

logger = logging.getLogger(__name__)
STAGE = Stage("incoming", 1, ("tasks.data.tables", "tasks.predicting.rows", "tasks.retraining.rows"))
FILE, REFERENCE = "rows.parquet", "__reference__"
SHOWN = 5


class RowsRecord(Record):
    """Some of the incoming rows."""

    rows: int
    """In `rows.parquet`."""
    usable: int
    """Rows that can be read, and have a known label where labels are wanted."""
    left_out: int
    """Empty, too long or not text; or without a label, where labels are wanted."""

    def file(self) -> PredictFile:
        """For prediction."""
        path = self.folder / FILE
        return PredictFile(path=path, to=path, sha256=file_sha256(path), rows=self.rows)


def find_rows(
    key: str,
    given: str,
    dataset: Dataset,
    most: int,
    settings: Settings,
    workspace: Workspace,
    hashes: Hashes,
    labels: Sequence[str] | None = None,
) -> RowsRecord:
    """At most so many rows of a file, or of all files in a folder; the same ones while the files are the same.

    Args:
        key: names `given` in the config, for messages.
        labels: where labels are wanted: those that may be; empty for free text.

    Raises:
        OutsideRoots, BadConfig: the path cannot be read, or is no file of rows.
        BadData: a file cannot be read, lacks a column, or has a label that nobody knows.
    """
    files = _files(key, given, settings)
    wanted = [*dataset.inputs, *([dataset.label] if labels is not None else [])]
    made_from = [hashes(file) for file in files]
    config = {
        "inputs": dataset.inputs,
        "max_characters": dataset.max_characters,
        "most": most,
        "label": None if labels is None else {"column": dataset.label, "names": dataset.labels, "known": sorted(labels)},
    }

    def build(building: Building) -> RowsRecord:
        for file in files:
            _check(key, file, wanted)
        taken = _Taken(most)
        for number, file in enumerate(files):
            for place, row in enumerate(_read(file, dataset, labels)):
                taken.add(number, place, row)
        _write(building.folder / FILE, taken.rows(), [*dataset.inputs, *([REFERENCE] if labels is not None else [])])
        return RowsRecord(rows=len(taken.rows()), usable=taken.usable, left_out=taken.left_out)

    return workspace.produce(STAGE, made_from, config, RowsRecord, build, f"rows of {given}")


class _Taken:
    """The rows with the lowest hashes of their place and content."""

    def __init__(self, most: int) -> None:
        self.most, self.usable, self.left_out = most, 0, 0
        self._heap: list[tuple[int, int, int, dict[str, str]]] = []

    def add(self, file: int, place: int, row: dict[str, str] | None) -> None:
        if row is None:
            self.left_out += 1
            return
        self.usable += 1
        content = "\x1f".join([str(place), *row.values()]).encode()
        entry = -int.from_bytes(hashlib.sha256(content).digest()[:8]), -file, -place, row
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def rows(self) -> list[dict[str, str]]:
        """In the files' order."""
        return [row for _, _, _, row in sorted(self._heap, key=lambda entry: (-entry[1], -entry[2]))]


def _files(key: str, given: str, settings: Settings) -> list[Path]:
    path = settings.readable(given)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise BadConfig(f"{key} {given!r} has no ending that says how to read it: it must be one of {', '.join(FORMATS)}")
        return [path]
    found = [
        file for file in sorted(path.rglob("*")) if file.suffix in FORMATS and file.is_file() and not file.name.startswith(".")
    ]
    for file in found:
        settings.readable(file)  # a link may lead out of what may be read
    return found


def _check(key: str, file: Path, columns: Sequence[str]) -> None:
    problems = check_shape(file)
    if problems:
        raise BadData(f"{key}: {file.name} cannot be read:\n" + "\n".join(f"  {problem}" for problem in problems))
    there = columns_of(file)
    missing = [column for column in columns if column not in there]
    if missing:
        raise BadData(f"{key}: {file.name} has no column {missing[0]!r}; it has {', '.join(there) or 'none'}")


def _read(file: Path, dataset: Dataset, labels: Sequence[str] | None) -> Iterator[dict[str, str] | None]:
    """Each row's inputs, with its label's name where labels are wanted; None for a row that says nothing."""
    unknown: dict[str, int] = {}
    for place, row in enumerate(rows_of(file)):
        inputs = read_row(row, dataset.inputs, dataset.max_characters)
        if isinstance(inputs, Failure):
            yield None
            continue
        if labels is None:
            yield inputs
            continue
        raw = as_text(row[dataset.label]).strip()
        label = dataset.labels.get(raw, raw)
        if label and labels and label not in labels:
            unknown.setdefault(label[:40], place + 1)
        yield {**inputs, REFERENCE: label} if label else None
    if unknown:
        shown = ", ".join(f"{label!r} (row {row})" for label, row in list(unknown.items())[:SHOWN])
        raise BadData(
            f"triggers.quality.fresh: {file.name} has labels that the champion does not know: {shown}; it knows "
            f"{', '.join(labels or [])}: correct them, or take those rows out"
        )


def _write(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path)
