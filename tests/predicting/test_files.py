"""Files that are predicted: what is refused at the door, and what is kept of the rest."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.errors import BadConfig, BadData, OutsideRoots
from tasks.predicting.files import TYPES, find_files, inputs_of, write_predicted
from tasks.predicting.records import PredictFile
from tasks.predicting.rows import read_row
from tasks.records import Answer, Failure
from tasks.settings import Settings

ADDED = list(TYPES)
YES = Answer(answer="positive", label="positive", probability=0.75, input_tokens=3)
NO = Answer(answer="", label=None, failure=Failure.EMPTY)


def find(folder: Path, name: str, to: str = "out", prefix: str = "", own: bool = True) -> list[PredictFile]:
    place = str(folder / to) if own else to
    return find_files(name, place, own, Settings(home=folder / "home", roots=[folder]), ["text"], prefix)


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "to", "prefix", "message"),
    [
        ("a.csv", "text,x\na,1\nb\n", "b.csv", "", "line 3 has 1 fields, the header 2"),
        ("a.csv", "", "b.csv", "", "a.csv is empty"),
        ("a.csv", "text\n", "b.csv", "", "no rows"),
        ("a.csv", "txt\na\n", "b.csv", "", "no column 'text', which the champion sees; it has txt"),
        ("a.csv", "text,label\na,b\n", "b.csv", "", "--prefix"),
        ("a.csv", "text\na\n", "b.csv", "my-", "prefix"),
        ("a.csv", "text\na\n", "b.jsonl", "", "same format"),
        ("a.csv", "text\na\n", "a.csv", "", "file of their own"),
        ("a.csv", "text\na\n".encode("utf-16"), "b.csv", "", "UTF-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "b.jsonl", "", "line 2"),
        ("a.jsonl", '["a"]\n', "b.jsonl", "", "no object"),
        ("a.parquet", "no parquet", "b.parquet", "", "cannot be read as parquet"),
        ("a.txt", "text\na\n", "b.txt", "", "ending"),
    ],
)
def test_what_cannot_be_predicted_is_refused_at_the_door(
    tmp_path: Path, name: str, data: str | bytes, to: str, prefix: str, message: str
) -> None:
    write(tmp_path / name, data)
    with pytest.raises((BadConfig, BadData), match=message):
        find(tmp_path, name, to, prefix)


def test_a_folder_goes_into_a_folder_beside_it_and_never_into_itself(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.csv", "text\nb\n")
    write(tmp_path / "in" / "deep" / "a.jsonl", '{"text": "a"}\n')
    for name in ("_SUCCESS", ".hidden.csv", "readme.txt"):
        write(tmp_path / "in" / name, "x")
    files = find(tmp_path, "in")
    assert [(file.to, file.rows) for file in files] == [(tmp_path / "out" / "b.csv", 1), (tmp_path / "out" / "deep" / "a.jsonl", 1)]
    for to in ("in/out", "."):
        with pytest.raises(BadConfig, match="folder beside it"):
            find(tmp_path, "in", to)


def test_a_link_that_leads_out_of_the_roots_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "a.csv", "text\na\n")
    (tmp_path / "in" / "data").mkdir(parents=True)
    (tmp_path / "in" / "data" / "a.csv").symlink_to(tmp_path / "outside" / "a.csv")
    with pytest.raises(OutsideRoots):
        find_files("data", str(tmp_path / "out"), True, Settings(home=tmp_path, roots=[tmp_path / "in"]))


def test_a_deployments_run_writes_into_its_home_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text\na\n")
    assert find(tmp_path, "a.csv", "b.csv", own=False)[0].to == tmp_path / "home" / "predicted" / "b.csv"
    with pytest.raises(OutsideRoots):
        find(tmp_path, "a.csv", "../b.csv", own=False)


def test_bad_rows_are_named_and_stay_as_they_were_to_the_byte(tmp_path: Path) -> None:
    rows = b'1,fine\n2,\n3,caf\xe9\n4,nul\0\n5,"two\nlines"\n6,' + b"long " * 5 + b"\n"
    write(tmp_path / "a.csv", b"id,text\n" + rows)
    (file,) = find(tmp_path, "a.csv", "b.csv", prefix="p_")
    found = list(inputs_of(file, ["text"], 20))
    kinds = ["empty", "not_text", "not_text", {"text": "two\nlines"}, "too_long"]
    assert found == [{"text": "fine"}, *kinds]
    write_predicted(file, [YES, *[NO] * 5], "p_")
    lines = file.to.read_bytes().split(b"\n")
    assert lines[0] == b"id,text," + ",".join(f"p_{name}" for name in ADDED).encode()
    assert lines[1] == b"1,fine,positive,0.75,positive,,,0.0,3,0"
    assert lines[3] == b"3,caf\xe9,,,,,empty,0.0,0,0"


def test_json_lines_and_parquet_keep_what_they_had(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"id": 1.0, "text": "a"}\n\n{"text": "\xff", "id": 2}\n{"text": ["a"]}\n{}\n')
    (file,) = find(tmp_path, "a.jsonl", "b.jsonl")
    assert list(inputs_of(file, ["text"], 20)) == [{"text": "a"}, "not_text", "not_text", "not_text"]
    write_predicted(file, [YES, NO, NO, NO], "")
    lines = file.to.read_bytes().splitlines()
    assert lines[0].startswith(b'{"id": 1.0, "text": "a", "label": "positive", "probability": 0.75')
    assert lines[1].startswith(b'{"text": "\xff", "id": 2, "label": null')
    assert json.loads(lines[3])["failure"] == "empty"
    table = pyarrow.table({"n": pyarrow.array([1, 2], pyarrow.int8()), "text": ["a", None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (file,) = find(tmp_path, "a.parquet", "b.parquet")
    assert list(inputs_of(file, ["text"], 20)) == [{"text": "a"}, "empty"]
    write_predicted(file, [YES, NO], "")
    back = pyarrow.parquet.read_table(file.to)
    assert back.select(["n", "text"]).equals(table)
    assert back["failure"].to_pylist() == [None, "empty"]


def test_a_row_of_several_columns_needs_text_in_one_of_them() -> None:
    columns = ["subject", "body"]
    assert read_row({"body": None, "subject": 7, "x": "y"}, columns, 10) == {"subject": "7", "body": ""}
    assert read_row({"subject": " ", "body": ""}, columns, 10) == Failure.EMPTY
    assert read_row({"subject": "s"}, columns, 10) == Failure.NOT_TEXT
    assert read_row({"subject": "s", "body": "\ud800"}, columns, 10) == Failure.NOT_TEXT
