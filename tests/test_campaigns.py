"""The campaigns run, and a goal that is missed is told."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.campaigns.figures import Figure
from benchmarks.campaigns.search import files_with, planted
from benchmarks.campaigns.tutorial import CONFIG, PAGE, edited, steps, unlike
from tasks.config import load_config
from tests.live import BIN, environment


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


def test_the_tutorial_has_the_steps_that_its_campaign_follows_and_another_one_is_told(root: Path) -> None:
    page = (root / PAGE).read_text()
    assert unlike(steps(page)) == []
    assert len(unlike(steps(page.replace("    bakeoff report latest", "    bakeoff reports latest")))) == 1
    assert unlike(steps(page + "\n    bakeoff fly\n")) == ["'bakeoff fly', not ''"]


def test_the_tutorials_configs_load_and_its_rows_are_theirs(root: Path, tmp_path: Path) -> None:
    found = steps((root / PAGE).read_text())
    (rows,) = (step.text for step in found if step.text.startswith("python"))
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", rows], env=environment(PATH=path), cwd=tmp_path, check=True)
    blocks = [step.text for step in found if step.is_file]
    assert len(blocks) == 2, "one to begin with, and one that takes the place of some of it"
    first, second = tmp_path / CONFIG, tmp_path / "second" / CONFIG
    second.parent.mkdir()
    first.write_text(blocks[0])
    second.write_text(edited(blocks[0], blocks[1]))
    configs = [load_config(path) for path in (first, second)]
    assert [config.name for config in configs] == ["mine", "mine"]
    assert [[each.name for each in config.prompts + config.tuned] for config in configs] == [
        ["plain", "lora"],
        ["plain", "shots", "lora", "head"],
    ]
    assert configs[0].dataset == configs[1].dataset
    assert configs[0].task == configs[1].task
    data = configs[0].dataset
    with (tmp_path / data.source).open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert {*data.inputs, data.label} <= set(read[0])
    assert len(read) > (data.splits.dev_rows or 0) + (data.splits.test_rows or 0)
    assert {row[data.label] for row in read} == {"good", "bad"}
