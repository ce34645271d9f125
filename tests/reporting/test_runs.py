"""Runs are listed and found by what a person types."""

from pathlib import Path

import pytest

from tasks.errors import BadConfig, IntegrityError
from tasks.reporting.runs import find_run, list_runs, runs_folder
from tests.reporting.conftest import hostile
from tests.reporting.making import make_run


@pytest.fixture
def three(space: Path) -> Path:
    for number, run_id in enumerate(("abc1", "abd2", "abc")):
        made = hostile(run_id)
        made.after = -number
        make_run(space, made)
    (runs_folder(space) / "of-a-grading").mkdir()
    return space


def test_runs_are_listed_newest_first_and_other_folders_are_none(three: Path) -> None:
    found = list_runs(three)
    assert [run.run_id for run in found] == ["abc1", "abd2", "abc"]
    assert found[0].path == str(three / "runs" / "abc1")
    assert found[0].report is None
    assert list_runs(three, "made") == found
    assert list_runs(three, "another") == []


@pytest.mark.parametrize(("wanted", "found"), [("latest", "abc1"), ("abd", "abd2"), ("abc", "abc"), ("abc1", "abc1")])
def test_a_run_is_found_by_its_id_its_beginning_or_as_the_latest(three: Path, wanted: str, found: str) -> None:
    assert find_run(three, wanted).name == found


@pytest.mark.parametrize(
    ("wanted", "said"), [("ab", "3 runs begin with"), ("x", "there is no run 'x'"), ("", "no run"), ("../abc", "no run")]
)
def test_what_names_no_run_or_several_is_refused(three: Path, wanted: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        find_run(three, wanted)


def test_an_empty_workspace_is_told(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(BadConfig, match="no run in"):
        find_run(tmp_path, "latest")


def test_a_verdict_that_cannot_be_read_is_named(three: Path) -> None:
    (runs_folder(three) / "abd2" / "verdict.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"abd2/verdict\.json cannot be read"):
        list_runs(three)
