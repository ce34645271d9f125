"""A file of answers in, the same file with grades out: rows in order, none lost, all other columns as they were.

    answers.csv    question,correct_answer,student_answer,class     →  … and grade,confidence,reason,failure

CSV, TSV, JSON lines and parquet. Everything that can be wrong with a file is found before anything is asked.
"""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tasks.config import Dataset
from tasks.data.text_files import check_text, first_bad_json_line, lines_of_rows
from tasks.data.validate import as_text
from tasks.errors import BadConfig, BadData, OutsideRoots
from tasks.grading.records import Grade, GradingFile
from tasks.records import Example
from tasks.workspace import digest, file_sha256

FORMATS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".parquet": "parquet"}
"""The format by a file's ending."""
ADDED = tuple(Grade.model_fields)
"""The columns that grading adds: `grade`, `confidence`, `reason`, `failure`."""
ROWS_AT_ONCE = 1000
SHOWN = 5
"""Faults of a kind that one message shows."""
Row = dict[str, Any]


@dataclass
class _Faults:
    """What is wrong with a file's rows."""

    path: Path
    places: dict[str, list[int]] = field(default_factory=dict)

    def add(self, fault: str, place: int) -> None:
        self.places.setdefault(fault, []).append(place)

    def raise_if_any(self) -> None:
        if not self.places:
            return
        lines = []
        for fault, places in self.places.items():
            rows, more = ", ".join(str(place + 1) for place in places[:SHOWN]), ", …" if len(places) > SHOWN else ""
            found = ", ".join(map(str, lines_of_rows(self.path, places[:SHOWN])))
            lines.append(f"  {fault}: row {rows}{more}" + (f" (line {found}{more})" if found else ""))
        raise BadData(f"{self.path.name} is refused:\n" + "\n".join(lines))


def open_file(dataset: Dataset, path: Path, to: Path, grades: Sequence[str] = ()) -> GradingFile:
    """Check a file of answers, and where its grades are to go.

    Args:
        dataset: names the columns; its `labels` are the grades, else the label column's values are.
        grades: what the judge can give, where that is settled already (a champion's labels).

    Raises:
        BadConfig: a format that cannot be read, another format for the grades, or no grades to choose from.
        BadData: the file cannot be read; a column is missing or would be overwritten; rows are bad, with their numbers from 1.
    """
    _check_paths(path, to)
    sha256 = file_sha256(path)
    label = dataset.label if _check_columns(path, dataset) else None
    known = list(grades) or list(dict.fromkeys(dataset.labels.values()))
    rows, human, found = _scan(path, dataset, label, known)
    if len(known or found) < 2:
        given = f"column {dataset.label!r} has {', '.join(found) or 'none'}"
        raise BadConfig(f"there are no grades to choose from ({given}): list at least two under dataset.labels")
    return GradingFile(
        path=path,
        to=to,
        sha256=sha256,
        rows=rows,
        inputs=dataset.inputs,
        label=label,
        names=dataset.labels,
        grades=known or found,
        human_graded=human,
    )


def place_result(to: str, own_process: bool, home: Path) -> Path:
    """Where a run may write: anywhere for whoever calls it; in `<home>/graded/` for a run of a deployment, which anybody who
    reaches the form may start.

    Raises:
        OutsideRoots: a deployment's run names more than a plain file.
    """
    if own_process:
        return Path(to).absolute()
    if Path(to).name != to or to.startswith(".") or "\0" in to or "\\" in to or len(to.encode()) > 200:
        raise OutsideRoots(f"output file {to[:60]!r} is not a plain file name: this run writes into {home / 'graded'} alone")
    folder = home / "graded"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / to


def examples_of(file: GradingFile) -> Iterator[Example]:
    """The rows in order, each with a person's grade where it has one. The same texts have the same name."""
    for place, row in enumerate(_rows(file.path)):
        inputs = {column: as_text(row[column]) for column in file.inputs}
        raw = as_text(row.get(file.label)).strip() if file.label else ""
        yield Example(example=digest(inputs), row=place + 1, inputs=inputs, label=file.names.get(raw, raw) or None)


def write_graded(file: GradingFile, grades: Sequence[Grade]) -> None:
    """Write the file's rows with their grades, in order: aside, then renamed when whole.

    Raises:
        BadData: the file is no longer the one that was graded.
    """
    if len(grades) != file.rows:
        raise BadData(f"{len(grades)} grades for {file.rows} rows of {file.path.name}: one a row is needed")
    writers = {"CSV": _write_csv, "TSV": _write_csv, "JSON lines": _write_json, "parquet": _write_parquet}
    aside = file.to.with_name(f".{file.to.name}.{os.getpid()}")
    try:
        writers[FORMATS[file.path.suffix]](file.path, aside, [_cells(grade) for grade in grades])
        with aside.open("rb+") as stream:
            os.fsync(stream.fileno())
        if file_sha256(file.path) != file.sha256:
            raise BadData(f"{file.path} changed while it was graded: run again; what was answered is kept")
        aside.replace(file.to)
    finally:
        aside.unlink(missing_ok=True)


def _check_paths(path: Path, to: Path) -> None:
    for each in (path, to):
        if each.suffix not in FORMATS:
            raise BadConfig(f"file {each.name!r} has no ending that says how to read it: {', '.join(FORMATS)} can be graded")
    if FORMATS[path.suffix] != FORMATS[to.suffix]:
        raise BadConfig(f"{path.name} is {FORMATS[path.suffix]}, so the grades go into the same format: {to.name} is not")
    if path.resolve() == to.resolve():
        raise BadConfig(f"{to.name} is the file that is graded: give the grades a file of their own")
    if not path.is_file():
        raise BadConfig(f"there is no file {path}: check the path")
    if to.is_dir() or not to.parent.is_dir():
        raise BadConfig(f"the grades cannot be written to {to}: {'it' if to.is_dir() else 'its folder'} is not there as such")


def _check_columns(path: Path, dataset: Dataset) -> bool:
    """Whether the file has people's grades. The file's text is checked first."""
    problems = check_text(path)
    if not problems and FORMATS[path.suffix] == "JSON lines":
        problems = [problem for problem in [first_bad_json_line(path)] if problem]
    if problems:
        raise BadData(f"{path.name} cannot be read:\n" + "\n".join(f"  {problem}" for problem in problems))
    columns = _columns(path)
    missing = [column for column in dataset.inputs if column not in columns]
    if missing:
        raise BadData(f"{path.name} has no column {missing[0]!r}; it has {', '.join(columns) or 'none'}")
    taken = [column for column in ADDED if column in columns]
    if taken:
        raise BadData(
            f"{path.name} has a column {taken[0]!r} already, which grading would write: rename it (people's grades stand in the "
            f"column of dataset.label, here {dataset.label!r})"
        )
    return dataset.label in columns


def _columns(path: Path) -> list[str]:
    if FORMATS[path.suffix] == "parquet":
        return list(_open_parquet(path).schema_arrow.names)
    if FORMATS[path.suffix] == "JSON lines":
        return list(dict.fromkeys(name for row in _rows(path) for name in row))
    with _csv_rows(path) as rows:
        return next(rows, [])


def _scan(path: Path, dataset: Dataset, label: str | None, grades: Sequence[str]) -> tuple[int, int, list[str]]:
    """Rows, rows that a person graded, and the grades that people gave, sorted."""
    faults, found = _Faults(path), set[str]()
    rows = human = 0
    for place, row in enumerate(_rows(path)):
        rows += 1
        for fault in _faults_of(row, dataset):
            faults.add(fault, place)
        raw = as_text(row.get(label)).strip() if label else ""
        if raw and dataset.labels and raw not in dataset.labels and raw not in dataset.labels.values():
            faults.add(f"column {label!r} has a grade that dataset.labels does not list ({raw[:40]!r})", place)
        elif raw and grades and dataset.labels.get(raw, raw) not in grades:
            faults.add(f"column {label!r} has a grade that the judge does not know ({raw[:40]!r})", place)
        elif raw:
            human += 1
            found.add(dataset.labels.get(raw, raw))
    faults.raise_if_any()
    if not rows:
        raise BadData(f"{path.name} has no rows to grade")
    return rows, human, sorted(found)


def _faults_of(row: Mapping[str, Any], dataset: Dataset) -> Iterator[str]:
    """What is wrong with a row. An empty answer is an answer, to be graded like any other; an empty question is none."""
    for column in dataset.inputs:
        value = row.get(column)
        if column not in row or isinstance(value, list | dict | bytes):
            yield f"column {column!r} {'is missing' if column not in row else f'holds no text but {type(value).__name__}'}"
        elif "\0" in as_text(value):
            yield f"column {column!r} holds a NUL character"
        elif not as_text(value).strip() and (column != dataset.inputs[-1] or len(dataset.inputs) == 1):
            yield f"column {column!r} is empty"
    if sum(len(as_text(row.get(column))) for column in dataset.inputs) > dataset.max_characters:
        yield f"more than dataset.max_characters = {dataset.max_characters:,} characters"


def _rows(path: Path) -> Iterator[Row]:
    if FORMATS[path.suffix] == "parquet":
        for batch in _open_parquet(path).iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()
    elif FORMATS[path.suffix] == "JSON lines":
        yield from (json.loads(line) for line in _json_lines(path))
    else:
        with _csv_rows(path) as rows:
            header: list[str] = next(rows, [])
            yield from (dict(zip(header, row, strict=True)) for row in rows if row)


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BadData(f"{path.name} cannot be read as parquet: {error}") from None


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        yield from (line.strip() for line in stream if line.strip())


@contextmanager
def _csv_rows(path: Path) -> Iterator[Any]:
    limit = csv.field_size_limit(sys.maxsize)  # essays are longer than the library allows
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield csv.reader(stream, delimiter=_delimiter(path))
    finally:
        csv.field_size_limit(limit)


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _cells(grade: Grade) -> Row:
    """A grade as cells of a row; a NUL in what a model said would make the file unreadable."""
    cells = grade.model_dump(mode="json")
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in cells.items()}


def _write_csv(path: Path, aside: Path, cells: Sequence[Row]) -> None:
    with path.open("rb") as start:
        first = start.readline()
    encoding = "utf-8-sig" if first.startswith(b"\xef\xbb\xbf") else "utf-8"
    end = "\r\n" if first.endswith(b"\r\n") else "\n"
    with _csv_rows(path) as rows, aside.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=_delimiter(path), lineterminator=end)
        writer.writerow([*next(rows), *ADDED])
        for row, added in zip((row for row in rows if row), cells, strict=True):
            writer.writerow([*row, *("" if added[name] is None else added[name] for name in ADDED)])


def _write_json(path: Path, aside: Path, cells: Sequence[Row]) -> None:
    with aside.open("w", encoding="utf-8") as stream:
        for line, added in zip(_json_lines(path), cells, strict=True):
            _extend(stream, line, added)


def _extend(stream: TextIO, line: str, added: Row) -> None:
    """Add keys before a JSON object's last brace, so that what stands before them stays as it is to the byte."""
    stream.write(f"{line[:-1].rstrip()}, {json.dumps(added, ensure_ascii=False)[1:]}\n")


def _write_parquet(path: Path, aside: Path, cells: Sequence[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {"grade": pyarrow.string(), "confidence": pyarrow.float64(), "reason": pyarrow.string(), "failure": pyarrow.string()}
    fields = [pyarrow.field(name, types[name]) for name in ADDED]
    file, done = _open_parquet(path), 0
    schema = file.schema_arrow
    for each in fields:
        schema = schema.append(each)
    with pyarrow.parquet.ParquetWriter(aside, schema) as writer:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            table = pyarrow.Table.from_batches([batch])
            part = cells[done : done + len(table)]
            for each in fields:
                table = table.append_column(each, pyarrow.array([row[each.name] for row in part], each.type))
            writer.write_table(table.cast(schema))
            done += len(table)


def write_grades(path: Path, grades: Iterable[Grade]) -> None:
    """Write grades as parquet, a row a `Grade`."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema([("grade", text), ("confidence", pyarrow.float64()), ("reason", text), ("failure", text)])
    rows = [grade.model_dump(mode="json") for grade in grades]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def read_grades(path: Path) -> list[Grade]:
    """The grades of a run, in the file's order."""
    import pyarrow.parquet

    return [Grade.model_validate(row) for row in pyarrow.parquet.read_table(path).to_pylist()]
