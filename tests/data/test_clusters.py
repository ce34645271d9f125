"""Rows that belong together never stand in two splits, and what rows are sliced by travels with them."""

import pytest

from tasks.data.examples import read_examples
from tasks.errors import BadData
from tasks.records import SPLITS, DatasetRecord
from tests.data.made_rows import Rows, make_rows
from tests.data.test_split import Load, save

__all__ = ["save"]


def people(record: DatasetRecord, split: str) -> set[str]:
    return {example.columns["person"] for example in read_examples(record, split)}


def of_people(count: int, people: int, seed: int = 0) -> Rows:
    return [
        row | {"person": f"p{place // 2 % people}", "city": "x" if place % 3 else ""}
        for place, row in enumerate(make_rows(count, seed))
    ]


def test_a_persons_rows_share_a_split_and_keep_their_columns(save, load_it: Load) -> None:
    record = load_it(save(train=of_people(600, 100)), cluster="person", slices=["city"])
    found = {split: people(record, split) for split in SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 100
    assert {example.columns["city"] for example in read_examples(record, "test")} == {"x", ""}
    assert (record.cluster, record.slices) == ("person", ["city"])


def test_a_column_to_slice_by_makes_no_other_data_set(save, load_it: Load) -> None:
    path = save(train=of_people(400, 100))
    assert load_it(path).fingerprint == load_it(path, slices=["city"]).fingerprint


def test_rows_of_a_test_persons_leave_given_dev_and_train_splits_counted(save, load_it: Load) -> None:
    sizes = {"train": 300, "validation": 120, "test": 60}  # the first persons stand in all three
    splits = {split: of_people(size, 150, size) for split, size in sizes.items()}
    record = load_it(save(**splits), cluster="person")
    found = {split: people(record, split) for split in SPLITS}
    assert not found["test"] & found["dev"]
    assert not found["train"] & (found["test"] | found["dev"])
    assert "cluster_overlap" in {finding.kind for finding in record.findings}


def test_a_row_that_belongs_to_nobody_is_refused_by_number(save, load_it: Load) -> None:
    rows = of_people(400, 100)
    rows[6]["person"] = ""
    with pytest.raises(BadData, match=r"nothing in column 'person'.*row 7"):
        load_it(save(train=rows), cluster="person")
