"""Batch prediction whole, as a user runs it: real processes, a real Prefect server, the champion on a real S3 server."""

import csv
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.places import LivePlaces
from tasks.config import Prompt, Task
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.champions import crown
from tests.live import BIN, environment
from tests.prompting.loopback import Loopback, Say, right_answer
from tests.tiny_model import make_dataset

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]
ROWS = 60


def slowly(request: dict[str, Any], _number: int) -> Say:
    return Say(right_answer(request).body, after_s=0.03)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with Loopback(slowly) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's folder: settings that name the endpoint `there`, and a config."""
    endpoint = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "concurrency": 4, "base_url": loopback.url}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"endpoints": {"there": endpoint}}))
    dataset = {"source": "rows.csv", "max_characters": 200}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"name": "tiny", "dataset": dataset, "prompts": []}))
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BAKEOFF_SETTINGS", str(tmp_path / "settings.yaml"))
    return tmp_path


@pytest.fixture
def start(home: Path, server: str) -> Start:
    """Starts `bakeoff predict` in the test's folder."""

    def begin(*words: str) -> "subprocess.Popen[str]":
        names = {name: os.environ[name] for name in ("BAKEOFF_HOME", "BAKEOFF_SETTINGS")}
        env = environment(PREFECT_API_URL=server, OMP_NUM_THREADS="1", **names)
        command = [str(BIN / "bakeoff"), "predict", "task.yaml", *words, "--output", "json"]
        return subprocess.Popen(command, env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def finish(run: "subprocess.Popen[str]", status: int = 0) -> Any:
    out, err = run.communicate(timeout=300)
    assert run.returncode == status, err[-4000:]
    assert "Traceback" not in err
    return err if status else json.loads(out)


def write_rows(path: Path) -> list[list[str]]:
    rows = [[str(n), f"a {'good' if n % 3 else 'bad'} film {n}", f"=note {n}"] for n in range(ROWS)]
    rows[7][1], rows[9][1] = " ", "long " * 60
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "text", "label"], *rows])
    path.write_bytes(path.read_bytes().replace(b"film 11", b"f\xeflm 11"))
    return rows


def test_a_killed_run_goes_on_pays_for_nothing_twice_and_loses_no_row(
    start: Start, home: Path, loopback: Loopback, api: httpx.Client
) -> None:
    with LivePlaces(load_settings()) as places:
        prompt = build_prompt(
            Prompt(name="asked", endpoint="there"), Task(), make_dataset(home / "data"), places, Cap(0), space(home)
        )
        champion = crown(places, "local", "tiny", prompt)
        rows = write_rows(home / "rows.csv")
        words = ["--input", "rows.csv", "--to", "out.csv"]
        assert "--prefix" in finish(start(*words), 2)
        words += ["--prefix", "p_"]
        assert "cap" in finish(start(*words, "budget.usd=0.00001"), 1)
        assert not (home / "out.csv").exists()
        killed = start(*words)
        while len(loopback.requests) < ROWS // 2:
            assert killed.poll() is None, killed.communicate()[1][-3000:]
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert not (home / "out.csv").exists()
        report = finish(start(*words))
        asked = Counter(json.dumps(request) for request in loopback.requests)
        assert (len(asked), sum(asked.values()) - len(asked) <= 4) == (ROWS - 3, True), "four are under way at once"
        again = finish(start(*words))
    assert sum(asked.values()) == len(loopback.requests), "the second run found everything"
    assert (again["files"][0]["reused"], again["spent_usd"], again["labels"]) == (True, 0.0, report["labels"])
    assert report["failures"] == {"empty": 1, "not_text": 1, "too_long": 1}
    assert (report["rows"], report["champion"]["version"], report["champion"]["contender"]) == (ROWS, champion.version, "asked")
    assert 0 < report["spent_usd"] < report["files"][0]["cost_usd"], "the killed run paid for some of it"
    with (home / "out.csv").open(newline="", errors="replace") as stream:
        found = list(csv.DictReader(stream))
    assert [[row["id"], row["label"]] for row in found] == [[row[0], row[2]] for row in rows]
    wanted = ["positive" if n % 3 else "negative" for n in range(ROWS)]
    assert [row["p_label"] or row["p_failure"] for row in found] == [
        {7: "empty", 9: "too_long", 11: "not_text"}.get(n, label) for n, label in enumerate(wanted)
    ]
    query = {"artifacts": {"flow_run_id": {"any_": [report["run_id"]]}, "type": {"any_": ["table"]}}}
    shown = api.post("/artifacts/filter", json=query).raise_for_status().json()
    assert {each["key"] for each in shown} == {"predictions-tiny", "files-tiny"}


def space(home: Path) -> Workspace:
    return Workspace(home / "home" / "workspace")
