"""Grading whole, as a user runs it: real processes, a real Prefect server, a real S3 server."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.grading.making import COLUMNS, KENNEDY, QUESTION, make_config, teacher
from tests.live import BIN, environment
from tests.prompting.loopback import Loopback, Say
from tests.tiny_model import examples

pytestmark = pytest.mark.slow
ROWS = 40
Start = Callable[..., "subprocess.Popen[str]"]


def slowly(request: dict[str, Any], _number: int) -> Say:
    return Say(teacher(request).body, after_s=0.03)


@pytest.fixture
def start(tmp_path: Path, server: str) -> Start:
    """Starts `bakeoff grade` in the test's folder; the config `task.yaml` and its settings lie there."""
    write_answers(tmp_path / "answers.csv")

    def begin(*words: str, url: str = "http://127.0.0.1:9/v1") -> "subprocess.Popen[str]":
        endpoint = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "concurrency": 4}
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"endpoints": {"there": endpoint | {"base_url": url}}}))
        env = environment(
            PREFECT_API_URL=server, BAKEOFF_HOME=str(tmp_path / "home"), BAKEOFF_SETTINGS=str(tmp_path / "settings.yaml")
        )
        command = [str(BIN / "bakeoff"), "grade", "task.yaml", *words, "--output", "json"]
        return subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def write_answers(path: Path) -> None:
    """Two students in three know the 35th president; people said so."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*COLUMNS, "class", "human"])
        for n in range(ROWS):
            right = n % 3 > 0
            writer.writerow([QUESTION, KENNEDY, f"John {n}" if right else f"FDR {n}", f"0{n}", "correct" if right else "wrong"])


def finish(run: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err[-4000:]
    assert "Traceback" not in err
    return dict(json.loads(out))


def test_a_killed_run_goes_on_and_ends_in_grades_a_validated_judge_and_its_tables(
    start: Start, api: httpx.Client, tmp_path: Path
) -> None:
    config = make_config("chain_of_thought", "descriptive").model_dump(mode="json")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
    words = ["--input", "answers.csv", "--to", "graded.csv"]
    with Loopback(slowly) as loopback:
        killed = start(*words, url=loopback.url)
        while len(loopback.requests) < ROWS:
            assert killed.poll() is None, killed.communicate()[1][-3000:]
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "graded.csv").exists()
        report = finish(start(*words, url=loopback.url))
        asked = Counter(json.dumps(request) for request in loopback.requests)
        assert len(asked) == 4 * 2 * ROWS, "steps and a grade for each row, in four wordings"
        assert sum(asked.values()) <= len(asked) + 4
    assert (report["validated"], report["doubts"]) == (True, [])
    assert (report["agreement"]["n"], report["agreement"]["kappa"]) == (ROWS, 1.0)
    assert (report["consistency"]["n"], report["consistency"]["share"]) == (ROWS, 1.0)
    assert report["grades"] == {"correct": 26, "wrong": 14}
    with (tmp_path / "answers.csv").open() as before, (tmp_path / "graded.csv").open() as after:
        rows, graded = list(csv.DictReader(before)), list(csv.DictReader(after))
    assert [{name: row[name] for name in rows[0]} for row in graded] == rows
    assert [row["grade"] for row in graded] == [row["human"] for row in rows]
    assert {(row["confidence"], row["failure"]) for row in graded} == {("", "")}
    query = {"artifacts": {"flow_run_id": {"any_": [report["run_id"]]}, "type": {"any_": ["table"]}}}
    shown = api.post("/artifacts/filter", json=query).raise_for_status().json()
    assert {each["key"] for each in shown} == {"grades-grading", "agreement-grading", "confusion-grading"}
    assert "this judge has been validated" in next(each for each in shown if each["key"] == "agreement-grading")["description"]


def test_the_shipped_example_runs_by_one_command_on_the_local_llm(root: Path, server: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    config, students = root / "configs" / "grader.yaml", root / "configs" / "grader" / "students.csv"
    command = [str(BIN / "bakeoff"), "grade", str(config), "--input", str(students), "--to", "graded.csv", "--output", "json"]
    env = environment(PREFECT_API_URL=server, BAKEOFF_HOME=str(tmp_path / "home"))
    words = ["--prompt", "plain", "--wordings", "0"]
    report = finish(subprocess.Popen([*command, *words], env=env, cwd=tmp_path, stdout=-1, stderr=-1, text=True))
    assert (report["rows"], report["agreement"]["n"], report["validated"]) == (8, 8, False)
    assert report["doubts"][0] == "8 graded rows, 30 are needed"
    assert sum(report["grades"].values()) + sum(report["failures"].values()) == 8
    assert len((tmp_path / "graded.csv").read_text().splitlines()) == 9


def test_the_champion_of_any_kind_grades(start: Start, tmp_path: Path) -> None:
    env = environment(BAKEOFF_HOME=str(tmp_path / "home"), OMP_NUM_THREADS="1")
    made = [str(tmp_path / "made"), str(tmp_path / "home" / "workspace"), "local", "tfidf"]
    command = [sys.executable, "-m", "tests.registry.making", *made]
    published = subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200)
    assert published.returncode == 0, published.stderr[-3000:]
    rows = examples("any", ROWS)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({**row.inputs, "label": row.label}) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"name": "tiny", "dataset": "texts.jsonl", "prompts": []}))
    report = finish(start("--input", "texts.jsonl", "--to", "graded.jsonl", "--champion"))
    assert (report["judge_kind"], report["rows"], report["consistency"], report["validated"]) == ("tfidf", ROWS, None, True)
    graded = [json.loads(line) for line in (tmp_path / "graded.jsonl").read_text().splitlines()]
    assert [row["text"] for row in graded] == [row.inputs["text"] for row in rows]
    assert all(0 < row["confidence"] <= 1 for row in graded)
