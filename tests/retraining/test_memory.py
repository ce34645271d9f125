"""What is remembered between runs."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.records import Approval, Decision, Trigger, Why
from tasks.retraining.memory import Hashes, recall_answers, remember_answer
from tasks.retraining.records import Signal, State
from tasks.workspace import Workspace, file_sha256
from tests.retraining.making import AFTER, BEFORE, config
from tests.verdict.test_report import verdict


def test_an_untouched_file_is_read_once_and_a_touched_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, space = tmp_path / "rows.csv", Workspace(tmp_path / "space")
    path.write_text("text,label\n")
    monkeypatch.setattr("tasks.retraining.memory.SETTLED_S", -1.0)
    first, again = Hashes(space), Hashes(space)
    assert first(path) == again(path) == file_sha256(path)
    assert (first.read, again.read) == ([path], [])
    path.write_text("text,lobel\n")  # as long as before
    third = Hashes(space)
    assert third(path) == file_sha256(path)
    assert third.read == [path]


def test_another_file_of_the_same_size_and_time_in_its_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other, space = tmp_path / "rows.csv", tmp_path / "new.csv", Workspace(tmp_path / "space")
    monkeypatch.setattr("tasks.retraining.memory.SETTLED_S", -1.0)
    for file, text in ((path, "one"), (other, "two")):
        file.write_text(text)
        os.utime(file, ns=(10**18, 10**18))
    assert Hashes(space)(path) == file_sha256(path)
    other.replace(path)
    assert Hashes(space)(path) == file_sha256(path)


def test_a_file_that_was_written_just_now_is_not_taken_for_known(tmp_path: Path) -> None:
    path, space = tmp_path / "rows.csv", Workspace(tmp_path / "space")
    path.write_text("one")
    Hashes(space)(path)
    again = Hashes(space)
    again(path)
    assert again.read == [path]


def test_what_verdicts_dealt_with_is_kept_by_store_and_name(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    assert recall_answers(config(), space).answers == []
    signal = Signal(kind=Trigger.DRIFT, state=State.DUE, words="texts have drifted", subject="these", level=3)
    why = Why(words=signal.words, reasons=[signal.reason()])
    when = datetime(2026, 11, 25, tzinfo=UTC)
    made = verdict().model_copy(update={"why": why, "created": when, "decision": Decision.KEEP_CHAMPION})
    remember_answer(config(), BEFORE, made, space)
    later = {"why": None, "run_id": "later", "created": when + timedelta(days=1)}
    remember_answer(config(), AFTER, made.model_copy(update=later), space)
    found = recall_answers(config(), space)
    assert [each.data for each in found.answers] == [BEFORE, AFTER]
    assert found.to(Trigger.DRIFT, "these", 3) == found.answers[0]
    silent = made.model_copy(update={"approval": Approval(approved=None, hours=1)})
    remember_answer(config(), "c" * 64, silent, space)
    assert recall_answers(config(), space) == found, "nobody said a word yet, so the next run asks again"
    remember_answer(config(), "c" * 64, made.model_copy(update={"doubts": ["nothing was measured"]}), space)
    assert recall_answers(config(), space) == found, "its grader may be validated by the next run"
    assert recall_answers(config(store="aws"), space).answers == []
    assert recall_answers(config(name="other"), space).answers == []
