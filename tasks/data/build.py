"""What the load stage does: rows of a source become validated train, dev and test splits.

Only a load that finds no product imports this module, and with it numpy.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tasks.config import Dataset, Kind, OnBadRows
from tasks.data.duplicates import Texts, normalise
from tasks.data.examples import write_examples
from tasks.data.mapped import release_freed
from tasks.data.reading import SourceSplit, read_source
from tasks.data.rows import Rows
from tasks.data.separate import Separated, check_overlap, drop_duplicates, leave_clusters, leave_equal, leave_near
from tasks.data.sources import Source
from tasks.data.split import Plan, assign, cap, plan_splits
from tasks.data.validate import (
    Problems,
    Scan,
    carried,
    cell,
    check_columns,
    check_roles,
    class_names,
    inputs_of,
    label_order,
    plural,
    scan_split,
)
from tasks.progress import progress
from tasks.records import SPLITS, DatasetRecord, Example, Finding, Split
from tasks.workspace import Building, canonical, digest

logger = logging.getLogger(__name__)


def build(dataset: Dataset, source: Source, building: Building) -> DatasetRecord:
    """Read, validate, split and write. Raises BadData as `tasks.data.load.load` does."""
    cache = building.folder / "cache"  # inside the product's folder, which every try begins empty
    try:
        splits = read_source(source, cache)
        source.check_unchanged()
        return _validate_and_write(dataset, source, splits, building.folder)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _validate_and_write(dataset: Dataset, source: Source, splits: Mapping[str, SourceSplit], folder: Path) -> DatasetRecord:
    problems = Problems()
    plan = plan_splits(list(splits), dataset.splits)
    used = {name: splits[name] for name in plan.sources}
    check_columns(list(used.values()), dataset, problems)
    problems.raise_if_any(source.name)
    scans = _scan(used, dataset)
    findings = _judge_bad_rows(scans, dataset, problems)
    labels = [] if dataset.kind is Kind.GENERATION else label_order(scans, dataset.label)
    made = _separate(used, plan, scans, dataset, labels, problems)
    problems.raise_if_any(source.name)
    findings.extend(made.findings)
    for finding in findings:
        logger.warning("%s: %s", source.name, finding.message)
    record = _write(folder, used, made, labels, dataset)
    return record.model_copy(update={"revision": source.revision, "halved": plan.halved, "findings": findings})


def _scan(used: Mapping[str, SourceSplit], dataset: Dataset) -> list[Scan]:
    with progress("validate rows", sum(split.rows for split in used.values())) as bar:
        found = [scan_split(split, dataset, bar) for split in used.values()]
    release_freed()
    return found


def _judge_bad_rows(scans: Sequence[Scan], dataset: Dataset, problems: Problems) -> list[Finding]:
    """Bad rows are problems, or findings where the config drops them; a split without rows says why it has none."""
    findings = []
    for scan in scans:
        for text, count in zip(scan.bad.describe(scan.split), scan.bad.counts.values(), strict=True):
            if dataset.on_bad_rows is OnBadRows.DROP:
                findings.append(Finding(kind="dropped", count=count, message=f"dropped from {text}"))
            else:
                problems.add(text)
        if not scan.gathered.places and not scan.bad.counts and scan.others:
            wanted = ", ".join(f"{column} is {value!r}" for column, value in dataset.where.items())
            there = "; ".join(f"{column} has {', '.join(map(repr, sorted(values)))}" for column, values in scan.others.items())
            problems.add(f"{scan.split.name}: of {plural(scan.split.rows, 'row')}, in none {wanted} (dataset.where): {there}")
    if problems.texts and any(scan.bad.counts for scan in scans):
        problems.add("mend those rows, or set dataset.on_bad_rows to drop")
    return findings


def _separate(
    used: Mapping[str, SourceSplit], plan: Plan, scans: Sequence[Scan], dataset: Dataset, labels: Sequence[str], problems: Problems
) -> Separated:
    """Assign rows to splits and keep equal and near-equal ones apart. Nothing slow is done once there are problems."""
    made = drop_duplicates(assign(plan, {scan.split.name: scan.take_rows() for scan in scans}), dataset.drop_repeats)
    leave_equal(made, plan)
    if dataset.cluster:
        leave_clusters(made)
    if dataset.near_duplicates and not problems.texts and len(made.roles["train"]):
        leave_near(made, plan, dataset.near_duplicates, partial(_normalised, used, dataset.inputs))
    check_overlap(made, dataset.max_overlap, problems)
    limits = {"train": dataset.splits.train_rows, "dev": dataset.splits.dev_rows, "test": dataset.splits.test_rows}
    made.roles = {role: cap(rows, limits[role], stratified=bool(labels)) for role, rows in made.roles.items()}
    check_roles(made.roles, labels, problems, free=dataset.kind is Kind.GENERATION)
    return made


def _normalised(used: Mapping[str, SourceSplit], columns: list[str], rows: Rows) -> Iterator[Texts]:
    for inputs in _inputs(used, columns, rows):
        yield tuple(map(normalise, inputs.values()))


def _inputs(used: Mapping[str, SourceSplit], columns: list[str], rows: Rows) -> Iterator[dict[str, str]]:
    """The inputs of rows, which stand in the order of their source's splits and places."""
    for some in rows.chunks():
        for row in used[some[0].source].at(some.place.tolist(), columns):
            yield inputs_of(row, columns)


def _write(folder: Path, used: Mapping[str, SourceSplit], made: Separated, labels: list[str], dataset: Dataset) -> DatasetRecord:
    """Write the splits. The fingerprint is of what contenders see, so the same rows from another file are the same data set, and
    another column to slice by makes no contender anew."""
    content = hashlib.sha256(canonical([dataset.inputs, labels]).encode())
    for split in SPLITS:
        write_examples(folder / f"{split}.parquet", _hashed(content, split, _examples(used, dataset, made.roles[split])))
    return DatasetRecord(
        fingerprint=content.hexdigest(),
        source=dataset.source,
        revision="",
        inputs=list(dataset.inputs),
        labels=labels,
        cluster=dataset.cluster,
        slices=list(dataset.slices),
        rows={split: len(made.roles[split]) for split in SPLITS},
        label_rows={split: _count_labels(made.roles[split], labels) for split in SPLITS},
    )


def _examples(used: Mapping[str, SourceSplit], dataset: Dataset, rows: Rows) -> Iterator[Example]:
    beside = _beside(used, carried(dataset), rows)
    for row, inputs, columns in zip(rows, _inputs(used, dataset.inputs, rows), beside, strict=True):
        yield Example(example=digest(inputs)[:32], row=row.place + 1, inputs=inputs, label=row.label, columns=columns)


def _beside(used: Mapping[str, SourceSplit], columns: list[str], rows: Rows) -> Iterator[dict[str, str]]:
    """What travels with rows and no contender sees."""
    if not columns:
        yield from ({} for _ in range(len(rows)))
        return
    for some in rows.chunks():
        split = used[some[0].source]
        names = {column: class_names(split.parts[0], column) for column in columns}
        for row in split.at(some.place.tolist(), columns):
            yield {column: cell(row[column], names[column]).strip() for column in columns}


def _hashed(content: "hashlib._Hash", split: Split, examples: Iterator[Example]) -> Iterator[Example]:
    for example in examples:
        content.update(canonical([split, example.example, list(example.inputs.values()), example.label]).encode())
        yield example


def _count_labels(rows: Rows, labels: Sequence[str]) -> dict[str, int]:
    counts = rows.count_labels()
    return {label: counts[label] for label in labels}
