"""The campaigns run, and a goal that is missed is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.campaigns.figures import Figure
from benchmarks.campaigns.search import files_with, planted
from tests.live import environment


@pytest.mark.slow
def test_a_tiny_campaign_meets_its_goals_but_one_and_exits_with_1(root: Path, tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.campaigns", "--only", "kills", "--kills", "2", "--rows", "24"]
    done = subprocess.run(
        [*command, "--output", "json", "--to", str(kept)], cwd=root, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, bool(done.stdout)) == (1, True), done.stderr
    assert json.loads(done.stdout) == json.loads(kept.read_text())
    campaign = json.loads(done.stdout)["kills"]
    figures = {figure["name"]: figure for figure in campaign["figures"]}
    assert figures["kills"]["value"] == 2
    assert [name for name, figure in figures.items() if figure.get("met") is False] == ["kills"]  # 60 are wanted
    assert {"date", "commit", "python", "packages", "cores"} <= set(campaign)


@pytest.mark.slow
@pytest.mark.parametrize(("campaign", "goal"), [("publication_kills", "kills"), ("publication_races", "races")])
def test_a_few_kills_and_races_of_publication_lose_nothing(root: Path, tmp_path: Path, campaign: str, goal: str) -> None:
    kept, few = tmp_path / "figures.json", "5" if goal == "kills" else "2"
    command = [sys.executable, "-m", "benchmarks.campaigns", "--only", campaign, "--kills", few, "--to", str(kept)]
    done = subprocess.run([*command, "--output", "json"], cwd=root, env=environment(), capture_output=True, text=True)
    assert (done.returncode, bool(done.stdout)) == (1, True), done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)[campaign]["figures"]}
    assert [name for name, figure in figures.items() if figure.get("met") is False] == [goal]  # more are wanted


def test_a_goal_is_met_missed_or_none() -> None:
    figures = Figure("a", 8, "<= 8"), Figure("a", 9, "<= 8"), Figure("a", float("nan"), "== 0"), Figure("a", 1)
    assert [figure.met for figure in figures] == [True, False, False, None]


def test_the_search_for_secrets_finds_them_however_they_are_wrapped(tmp_path: Path) -> None:
    found, ways = planted(tmp_path / "planted", "sk-canary-0123456789abcdef0123")
    assert found == ways >= 9
    assert files_with(tmp_path / "planted", "sk-canary-of-somebody-else-4567") == []
