"""Files of answers: every format, rows in order, nothing lost, nothing else touched; faults with their row and column."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tasks.config import Dataset
from tasks.data.tables import place_result
from tasks.errors import BadConfig, BadData, OutsideRoots
from tasks.grading.files import examples_of, open_file, read_grades, write_graded
from tasks.grading.records import Grade
from tasks.records import Failure
from tests.grading.making import COLUMNS, KENNEDY, QUESTION, REASON, grade_all, student_of, teacher
from tests.prompting.loopback import Loopback, Say

DATASET = Dataset(source="rows.csv", inputs=COLUMNS, label="human", labels={"1": "correct", "0": "wrong"})
GOOD = '{"question": "q", "correct_answer": "a", "student_answer": "s"}'
HEADER = "question,correct_answer,student_answer"
GRADES = [
    Grade(grade="correct", confidence=0.8, reason='He says "JFK",\nwhich is right.'),
    Grade(grade=None, failure=Failure.REFUSED),
    Grade(grade="wrong", reason="a\0b"),
]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_csv_keeps_its_rows_columns_mark_and_line_ends(tmp_path: Path) -> None:
    text = f'\ufeff{HEADER},class,human\r\nq,a,"J, ""F"" K",=1+1,1\r\nq,a,,007,\r\nq,a,"two\nlines",1.0,0\r\n'
    file = open_file(DATASET, write(tmp_path / "in.csv", text), tmp_path / "out.csv")
    assert (file.rows, file.human_graded, file.grades, file.label) == (3, 2, ["correct", "wrong"], "human")
    assert [row.label for row in examples_of(file)] == ["correct", None, "wrong"]
    write_graded(file, GRADES)
    written = file.to.read_bytes()
    assert written.startswith(b"\xef\xbb\xbf")
    assert written.count(b"\r\n") == 4
    with file.path.open(newline="", encoding="utf-8-sig") as before, file.to.open(newline="", encoding="utf-8-sig") as after:
        rows, graded = list(csv.reader(before)), list(csv.reader(after))
    assert [row[:5] for row in graded] == rows
    assert [row[5:] for row in graded] == [
        ["grade", "confidence", "reason", "failure"],
        ["correct", "0.8", GRADES[0].reason, ""],
        ["", "", "", "refused"],
        ["wrong", "", "ab", ""],
    ]
    assert open_file(DATASET.model_copy(update={"label": "grade", "labels": {}}), file.path, tmp_path / "x.csv", ["a", "b"])


def test_json_lines_keep_every_byte_of_a_row(tmp_path: Path) -> None:
    rows = [
        '{"question": "q", "correct_answer": "a", "student_answer": "J\\u00fcrg", "points": 1.10, "at": "2020-01-01", "d": [[1]]}',
        '{"question":"q","correct_answer":1960,"student_answer":null , "only_here":1e5 }',
        '{"id": 9007199254740993, "question": "q", "correct_answer": "a", "student_answer": "x", "human": "wrong"}',
    ]
    file = open_file(DATASET, write(tmp_path / "in.jsonl", "\n\n".join(rows)), tmp_path / "out.jsonl")
    assert [row.inputs["correct_answer"] for row in examples_of(file)] == ["a", "1960", "a"]
    write_graded(file, GRADES)
    lines = file.to.read_text().splitlines()
    assert all(line.startswith(row[:-1].rstrip() + ", ") for line, row in zip(lines, rows, strict=True))
    assert [json.loads(line)["confidence"] for line in lines] == [0.8, None, None]
    assert [json.loads(line)["failure"] for line in lines] == [None, "refused", None]


def test_parquet_keeps_its_types_and_metadata(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "question": ["q"] * 3,
            "correct_answer": pyarrow.array(["a"] * 3).dictionary_encode(),
            "student_answer": ["x", None, "z"],
            "points": pyarrow.array([1, None, 3], pyarrow.int8()),
            "human": pyarrow.array([1, 0, None], pyarrow.int64()),
        }
    ).replace_schema_metadata({"made": "here"})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    file = open_file(DATASET, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert file.human_graded == 2
    write_graded(file, GRADES)
    back = pyarrow.parquet.read_table(file.to)
    assert back.select(table.column_names).equals(pyarrow.parquet.read_table(file.path))
    assert back.schema.metadata[b"made"] == b"here"
    assert back["confidence"].to_pylist() == [0.8, None, None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "question,student_answer\nq,s\n", "no column 'correct_answer'; it has question, student_answer"),
        ("a.csv", f"{HEADER}\nq,a,s\n\nq, ,s\n,a,s\n", r"'correct_answer' is empty: row 2 \(line 4\)"),
        ("a.csv", f"{HEADER}\nq,a,s\n\nq, ,s\n,a,s\n", r"'question' is empty: row 3 \(line 5\)"),
        ("a.csv", f"{HEADER},human\nq,a,s,1\nq,a,s,maybe\n", r"does not list \('maybe'\): row 2 \(line 3\)"),
        ("a.csv", f"{HEADER},grade\nq,a,s,1\n", "has a column 'grade' already"),
        ("a.csv", f"{HEADER}\nq,a\n", "line 2 has 2 fields, the header 3"),
        ("a.csv", f"{HEADER}\n", "no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", f"{HEADER}\nq,a,\udce9\n", "not UTF-8"),
        ("a.jsonl", f'{GOOD}\n{{"question": "q"}}\n', r"'correct_answer' is missing: row 2"),
        ("a.jsonl", '{"question": ["q"], "correct_answer": "a", "student_answer": "s"}\n', "holds no text but list: row 1"),
        ("a.jsonl", '{"question": "q"}\n[1]\n', "line 2 holds no object"),
        ("a.parquet", "not parquet", "cannot be read as parquet"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_row_and_column(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadData, match=message):
        open_file(DATASET, path, tmp_path / f"out{path.suffix}")


def test_grades_come_from_the_label_column_where_the_config_names_none_and_must_be_two(tmp_path: Path) -> None:
    bare = DATASET.model_copy(update={"labels": {}})
    both = write(tmp_path / "both.csv", f"{HEADER},human\nq,a,s,poor\nq,a,t,good\nq,a,u,\n")
    assert open_file(bare, both, tmp_path / "o.csv").grades == ["good", "poor"]
    for name, text in (("one.csv", f"{HEADER},human\nq,a,s,poor\n"), ("none.csv", f"{HEADER}\nq,a,s\n")):
        with pytest.raises(BadConfig, match=r"no grades to choose from .*list at least two under dataset\.labels"):
            open_file(bare, write(tmp_path / name, text), tmp_path / "o.csv")


@pytest.mark.parametrize(
    ("to", "message"),
    [("in.csv", "a file of their own"), ("out.jsonl", "same format"), ("out", "no ending"), ("nowhere/out.csv", "folder")],
)
def test_grades_go_to_another_file_of_the_same_format(tmp_path: Path, to: str, message: str) -> None:
    path = write(tmp_path / "in.csv", f"{HEADER}\nq,a,s\n")
    with pytest.raises(BadConfig, match=message):
        open_file(DATASET, path, tmp_path / to)


def test_a_file_that_changed_meanwhile_or_too_few_grades_leave_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", f"{HEADER}\nq,a,s\n")
    file = open_file(DATASET, path, tmp_path / "out.csv")
    with pytest.raises(BadData, match="2 grades for 1 rows"):
        write_graded(file, GRADES[:2])
    write(path, f"{HEADER}\nq,a,t\n")
    with pytest.raises(BadData, match="changed while it was read"):
        write_graded(file, GRADES[:1])
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_of_a_deployment_writes_plain_names_into_its_home_alone(tmp_path: Path) -> None:
    assert place_result("out.csv", False, tmp_path / "graded") == tmp_path / "graded" / "out.csv"
    assert place_result("/anywhere/out.csv", True, tmp_path / "graded") == Path("/anywhere/out.csv")
    for name in ("/etc/out.csv", "../out.csv", "a/out.csv", ".hidden.csv", "a\0.csv", "x" * 300):
        with pytest.raises(OutsideRoots, match="plain file name"):
            place_result(name, False, tmp_path / "graded")


def test_a_killed_run_goes_on_from_the_journal_and_asks_only_what_is_missing(tmp_path: Path) -> None:
    rows = "".join(f"{QUESTION},{KENNEDY},John {n}\n" for n in range(40)) + f"{QUESTION},{KENNEDY},John 0\n"
    path = write(tmp_path / "in.csv", f"{HEADER}\n{rows}")
    reached = threading.Event()

    def behave(request: dict[str, Any], number: int) -> Say:
        if number >= 30:
            reached.set()
        return Say(teacher(request).body, after_s=0.02)

    with Loopback(behave) as server:
        command = [sys.executable, "-m", "tests.grading.making", server.url, *map(str, (tmp_path, path, tmp_path / "out.csv"))]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        assert reached.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "out.csv").exists()
        _, graded = grade_all(server.url, tmp_path, path, tmp_path / "out.csv")
    asked = Counter(json.dumps(request) for request in server.requests)
    assert len(asked) == 80, "two requests an answer; the one that stands twice is asked about once"
    assert sum(asked.values()) - 80 <= 4
    assert {student_of(request) for request in server.requests} == {f"John {n}" for n in range(40)}
    assert (graded.rows, graded.grades, graded.failures) == (41, {"correct": 41, "wrong": 0}, {})
    assert {grade.reason for grade in read_grades(graded.folder / "grades.parquet")} == {REASON}
    assert (tmp_path / "out.csv").read_text().count(f"correct,,{REASON},") == 41
