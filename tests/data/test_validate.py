"""Bad data is refused before anything is spent, with counts and row numbers, all faults in one error."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.errors import BadData
from tasks.records import DatasetRecord
from tasks.workspace import Workspace
from tests.data.made_rows import Rows, make_rows

Load = Callable[..., DatasetRecord]


def refused(load_it: Load, source: str, **config: object) -> str:
    with pytest.raises(BadData) as error:
        load_it(source, **config)
    return str(error.value)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Rows], str]:
    """Write rows as Parquet and give the file's name."""

    def run(rows: Rows) -> str:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return "rows.parquet"

    return run


def test_a_missing_column_is_refused_with_the_columns_there_are(save, rows: Rows, load_it: Load) -> None:
    message = refused(load_it, save(rows), inputs=["review"], label="stars")

    assert "no column 'review'; it has 'text', 'label'" in message
    assert "no column 'stars'" in message


def test_every_kind_of_bad_row_is_in_one_error_with_row_numbers(save, rows: Rows, load_it: Load) -> None:
    rows[3]["text"] = None
    rows[4]["text"] = " \t\n"
    rows[9]["text"] = "nul \0 inside"
    rows[11]["text"] = "long " * 100
    rows[20]["label"] = None
    rows[30]["label"] = "ugly"

    message = refused(load_it, save(rows), labels={"bad": "bad", "good": "good"}, max_characters=300)

    assert "2 rows with no text in column 'text': rows 4, 5" in message
    assert "1 row with a NUL character in column 'text': row 10" in message
    assert "1 row with more than dataset.max_characters = 300 characters: row 12 (500)" in message
    assert "1 row with no label: row 21" in message
    assert "1 row with a label that dataset.labels does not list ('bad', 'good'): row 31 ('ugly')" in message


def test_bad_rows_of_a_text_file_are_shown_with_their_lines(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    rows[0]["text"] = "first\nsecond\nthird"
    rows[2]["text"] = ""
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")

    assert "row 3 (rows.csv line 6)" in refused(load_it, "rows.csv")
    assert "row 3 (rows.jsonl line 5)" in refused(load_it, "rows.jsonl")


def test_dropped_rows_are_counted(save, rows: Rows, load_it: Load) -> None:
    rows[3]["text"], rows[9]["text"], rows[20]["label"] = None, "", None

    record = load_it(save(rows), on_bad_rows="drop")

    assert sum(record.rows.values()) == 197
    assert [(finding.kind, finding.count) for finding in record.findings] == [("dropped", 2), ("dropped", 1)]
    assert "rows 4, 10" in record.findings[0].message


@pytest.mark.parametrize("value", [-1, "-1"])
def test_a_label_of_minus_one_is_refused_unless_it_is_listed(value: object, save, load_it: Load) -> None:
    rows = make_rows(200, labels=(value, type(value)(1)))

    assert "100 rows with label -1" in refused(load_it, save(rows))
    assert load_it("rows.parquet", labels={-1: "negative", 1: "positive"}).labels == ["negative", "positive"]


def test_a_class_label_of_minus_one_is_refused_with_its_rows(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    import datasets

    table = pyarrow.Table.from_pylist([{**row, "label": -1 if place in (4, 6) else place % 2} for place, row in enumerate(rows)])
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    metadata = features.arrow_schema.metadata
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "rows.parquet")

    assert "2 rows with a label that marks rows without one, or is out of range: rows 5 (-1), 7 (-1)" in refused(
        load_it, "rows.parquet"
    )


def test_numbers_with_a_fraction_are_no_labels(save, load_it: Load) -> None:
    assert "a number with a fraction" in refused(load_it, save(make_rows(200, labels=(0.5, 1.0))))


def test_one_class_only_is_refused(save, load_it: Load) -> None:
    message = refused(load_it, save(make_rows(200, labels=("good",))))

    assert "train has one class only ('good'" in message
    assert "test has one class only ('good'" in message


def test_a_label_that_train_lacks_is_refused(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "d").mkdir()
    for name, labels in (("train", ("bad", "good")), ("test", ("bad", "great"))):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(make_rows(60, len(name), labels)), tmp_path / "d" / f"{name}.parquet")

    assert "test has labels that train lacks: 'great'; train has 'bad', 'good'" in refused(load_it, "d")


def test_a_schema_that_changes_between_splits_is_refused(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "d").mkdir()
    for name, labels in (("train", ("0", "1")), ("test", (0, 1))):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(make_rows(60, len(name), labels)), tmp_path / "d" / f"{name}.parquet")

    message = refused(load_it, "d")

    assert "column 'label' differs between files or splits: text in train" in message
    assert "whole numbers in test" in message


def test_a_column_of_lists_is_no_input(save, load_it: Load) -> None:
    assert "column 'text' holds values of mixed or nested types" in refused(
        load_it, save([{"text": ["a", "b"], "label": place % 2} for place in range(20)])
    )


def test_mixed_types_in_one_column_are_refused(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    rows[5]["label"] = 1
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    assert "column 'label' holds values of mixed or nested types" in refused(load_it, "rows.jsonl")


def test_a_text_column_taken_for_the_label_is_refused(save, rows: Rows, load_it: Load) -> None:
    message = refused(load_it, save([{"text": row["text"], "label": f"id {row['text']}"} for row in rows]))

    assert "200 different values in 200 rows: is dataset.label right?" in message


def test_too_few_rows_are_refused(save, load_it: Load) -> None:
    assert "needs at least 2" in refused(load_it, save(make_rows(3)))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_text_that_is_not_utf_8_is_refused_with_file_and_line(name: str, tmp_path: Path, load_it: Load) -> None:
    lines = ["text,label", "fine,good"] if name == "rows.csv" else ['{"text": "fine", "label": "good"}'] * 2
    (tmp_path / name).write_bytes("\n".join(lines).encode() + b"\ncaf\xe9,good\n")

    assert f"{name} line 3: byte 0xe9 is not UTF-8" in refused(load_it, name)


def test_the_line_is_right_where_a_character_is_cut_by_a_chunk(tmp_path: Path, load_it: Load) -> None:
    first = b"text,label\n" + b"a" * ((1 << 20) - 12) + "\u00e9".encode() + b",good\n"
    assert first[1 << 20 :].startswith(b"\xa9")
    (tmp_path / "rows.csv").write_bytes(first + b"b,good\n\xff,bad\n")

    assert "rows.csv line 4: byte 0xff" in refused(load_it, "rows.csv")


def test_utf_16_is_named(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding="utf-16")

    assert "is UTF-16, not UTF-8" in refused(load_it, "rows.csv")


def test_a_nul_in_a_text_file_is_refused_with_file_and_line(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "rows.csv").write_bytes(b"text,label\nfine,good\nb\0d,bad\n")

    assert "rows.csv line 3: a NUL character" in refused(load_it, "rows.csv")


def test_a_row_of_10_mb_is_refused_by_its_size_alone(save, rows: Rows, load_it: Load, tmp_path: Path) -> None:
    rows[5]["text"] = "word " * 2_000_000
    for name in (save(rows), "rows.csv", "rows.jsonl"):
        if name == "rows.csv":
            with (tmp_path / name).open("w", newline="") as stream:
                csv.writer(stream).writerows([["text", "label"], *([row["text"], row["label"]] for row in rows)])
        elif name == "rows.jsonl":
            (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))

        assert "1 row with more than dataset.max_characters = 100,000 characters: row 6 (10,000,000)" in refused(load_it, name)

    assert sum(load_it("rows.csv", on_bad_rows="drop").rows.values()) == 199


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"", "rows.csv is empty"),
        ("rows.csv", b"text,label\n", "and no rows"),
        ("rows.jsonl", b"\n\n", "rows.jsonl is empty"),
        ("rows.parquet", b"", "rows.parquet is empty"),
        ("rows.parquet", b"PAR1 and then nonsense", "rows.parquet cannot be read as parquet"),
        ("rows.jsonl", b'{"text": "a", "label": "b"}\n{"text": \n', "rows.jsonl cannot be read as json: line 2"),
        ("rows.json", b"[1, 2", "rows.json cannot be read as json"),
        ("rows.csv", b"text,label\na,b\nc,d,e\n", "rows.csv line 3 has 3 fields, the header 2"),
        ("rows.csv", b"text,text\na,b\n", "rows.csv line 1 names column 'text' twice"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(name: str, content: bytes, said: str, tmp_path: Path, load_it: Load) -> None:
    (tmp_path / name).write_bytes(content)

    assert said in refused(load_it, name)


def test_nothing_is_kept_of_refused_data(save, load_it: Load, workspace: Workspace) -> None:
    refused(load_it, save(make_rows(3)))

    assert not list(workspace.root.glob("products/*/*"))
