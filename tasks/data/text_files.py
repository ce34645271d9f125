"""Text files at the door: encoding, NULs and the shape of CSV, with the line of each fault; and the line of a row."""

import codecs
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.data.sources import FORMATS

BYTES_AT_ONCE = 1 << 20
LINES_SHOWN = 5


def check_text(file: Path) -> list[str]:
    """What keeps a data file from being read, each with its line; nothing for a good file, or for one that is not text."""
    if FORMATS[file.suffix] == "parquet":
        return [f"{file.name} is empty"] if file.stat().st_size == 0 else []
    return _check_bytes(file) or (_check_csv(file) if FORMATS[file.suffix] == "csv" else [])


def check_shape(file: Path) -> list[str]:
    """As `check_text`, but bytes that are not UTF-8 and NULs are left to whoever reads the rows."""
    with file.open("rb") as stream:
        start = stream.read(BYTES_AT_ONCE)
    if FORMATS[file.suffix] == "parquet":
        return [] if start else [f"{file.name} is empty"]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return [f"{file.name} is UTF-16, not UTF-8: save it as UTF-8"]
    if not start.removeprefix(codecs.BOM_UTF8).strip():
        return [f"{file.name} is empty"]
    bad_line = first_bad_json_line(file) if FORMATS[file.suffix] == "json" else ""
    return [bad_line] if bad_line else _check_csv(file) if FORMATS[file.suffix] == "csv" else []


def csv_header(file: Path) -> list[str]:
    """The column names of a CSV or TSV file."""
    with _csv_rows(file) as rows:
        return next(rows, [])


def lines_of_rows(file: Path, places: Sequence[int]) -> list[int]:
    """The lines (from 1) where these rows (from 0) of a CSV or JSON lines file begin; empty for other files."""
    wanted = set(places)
    if FORMATS[file.suffix] == "csv":
        return [line for place, line in enumerate(_csv_lines(file)) if place in wanted]
    if file.suffix in {".jsonl", ".ndjson"}:
        return [line for place, (line, _) in enumerate(_json_lines(file)) if place in wanted]
    return []


def first_bad_json_line(file: Path) -> str:
    """Where a JSON lines file stops being one; empty if it does not."""
    for number, line in _json_lines(file):
        try:
            value = json.loads(line)
        except ValueError as error:
            return f"line {number}: {error}"
        if not isinstance(value, dict):
            return f"line {number} holds no object with columns, but {type(value).__name__}"
    return ""


def _check_bytes(file: Path) -> list[str]:
    """Not UTF-8, NUL, or nothing at all. Reads at flat memory; a byte order mark is fine."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, seen = 1, False
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(BYTES_AT_ONCE)
            if not seen and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return [f"{file.name} is UTF-16, not UTF-8: save it as UTF-8"]
            seen = seen or bool(chunk.removeprefix(codecs.BOM_UTF8).strip())
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                return [f"{file.name} line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8: save the file as UTF-8"]
            if b"\0" in chunk:
                line += chunk.count(b"\n", 0, chunk.index(0))
                return [f"{file.name} line {line}: a NUL character: remove it"]
            if not chunk:
                return [] if seen else [f"{file.name} is empty"]
            line += chunk.count(b"\n")


def _check_csv(file: Path) -> list[str]:
    """Columns without a name or named twice, and lines with another number of fields than the header."""
    with _csv_rows(file) as rows:
        header: list[str] = next(rows, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice or "" in header:
            fault = f"names column {twice[0]!r} twice" if twice else "has a column without a name"
            return [f"{file.name} line 1 {fault}: the first line must name each column once"]
        seen, bad, faults, before = 0, 0, [], rows.line_num
        for row in rows:
            seen += bool(row)
            if row and len(row) != len(header):
                bad += 1
                if bad <= LINES_SHOWN:
                    faults.append(f"{file.name} line {before + 1} has {len(row)} fields, the header {len(header)}")
            before = rows.line_num
    if not seen:
        return [f"{file.name} has a first line with the columns' names, and no rows"]
    return [*faults, f"{file.name}: {bad - LINES_SHOWN} more such lines"] if bad > LINES_SHOWN else faults


@contextmanager
def _csv_rows(file: Path) -> Iterator[Any]:
    """The rows of a CSV file as lists, however long a field is."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            yield csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
    finally:
        csv.field_size_limit(limit)


def _csv_lines(file: Path) -> Iterator[int]:
    """The first line of each data row."""
    with _csv_rows(file) as rows:
        next(rows, None)
        before = rows.line_num
        for row in rows:
            if row:
                yield before + 1
            before = rows.line_num


def _json_lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line
