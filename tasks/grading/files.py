"""A file of answers in, the same file with grades out: rows in order, none lost, all other columns as they were.

    answers.csv    question,correct_answer,student_answer,class     →  … and grade,confidence,reason,failure

CSV, TSV, JSON lines and parquet. Everything that can be wrong with a file is found before anything is asked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.config import Dataset
from tasks.data.tables import FORMATS, Types, check_pair, columns_of, rows_of, write_extended
from tasks.data.text_files import check_text, first_bad_json_line, lines_of_rows
from tasks.data.validate import as_text
from tasks.errors import BadConfig, BadData
from tasks.grading.records import Grade, GradingFile
from tasks.records import Example
from tasks.workspace import digest, file_sha256

ADDED = tuple(Grade.model_fields)
"""The columns that grading adds: `grade`, `confidence`, `reason`, `failure`."""
TYPES: Types = {
    "grade": lambda pyarrow: pyarrow.string(),
    "confidence": lambda pyarrow: pyarrow.float64(),
    "reason": lambda pyarrow: pyarrow.string(),
    "failure": lambda pyarrow: pyarrow.string(),
}
SHOWN = 5
"""Faults of a kind that one message shows."""


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


def examples_of(file: GradingFile) -> Iterator[Example]:
    """The rows in order, each with a person's grade where it has one. The same texts have the same name."""
    for place, row in enumerate(rows_of(file.path)):
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
    write_extended(file.path, file.to, file.sha256, TYPES, (grade.model_dump(mode="json") for grade in grades))


def _check_paths(path: Path, to: Path) -> None:
    check_pair(path, to, "grades")
    if to.is_dir() or not to.parent.is_dir():
        raise BadConfig(f"the grades cannot be written to {to}: {'it' if to.is_dir() else 'its folder'} is not there as such")


def _check_columns(path: Path, dataset: Dataset) -> bool:
    """Whether the file has people's grades. The file's text is checked first."""
    problems = check_text(path)
    if not problems and FORMATS[path.suffix] == "JSON lines":
        problems = [problem for problem in [first_bad_json_line(path)] if problem]
    if problems:
        raise BadData(f"{path.name} cannot be read:\n" + "\n".join(f"  {problem}" for problem in problems))
    columns = columns_of(path)
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


def _scan(path: Path, dataset: Dataset, label: str | None, grades: Sequence[str]) -> tuple[int, int, list[str]]:
    """Rows, rows that a person graded, and the grades that people gave, sorted."""
    faults, found = _Faults(path), set[str]()
    rows = human = 0
    for place, row in enumerate(rows_of(path)):
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
