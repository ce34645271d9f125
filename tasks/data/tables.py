"""Files of rows, in and out: a file is read row by row, and written again with further columns, all else as it was.

CSV, TSV, JSON lines and parquet, at flat memory. Bytes that are not UTF-8 come in as lone surrogates and go out as they were.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from tasks.errors import BadConfig, BadData, OutsideRoots
from tasks.workspace import file_sha256

FORMATS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".parquet": "parquet"}
"""The format by a file's ending."""
ROWS_AT_ONCE = 1000
Row = dict[str, Any]
Types = Mapping[str, Callable[[Any], Any]]
"""By added column, what makes its Arrow type, such as `lambda pyarrow: pyarrow.string()`."""


def check_pair(path: Path, to: Path, what: str) -> None:
    """Raises BadConfig where the two are not a file that can be read and another one, of the same format, that can be written.

    Args:
        what: is written, such as `grades`.
    """
    for each in (path, to):
        if each.suffix not in FORMATS:
            raise BadConfig(f"file {each.name!r} has no ending that says how to read it: it must be one of {', '.join(FORMATS)}")
    if FORMATS[path.suffix] != FORMATS[to.suffix]:
        raise BadConfig(f"{path.name} is {FORMATS[path.suffix]}, so the {what} go into the same format: {to.name} is not")
    if path.resolve() == to.resolve():
        raise BadConfig(f"{to.name} is the file that is read: give the {what} a file of their own")
    if not path.is_file():
        raise BadConfig(f"there is no file {path}: check the path")


def place_result(to: str, own_process: bool, folder: Path) -> Path:
    """Where a run may write: anywhere for whoever calls it; in `folder` for a run of a deployment, which anybody who reaches the
    form may start.

    Raises:
        OutsideRoots: a deployment's run names more than a plain file.
    """
    if own_process:
        return Path(to).absolute()
    if Path(to).name != to or to.startswith(".") or "\0" in to or "\\" in to or len(to.encode()) > 200:
        raise OutsideRoots(f"output file {to[:60]!r} is not a plain file name: this run writes into {folder} alone")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / to


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns."""
    if FORMATS[path.suffix] == "parquet":
        return list(_open_parquet(path).schema_arrow.names)
    if FORMATS[path.suffix] == "JSON lines":
        return list(dict.fromkeys(name for row in rows_of(path) for name in row))
    with _csv_rows(path) as rows:
        return next(rows, [])


def count_rows(path: Path) -> int:
    """How many rows a file has."""
    if FORMATS[path.suffix] == "parquet":
        return int(_open_parquet(path).metadata.num_rows)
    return sum(1 for _ in rows_of(path))


def rows_of(path: Path) -> Iterator[Row]:
    """The rows in order, by column."""
    if FORMATS[path.suffix] == "parquet":
        for batch in _open_parquet(path).iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()
    elif FORMATS[path.suffix] == "JSON lines":
        yield from (json.loads(line) for line in _json_lines(path))
    else:
        with _csv_rows(path) as rows:
            header: list[str] = next(rows, [])
            yield from (dict(zip(header, row, strict=True)) for row in rows if row)


def write_extended(path: Path, to: Path, sha256: str, types: Types, cells: Iterable[Row]) -> None:
    """Write a file's rows with further columns, in order: aside, then renamed when whole.

    Args:
        sha256: of the file when it was read.
        types: the added columns.
        cells: what goes into them, one a row.

    Raises:
        BadData: the file is no longer the one that was read.
    """
    writers = {"CSV": _write_csv, "TSV": _write_csv, "JSON lines": _write_json, "parquet": _write_parquet}
    aside = to.with_name(f".{to.name}.{uuid4().hex}")  # containers that share a folder have equal process ids
    try:
        writers[FORMATS[path.suffix]](path, aside, types, map(_clean, cells))
        with aside.open("rb+") as stream:
            os.fsync(stream.fileno())
        if file_sha256(path) != sha256:
            raise BadData(f"{path} changed while it was read: run again; what was answered is kept")
        aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BadData(f"{path.name} cannot be read as parquet: {error}") from None


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield from (line.strip() for line in stream if line.strip())


@contextmanager
def _csv_rows(path: Path) -> Iterator[Any]:
    limit = csv.field_size_limit(sys.maxsize)  # essays are longer than the library allows
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            yield csv.reader(stream, delimiter=_delimiter(path))
    finally:
        csv.field_size_limit(limit)


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _clean(cells: Row) -> Row:
    """A NUL in what a model said would make the file unreadable."""
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in cells.items()}


def _write_csv(path: Path, aside: Path, types: Types, cells: Iterable[Row]) -> None:
    with path.open("rb") as start:
        first = start.readline()
    encoding = "utf-8-sig" if first.startswith(b"\xef\xbb\xbf") else "utf-8"
    end = "\r\n" if first.endswith(b"\r\n") else "\n"
    with _csv_rows(path) as rows, aside.open("w", encoding=encoding, errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, delimiter=_delimiter(path), lineterminator=end)
        writer.writerow([*next(rows), *types])
        for row, added in zip((row for row in rows if row), cells, strict=True):
            writer.writerow([*row, *("" if added[name] is None else added[name] for name in types)])


def _write_json(path: Path, aside: Path, types: Types, cells: Iterable[Row]) -> None:
    with aside.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        for line, added in zip(_json_lines(path), cells, strict=True):
            _extend(stream, line, {name: added[name] for name in types})


def _extend(stream: TextIO, line: str, added: Row) -> None:
    """Add keys before a JSON object's last brace, so that what stands before them stays as it is to the byte."""
    kept = line[:-1].rstrip()
    stream.write(f"{kept}{'' if kept == '{' else ', '}{json.dumps(added, ensure_ascii=False)[1:]}\n")


def _write_parquet(path: Path, aside: Path, types: Types, cells: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    fields = [pyarrow.field(name, make(pyarrow)) for name, make in types.items()]
    file, given = _open_parquet(path), iter(cells)
    schema = file.schema_arrow
    for each in fields:
        schema = schema.append(each)
    with pyarrow.parquet.ParquetWriter(aside, schema) as writer:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            table = pyarrow.Table.from_batches([batch])
            part = list(islice(given, len(table)))
            for each in fields:
                table = table.append_column(each, pyarrow.array([row[each.name] for row in part], each.type))
            writer.write_table(table.cast(schema))
