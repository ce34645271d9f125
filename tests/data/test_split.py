"""Which rows teach, select and decide; and that no row says the same on both sides."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tasks.config import Splits
from tasks.data import rows as columns
from tasks.data import separate
from tasks.data.examples import read_examples
from tasks.data.rows import KEY
from tasks.data.rows import Rows as Columns
from tasks.data.split import places_of, plan_splits
from tasks.errors import BadData
from tasks.records import SPLITS, DatasetRecord, Finding, Split
from tests.data.made_rows import Rows, make_rows

Load = Callable[..., DatasetRecord]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write splits as Parquet files of a folder and give its name."""

    def run(**splits: Rows) -> str:
        (tmp_path / "d").mkdir(exist_ok=True)
        for name, rows in splits.items():
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d" / f"{name}.parquet")
        return "d"

    return run


def texts(record: DatasetRecord, split: Split) -> list[str]:
    return [row.inputs["text"] for row in read_examples(record, split)]


def finding(record: DatasetRecord, kind: str) -> Finding:
    return next(found for found in record.findings if found.kind == kind)


def shares(names: list[str], **splits: object) -> dict[str, tuple[str, float, float]]:
    plan = plan_splits(names, Splits.model_validate(splits))
    return {role: (share.source, round(share.low, 3), round(share.high, 3)) for role, share in plan.shares.items()}


def test_one_split_is_shared_by_all_roles() -> None:
    assert shares(["train"]) == {"dev": ("train", 0.0, 0.15), "test": ("train", 0.15, 0.4), "train": ("train", 0.4, 1.0)}


def test_a_lone_split_of_any_name_is_shared_by_all_roles() -> None:
    assert {source for source, _, _ in shares(["test"]).values()} == {"test"}


def test_given_splits_are_taken_whole_by_their_usual_names() -> None:
    assert shares(["test", "train", "unsupervised", "validation"]) == {
        "train": ("train", 0.0, 1.0),
        "dev": ("validation", 0.0, 1.0),
        "test": ("test", 0.0, 1.0),
    }


def test_a_missing_dev_split_is_taken_from_train() -> None:
    assert shares(["train", "test"]) == {"train": ("train", 0.15, 1.0), "dev": ("train", 0.0, 0.15), "test": ("test", 0.0, 1.0)}


def test_a_missing_test_split_halves_dev_by_the_shares() -> None:
    plan = plan_splits(["train", "validation"], Splits(dev_share=0.4, test_share=0.4))

    assert plan.halved
    assert shares(["train", "validation"], dev_share=0.4, test_share=0.4) == {
        "train": ("train", 0.0, 1.0),
        "dev": ("validation", 0.0, 0.5),
        "test": ("validation", 0.5, 1.0),
    }


def test_named_roles_may_share_a_split_that_is_not_trains() -> None:
    plan = plan_splits(["train", "validation", "test"], Splits(dev="validation", test="validation"))

    assert plan.halved
    assert plan.sources == ["train", "validation"]


def test_a_split_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadData, match=r"dataset\.splits\.dev is 'holdout', but the source has 'train', 'test'"):
        plan_splits(["train", "test"], Splits(dev="holdout"))
    with pytest.raises(BadData, match="no split of the source is named train; it has 'a', 'b'"):
        plan_splits(["a", "b"], Splits())


def test_a_hash_lies_in_the_unit_interval() -> None:
    lowest, highest = places_of(np.array([b"\0" * 16, b"\xff" * 16], dtype=KEY))
    assert lowest == 0.0
    assert highest < 1.0


def test_rows_keep_their_split_when_the_data_grow_and_change_order(save, load_it: Load) -> None:
    old, new = make_rows(300, 1), make_rows(200, 2)
    before = load_it(save(train=old))
    after = load_it(save(train=[*new, *reversed(old)]))

    for split in SPLITS:
        assert set(texts(before, split)) <= set(texts(after, split))
    assert sum(after.rows.values()) == 500
    assert before.rows["test"] == pytest.approx(75, abs=25)
    assert before.rows["dev"] == pytest.approx(45, abs=20)


def test_rows_that_differ_in_case_and_punctuation_alone_share_a_split(save, load_it: Load) -> None:
    rows = make_rows(300, 1)
    shouted = [{**row, "text": f"{row['text'].upper()}!<br />"} for row in rows]

    record = load_it(save(train=[*rows, *shouted]))

    assert sum(record.rows.values()) == 300
    assert sum(found.count for found in record.findings) == 300
    assert {found.kind for found in record.findings} == {"duplicate"}


def test_caps_keep_each_label_its_share_and_take_nothing_from_elsewhere(save, load_it: Load) -> None:
    rows = make_rows(900, 1, labels=("bad", "good", "good"))
    whole = load_it(save(train=rows))
    capped = load_it(save(train=rows), splits={"train_rows": 90, "test_rows": 30})

    assert capped.rows == {"train": 90, "dev": whole.rows["dev"], "test": 30}
    assert capped.label_rows["train"]["good"] == pytest.approx(60, abs=4)
    for split in SPLITS:
        assert set(texts(capped, split)) <= set(texts(whole, split))


def test_caps_are_nested(save, load_it: Load) -> None:
    rows = make_rows(400, 1)
    small, large = (set(texts(load_it(save(train=rows), splits={"train_rows": count}), "train")) for count in (40, 80))

    assert small < large


def test_copies_with_different_labels_teach_nothing(save, load_it: Load) -> None:
    train = make_rows(60, 1)
    train[1] = {"text": train[0]["text"] + ".", "label": "good"}
    test = make_rows(40, 2)
    test[1] = {"text": test[0]["text"] + ".", "label": "good"}

    record = load_it(save(train=train, validation=make_rows(40, 3), test=test))

    assert record.rows == {"train": 58, "dev": 40, "test": 39}
    assert [found.message for found in record.findings if found.kind == "conflict"] == [
        "train: 2 rows have the same text and different labels; all were dropped"
        " (case, punctuation, markup and white space aside): rows 1, 2",
        "test: 2 rows have the same text and different labels; the first of each text was kept"
        " (case, punctuation, markup and white space aside): rows 1, 2",
    ]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_rows_kept_in_place_are_those_of_the_mask(at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(columns, "KEYS_AT_ONCE", at_once)
    dice = np.random.default_rng(at_once)
    for count, share in ((0, 0.5), (1, 0.0), (30, 0.0), (30, 0.5), (30, 1.0)):
        keys, which = dice.bytes(16 * count), dice.random(count) < share
        numbers = np.arange(count, dtype=np.uint32)
        key = np.frombuffer(bytearray(keys), dtype=KEY)
        rows = Columns(["s"], ["a", "b"], np.zeros(count, np.uint8), numbers, key, numbers % 2, key.copy())
        expected = list(rows[which])
        kept = rows.keep(which)
        assert list(kept) == expected
        assert kept.cluster.tolist() == [row.key.rstrip(b"\0") for row in expected]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_repeats_and_conflicts_are_found_however_many_keys_are_looked_at_at_once(at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(separate, "KEYS_AT_ONCE", at_once)
    dice = np.random.default_rng(at_once)
    for count, kinds in ((0, 1), (1, 1), (2, 1), (30, 40), (30, 8), (30, 1)):
        keys, labels = dice.integers(0, kinds, count).astype(KEY), dice.integers(0, 2, count).astype(np.uint32)
        rows = Columns(["s"], ["a", "b"], np.zeros(count, np.uint8), np.arange(count, dtype=np.uint32), keys, labels)
        repeats, conflicts = separate._copies(rows)
        assert repeats.tolist() == [key in keys[:place] for place, key in enumerate(keys)]
        assert conflicts.tolist() == [len(set(labels[keys == key])) > 1 for key in keys]


def test_a_row_in_train_and_test_is_refused_with_counts_and_rows(save, load_it: Load) -> None:
    test = make_rows(100, 2)
    train = [*make_rows(100, 1), *({**row, "text": row["text"].title()} for row in test[4:10])]

    with pytest.raises(BadData, match=r"6 of 200 dev and test rows \(3\.00%\) stand in train as well") as error:
        load_it(save(train=train, validation=make_rows(100, 3), test=test))

    assert "test row 5 = train row 101" in str(error.value)


def test_rows_found_again_leave_the_training_side_where_they_are_few(save, load_it: Load) -> None:
    test, dev = make_rows(100, 2), make_rows(100, 3)
    dev[0] = test[0]
    train = [*make_rows(100, 1), test[1], dev[2]]

    record = load_it(save(train=train, validation=dev, test=test), max_overlap=0.02)

    assert record.rows == {"train": 100, "dev": 99, "test": 100}
    assert [(found.kind, found.count) for found in record.findings] == [("overlap", 1), ("overlap", 2)]
    assert not set(texts(record, "train")) & {*texts(record, "dev"), *texts(record, "test")}


def test_nearly_the_same_row_in_train_and_test_is_refused(save, load_it: Load) -> None:
    test = [
        {**row, "text": f"{row['text']} {other['text']}"} for row, other in zip(make_rows(50, 2), make_rows(50, 9), strict=True)
    ]
    train = [*make_rows(100, 1), *({**row, "text": row["text"] + " indeed"} for row in test[:5])]
    files = save(train=train, validation=make_rows(50, 3), test=test)

    with pytest.raises(BadData, match=r"5 of 100 dev and test rows \(5\.00%\)"):
        load_it(files)
    record = load_it(files, max_overlap=0.05)

    assert record.rows["train"] == 100
    assert finding(record, "near_overlap").count == 5
    assert load_it(files, near_duplicates=0).rows["train"] == 105


def test_near_matches_never_stop_splits_that_we_make(save, load_it: Load) -> None:
    rows = [
        {**row, "text": f"{row['text']} {other['text']}"} for row, other in zip(make_rows(300, 2), make_rows(300, 9), strict=True)
    ]

    record = load_it(save(train=[*rows, *({**row, "text": row["text"] + " indeed"} for row in rows)]))

    assert finding(record, "near_overlap").count > 50
    stems = {split: {text.removesuffix(" indeed") for text in texts(record, split)} for split in SPLITS}
    assert not stems["train"] & (stems["dev"] | stems["test"])


def test_a_shared_question_makes_no_near_duplicates(save, load_it: Load) -> None:
    question = " ".join(row["text"] for row in make_rows(10, 7))
    splits = {
        name: [{"question": question, "answer": row["text"], "label": row["label"]} for row in make_rows(60, len(name))]
        for name in ("train", "test")
    }

    record = load_it(save(**splits), inputs=["question", "answer"])

    assert sum(record.rows.values()) == 120
    assert record.findings == []


def test_dev_and_test_from_one_split_are_marked_as_halved(save, load_it: Load) -> None:
    record = load_it(save(train=make_rows(100, 1), validation=make_rows(100, 2)), splits={"dev_share": 0.4, "test_share": 0.4})

    assert record.halved
    assert record.rows["train"] == 100
    assert record.rows["dev"] + record.rows["test"] == 100
    assert record.rows["dev"] == pytest.approx(50, abs=15)


def test_a_split_that_has_no_role_is_not_validated(save, load_it: Load) -> None:
    hidden = [{**row, "label": None} for row in make_rows(50, 4)]
    hidden[0]["label"] = "good"

    files = save(train=make_rows(100, 1), validation=make_rows(50, 2), test=hidden)

    with pytest.raises(BadData, match="test: 49 rows with no label"):
        load_it(files)
    assert load_it(files, splits={"test": "validation"}).halved
