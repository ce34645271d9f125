"""Validation of rows, columns and labels, before anything is spent: every fault is collected, counted and shown with row numbers.

Rows are counted from 1. Labels are compared by name: each file's own names are used, so an order that differs between files or
splits does no harm, and names that differ are an error.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.config import Dataset, Gate, Splits
from tasks.data.duplicates import content_key
from tasks.data.reading import Part, SourceSplit, batches
from tasks.data.rows import Gathered, Rows
from tasks.data.text_files import lines_of_rows
from tasks.errors import BadData
from tasks.progress import Bar
from tasks.records import Split

SHOWN = 5
"""Row numbers, values or names that one message shows."""


@dataclass
class Problems:
    """Everything that is wrong, for one error."""

    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Add one line."""
        self.texts.append(text)

    def raise_if_any(self, source: str) -> None:
        """Raises BadData with all of them."""
        if self.texts:
            raise BadData(f"data set {source} is refused:\n" + "\n".join(f"  {text}" for text in self.texts))


@dataclass
class BadRows:
    """The bad rows of one split, by what is wrong with them."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def add(self, fault: str, place: int, value: str = "") -> None:
        """Count a row (place from 0), and keep the first few to show, each with its value if one is given."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
        shown = self.first.setdefault(fault, [])
        if len(shown) < SHOWN:
            shown.append((place, value))

    def describe(self, split: SourceSplit) -> list[str]:
        """One line a fault."""
        return [
            f"{split.name}: {plural(count, 'row')} with {fault}: {_row_numbers(self.first[fault], count)}"
            f"{_lines(split, [place for place, _ in self.first[fault]])}"
            for fault, count in self.counts.items()
        ]


@dataclass
class Scan:
    """What one pass over a split found."""

    split: SourceSplit
    gathered: Gathered
    bad: BadRows = field(default_factory=BadRows)
    raw_labels: dict[str, str] = field(default_factory=dict)
    """The label's name by the value that stands in the source."""
    others: dict[str, set[str]] = field(default_factory=dict)
    """For each column of `where`, some values of rows that were left out."""

    def take_rows(self) -> Rows:
        """The good rows, once all are read; the scan keeps none of them, so that they are in memory once."""
        gathered, self.gathered = self.gathered, Gathered(self.split.name)
        return gathered.rows()


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def row_numbers(rows: Rows) -> str:
    """The first few row numbers, for people."""
    return _row_numbers([(row.place, "") for row in rows[:SHOWN]], len(rows))


def check_columns(splits: Sequence[SourceSplit], dataset: Dataset, problems: Problems) -> None:
    """Missing columns, columns of a kind that cannot be used, and schemas that differ between files or splits."""
    columns = [*dataset.inputs, dataset.label]
    for split in splits:
        there = split.columns()
        for column in dict.fromkeys([*columns, *carried(dataset), *dataset.where]):
            if column not in there:
                problems.add(f"{split.name} has no column {column!r}; it has {_listed(there)}")
    if problems.texts:
        return
    for column in dict.fromkeys([*columns, *carried(dataset)]):
        what = "labels" if column == dataset.label else "inputs" if column in dataset.inputs else "clusters and slices"
        _check_kinds(splits, column, what, problems)
    _check_names_agree(splits, dataset.label, problems)


def scan_split(split: SourceSplit, dataset: Dataset, bar: Bar) -> Scan:
    """Read every row of a split once: good rows are keyed, bad ones counted."""
    scan = Scan(split, Gathered(split.name))
    columns = list(dict.fromkeys([*dataset.inputs, dataset.label, *carried(dataset), *dataset.where]))
    for part in split.parts:
        names = {column: class_names(part, column) for column in columns}
        for first, rows in batches(part, columns):
            for place, row in enumerate(rows, first):
                if _is_wanted(row, names, dataset.where, scan):
                    _take(scan, place, row, dataset, names)
            bar.advance(len(rows))
    return scan


def carried(dataset: Dataset) -> list[str]:
    """Columns that travel with a row and that no contender sees: its cluster, and what it is sliced by."""
    return list(dict.fromkeys([*([dataset.cluster] if dataset.cluster else []), *dataset.slices]))


def cell(value: Any, names: Sequence[str] | None) -> str:
    """A cell as text, a class by its name."""
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else as_text(value)


def inputs_of(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """A row's inputs as text, in the config's order."""
    return {column: as_text(row[column]) for column in columns}


def as_text(value: Any) -> str:
    """A cell as text; nothing (null, NaN) is the empty text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def label_order(scans: Sequence[Scan], label: str) -> list[str]:
    """The labels' fixed order, which no order of rows or keys changes: as a ClassLabel declares them, else by value (numbers as
    numbers). Names that no row has are left out."""
    raw = {value: name for scan in scans for value, name in scan.raw_labels.items()}
    declared = [name for scan in scans for part in scan.split.parts for name in class_names(part, label) or []]
    if declared:
        values = [name for name in dict.fromkeys(declared) if name in raw]
    elif all(_is_whole(value) for value in raw):
        values = sorted(raw, key=int)
    else:
        values = sorted(raw)
    return list(dict.fromkeys(raw[value] for value in values))


def check_roles(roles: Mapping[Split, Rows], labels: Sequence[str], problems: Problems, free: bool = False) -> None:
    """Too few rows, one class only, labels that train lacks, and a label column that is none.

    Args:
        free: labels are free text: any will do.
    """
    rows = sum(map(len, roles.values()))
    if len(labels) > 20 and len(labels) * 2 > rows:
        problems.add(f"the label column has {len(labels):,} different values in {rows:,} rows: is dataset.label right?")
        return
    if rows < _rows_wanted() and any(len(inside) < 2 for inside in roles.values()):
        problems.add(
            f"a bake-off needs more than {plural(rows, 'row')}: a verdict takes {Gate().minimum_rows} test rows"
            f" (gate.minimum_rows), so about {_rows_wanted()} rows in all by default; fewer labelled rows serve for grading"
        )
    taught = set(roles["train"].count_labels())
    for role, inside in roles.items():
        found = set(inside.count_labels())
        if len(inside) < 2:
            problems.add(f"{role} has {plural(len(inside), 'row')}, and needs at least 2: give more rows, or change dataset.splits")
        elif free:
            continue
        elif len(found) == 1 and role != "dev":
            problems.add(f"{role} has one class only ({found.pop()!r}, {plural(len(inside), 'row')}): give rows of every class")
        elif missing := sorted(found - taught):
            problems.add(f"{role} has labels that train lacks: {_listed(missing)}; train has {_listed(sorted(taught)) or 'none'}")


def _rows_wanted() -> int:
    """How many rows a data set without splits of its own needs for a verdict, by the defaults."""
    return math.ceil(Gate().minimum_rows / Splits().test_share)


def _is_wanted(row: Mapping[str, Any], names: Mapping[str, list[str] | None], where: Mapping[str, str], scan: Scan) -> bool:
    for column, wanted in where.items():
        text = cell(row[column], names[column])
        if text != wanted:
            others = scan.others.setdefault(column, set())
            if len(others) < 2 * SHOWN:
                others.add(text[:40])
            return False
    return True


def _take(scan: Scan, place: int, row: Mapping[str, Any], dataset: Dataset, names: Mapping[str, list[str] | None]) -> None:
    """One row: into the good rows, or counted under every fault that it has."""
    inputs = inputs_of(row, dataset.inputs)
    faults = list(_input_faults(inputs, dataset.max_characters))
    raw, fault = _read_label(row[dataset.label], names[dataset.label], dataset.labels)
    if fault:
        faults.append((fault, raw))
    cluster = cell(row[dataset.cluster], names[dataset.cluster]).strip() if dataset.cluster else ""
    if dataset.cluster and not cluster:
        faults.append((f"nothing in column {dataset.cluster!r}, which says what rows belong together (dataset.cluster)", ""))
    for fault, value in faults:
        scan.bad.add(fault, place, value)
    if not faults:
        label = scan.raw_labels.setdefault(raw, dataset.labels.get(raw, raw).strip())
        group = hashlib.sha256(cluster.encode()).digest()[:16] if cluster else b""
        scan.gathered.add(place, content_key(inputs.values()), label, group)


def _input_faults(inputs: Mapping[str, str], max_characters: int) -> Iterator[tuple[str, str]]:
    for column, text in inputs.items():
        if not text.strip():
            yield f"no text in column {column!r}", ""
        if "\0" in text:
            yield f"a NUL character in column {column!r}", ""
    length = sum(map(len, inputs.values()))
    if length > max_characters:
        yield f"more than dataset.max_characters = {max_characters:,} characters", f"{length:,}"


def _read_label(value: Any, names: list[str] | None, listed: Mapping[str, str]) -> tuple[str, str]:
    """The label's value as the source has it, and what is wrong with it (empty if nothing is)."""
    if names is not None:
        if value is None:
            return "", "no label"
        if not 0 <= value < len(names):
            return str(value), "a label that marks rows without one, or is out of range"
        raw = names[value].strip()
        if raw in listed.values():
            return raw, ""  # a class that bears one of the listed names already
    elif isinstance(value, float) and math.isfinite(value):
        if not value.is_integer():
            return str(value), "a label that is a number with a fraction, not a class"
        raw = str(int(value))
    else:
        raw = as_text(value).strip()
    if not raw:
        return "", "no label"
    if listed and raw not in listed:
        return repr(raw[:40]), f"a label that dataset.labels does not list ({_listed(sorted(listed))})"
    if raw == "-1" and not listed:
        return raw, "label -1, which marks rows without a label (list it under dataset.labels if it is a class)"
    return raw, ""


def _check_kinds(splits: Sequence[SourceSplit], column: str, what: str, problems: Problems) -> None:
    usable = {"text", "whole numbers", "numbers", "true or false", "nothing", "text" if what == "inputs" else "class labels"}
    kinds: dict[str, list[str]] = {}
    for split in splits:
        for part in split.parts:
            where = f"{split.name} ({part.name})" if part.file else split.name
            kinds.setdefault(_kind(part.data.features[column]), []).append(where)
    for kind in kinds.keys() - usable:
        problems.add(f"column {column!r} holds {kind} in {kinds[kind][0]}; {what} are text or numbers")
    different = kinds.keys() - {"nothing"}
    if len(different) > 1 and different != {"whole numbers", "numbers"}:
        shown = "; ".join(f"{kind} in {places[0]}" for kind, places in kinds.items())
        problems.add(f"column {column!r} differs between files or splits: {shown}")


def _kind(feature: Any) -> str:
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return "class labels"
    name = str(feature.dtype) if isinstance(feature, datasets.Value) else ""
    for start, kind in {"string": "text", "large_string": "text", "int": "whole numbers", "uint": "whole numbers"}.items():
        if name.startswith(start):
            return kind
    plain = {"float16": "numbers", "float32": "numbers", "float64": "numbers", "bool": "true or false", "null": "nothing"}
    return plain.get(name) or (f"{name} values" if name else f"values of mixed or nested types ({type(feature).__name__})")


def _check_names_agree(splits: Sequence[SourceSplit], label: str, problems: Problems) -> None:
    by_names: dict[frozenset[str], str] = {}
    for split in splits:
        for part in split.parts:
            names = class_names(part, label)
            if names is not None:
                by_names.setdefault(frozenset(names), f"{split.name} has {_listed(names)}")
    if len(by_names) > 1:
        problems.add(f"column {label!r} has other label names from split to split: {'; '.join(by_names.values())}")


def class_names(part: Part, column: str) -> list[str] | None:
    names = getattr(part.data.features[column], "names", None)
    return list(names) if names is not None else None


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _row_numbers(shown: Sequence[tuple[int, str]], count: int) -> str:
    texts = [f"{place + 1} ({value})" if value else str(place + 1) for place, value in shown]
    return f"{'row' if count == 1 else 'rows'} {', '.join(texts)}{', …' if count > len(texts) else ''}"


def _lines(split: SourceSplit, places: Sequence[int]) -> str:
    """Where those rows stand in their text files."""
    found = []
    for part in split.parts:
        inside = [place - part.first for place in places if part.first <= place < part.first + len(part.data)]
        lines = lines_of_rows(part.file, inside) if part.file and inside else []
        if lines:
            found.append(f"{part.name} {'line' if len(lines) == 1 else 'lines'} {', '.join(map(str, lines))}")
    return f" ({'; '.join(found)})" if found else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2 * SHOWN} more" if len(names) > 2 * SHOWN else ""
    return ", ".join(repr(name[:40]) for name in names[: 2 * SHOWN]) + more
