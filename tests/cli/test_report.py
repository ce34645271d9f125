"""`bakeoff runs`, `report` and `compare`, as typed."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.reporting.conftest import hostile
from tests.reporting.making import make_run


def bakeoff(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def two() -> Path:
    """A home with two runs."""
    home = Path(os.environ["BAKEOFF_HOME"])
    for number, run_id in enumerate(("first-run", "second-run")):
        made = hostile(run_id)
        made.after = number
        make_run(home / "workspace", made)
    return home


def test_runs_are_listed_reported_and_compared(two: Path, tmp_path: Path) -> None:
    listed = json.loads(bakeoff("runs", "--output", "json").stdout)
    assert [run["run_id"] for run in listed] == ["second-run", "first-run"]
    assert bakeoff("runs").stdout.index("second-run") < bakeoff("runs").stdout.index("first-run")
    told = json.loads(bakeoff("report", "latest", "--output", "json").stdout)
    assert told == {"run_id": "second-run", "report": str(two / "workspace" / "runs" / "second-run" / "report.html")}
    assert Path(told["report"]).read_text().startswith("<!doctype html>")
    other = tmp_path / "it.html"
    assert bakeoff("report", "first", "--to", str(other)).stdout.strip() == str(other)
    assert "first-run" in other.read_text()
    found = json.loads(bakeoff("compare", "first", "latest", "--output", "json").stdout)
    assert found["same_rows"]
    assert (found["first"]["run_id"], found["second"]["run_id"]) == ("first-run", "second-run")
    shown = bakeoff("compare", "first", "latest").stdout
    assert "the same contender" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("words", [("report", "none"), ("compare", "latest", "none"), ("runs", "none.yaml")])
def test_what_is_not_there_is_refused_in_a_line(two: Path, words: tuple[str, ...]) -> None:
    done = bakeoff(*words)
    assert done.exit_code == 2
    assert "none" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_home_without_runs_says_so(tmp_path: Path) -> None:
    assert "no run yet" in bakeoff("runs").stdout
    assert json.loads(bakeoff("runs", "--output", "json").stdout) == []
    assert bakeoff("report", "latest").exit_code == 2
