"""The main job whole, as a user runs it: real processes, a real Prefect server, a real S3 server, a real base model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.records import Verdict
from tests.live import environment, same
from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import GOOD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BAKEOFF = [str(Path(sys.executable).parent / "bakeoff"), "run"]
CONFIG: dict[str, Any] = {
    "name": "whole",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],  # telling words are all that TF-IDF needs
    "prompts": [{"name": "asked", "endpoint": "loopback"}],
    "tuned": [{"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 3, "max_tokens": 16}],
}
Start = Callable[..., "subprocess.Popen[str]"]


def slowly(request: dict[str, Any], _number: int) -> Say:
    """A model that knows all telling words but one, and takes its time."""
    text = request["messages"][-1]["content"]
    return Say(completion("positive" if any(word in text for word in GOOD[:-1]) else "negative"), after_s=0.05)


@pytest.fixture(scope="module")
def loopback() -> Any:
    with Loopback(slowly) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where config and settings lie."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def start(folder: Path, readable: Path, server: str, loopback: Loopback) -> Start:
    """Starts `bakeoff run` on the config in the folder of the data, with a home of the caller's choice."""
    endpoint = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "json_schema": False, "concurrency": 4}
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump({"endpoints": {"loopback": endpoint | {"base_url": loopback.url}}}))
    (folder / "whole.yaml").write_text(yaml.safe_dump(CONFIG))

    def begin(home: Path, *overrides: str, server: str = server) -> "subprocess.Popen[str]":
        names = {"BAKEOFF_HOME": str(home), "BAKEOFF_SETTINGS": str(settings), "PREFECT_HOME": str(folder / "prefect")}
        names |= {"PREFECT_API_URL": server} if server else {}
        env = environment(**names, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
        command = [*BAKEOFF, str(folder / "whole.yaml"), "--output", "json", *overrides]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=env, cwd=readable, text=True, start_new_session=True, **pipes)

    return begin


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing disturbed, which tests of what comes after it share."""

    home: Path
    verdict: dict[str, Any]
    asked: int
    """Requests to the LLM."""


@pytest.fixture(scope="module")
def unbroken(start: Start, loopback: Loopback, folder: Path) -> Unbroken:
    before = len(loopback.requests)
    verdict = finish(start(folder / "unbroken"))
    return Unbroken(folder / "unbroken", verdict, len(loopback.requests) - before)


def finish(run: "subprocess.Popen[str]") -> dict[str, Any]:
    """The verdict of a run; standard output holds nothing else."""
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err[-4000:]
    assert "Traceback" not in err
    Verdict.model_validate_json(out)
    return dict(json.loads(out))


def kill_when(run: "subprocess.Popen[str]", there: Callable[[], bool]) -> None:
    """SIGKILL as soon as something is there."""
    while not there():
        assert run.poll() is None, f"the run ended before it could be killed: {run.communicate()[1][-3000:]}"
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()


def test_a_run_killed_at_three_points_ends_in_the_verdict_of_an_unbroken_one_and_does_nothing_twice(
    start: Start, loopback: Loopback, unbroken: Unbroken, tmp_path: Path
) -> None:
    """More points are the campaign's `kills`."""
    home = tmp_path / "killed"
    space = home / "workspace"
    before = len(loopback.requests)
    points: list[Callable[[], bool]] = [
        lambda: any(space.glob("inprogress/train/*/checkpoints/*/complete.json")),
        lambda: len(loopback.requests) >= before + 10,
        lambda: any(space.glob("inprogress/publish/*/*")),
    ]
    for there in points:
        kill_when(start(home), there)
    resumed = finish(start(home))
    assert same(resumed) == same(unbroken.verdict)
    assert resumed["decision"] == unbroken.verdict["decision"] == "publish"
    again = len(loopback.requests) - before
    assert unbroken.asked <= again <= unbroken.asked + 4, "at most the requests under way at the kill are sent again"


def test_a_run_that_is_told_to_end_says_how_to_go_on_and_then_does(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = start(home)
    while not any(home.glob("workspace/products/tokenize/*/record.json")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "go on where it was" in err
    assert "Traceback" not in err
    assert not (home / "s3" / "state.json").exists()
    assert {"load", "tokenize tiny"} <= set(finish(start(home))["reused"])


def test_ctrl_c_ends_a_run_and_its_temporary_server_hears_of_it(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = start(home, server="")
    while not any(home.glob("workspace/products/tokenize/*/record.json")):
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "go on where it was" in err
    assert "Traceback" not in err
    assert "Stopping temporary server" in err


def test_a_second_run_trains_nothing_asks_nothing_and_starts_no_service(
    start: Start, loopback: Loopback, unbroken: Unbroken, tmp_path: Path
) -> None:
    home, first = unbroken.home, unbroken.verdict
    requests = len(loopback.requests)
    trained = {path: path.stat().st_mtime_ns for path in (home / "workspace" / "products").rglob("*")}
    (home / "s3").rename(tmp_path / "s3-out-of-reach")
    second = finish(start(home))
    started = (home / "s3").exists()
    (tmp_path / "s3-out-of-reach").rename(home / "s3")
    assert (first["decision"], second["decision"]) == ("publish", "keep_champion")
    assert same(second) == same(first)
    assert len(loopback.requests) == requests
    assert not started
    now = {path: path.stat().st_mtime_ns for path in (home / "workspace" / "products").rglob("*")}
    assert {path for path in now if "verdict" not in str(path)} == {path for path in trained if "verdict" not in str(path)}
    assert {"train tiny", "predictions tiny", "predictions asked"} <= set(second["reused"])
    pages = [home / "workspace" / "runs" / run["run_id"] / "report.html" for run in (first, second)]
    assert ["PUBLISHED" in pages[0].read_text(), "CHAMPION KEPT" in pages[1].read_text()] == [True, True]


def test_a_changed_config_is_a_miss_for_what_it_changes_and_for_nothing_else(start: Start, unbroken: Unbroken) -> None:
    changed = finish(start(unbroken.home, "tuned.0.epochs=1"))
    assert {"load", "predictions asked", "predictions majority"} <= set(changed["reused"])
    assert "train tiny" not in changed["reused"]
    made = [{line["name"]: line["fingerprint"] for line in verdict["contenders"]} for verdict in (unbroken.verdict, changed)]
    assert {name for name in made[0] if made[0][name] != made[1][name]} == {"tiny"}


def test_hybrids_follow_their_parts_and_routing_pays_for_nothing_again(
    start: Start, loopback: Loopback, unbroken: Unbroken, api: httpx.Client
) -> None:
    home, before = unbroken.home, len(loopback.requests)
    told = "{name: told, tuned: tiny, prompt: asked, combination: in_prompt}"
    verdict = finish(start(home, f"hybrids=[{{name: routed, tuned: tiny, prompt: asked}}, {told}]"))
    assert {line["name"]: line["arm"] for line in verdict["contenders"]} == {
        "majority": "trivial",
        "tiny": "tuned",
        "asked": "prompt",
        "routed": "hybrid",
        "told": "hybrid",
    }
    hinted = [
        request for request in loopback.requests[before:] if "A fine-tuned classifier says" in request["messages"][-1]["content"]
    ]
    rows = verdict["dataset"]["dev"] + verdict["dataset"]["test"]
    again = 5 if verdict["winner"] in ("asked", "routed", "told") else 0
    assert rows <= len(loopback.requests) - before <= rows + again
    assert len(hinted) >= rows
    filtered = api.post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["routing-routed"]}}}).json()
    assert "data:image/svg+xml;base64," in filtered[0]["data"]
    report = home / "workspace" / "runs" / verdict["run_id"] / "report.html"
    linked = api.post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["report-whole"]}}}).json()
    assert any(str(report) in artifact["data"] for artifact in linked)
    assert "what it is told" in report.read_text()
    requests = len(loopback.requests)
    again_run = finish(start(home, f"hybrids=[{{name: routed, tuned: tiny, prompt: asked}}, {told}]"))
    assert {"hybrid routed", "predictions routed", "predictions told"} <= set(again_run["reused"])
    assert len(loopback.requests) == requests
    assert same(again_run) == same(verdict)


def test_a_contender_whose_answers_an_unvalidated_grader_went_over_is_not_published(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    verdict = finish(
        start(
            home,
            "dataset.kind=generation",
            "tuned=[]",
            "grader={prompt: {name: teacher, endpoint: loopback}}",
            "gate.approval=true",
        )
    )
    assert verdict["comparison"]["p_value"] < 0.05
    assert (verdict["decision"], verdict["winner"], verdict["champion"]) == ("not_enough_evidence", None, None)
    assert verdict["approval"] is None, "nobody is asked about what cannot be published"
    assert (
        "asked would have been published, but its answers were graded by teacher, which has not been validated" in verdict["reason"]
    )
    assert verdict["doubts"] == ["nothing was measured; `bakeoff grade` measures it on rows that people graded"]


def test_a_version_is_made_again_from_what_it_records_and_what_differs_is_said(
    unbroken: Unbroken, folder: Path, readable: Path, server: str
) -> None:
    assert unbroken.verdict["champion"]["version"] == 1
    names = {"PREFECT_API_URL": server, "BAKEOFF_HOME": str(unbroken.home), "BAKEOFF_SETTINGS": str(folder / "settings.yaml")}
    env = environment(**names, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    command = [BAKEOFF[0], "reproduce", str(folder / "whole.yaml"), "1"]

    def made_again(status: int, *words: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([*command, *words], env=env, cwd=readable, capture_output=True, text=True, timeout=300)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr[-4000:]
        return done

    found = json.loads(made_again(0, "--output", "json").stdout)
    assert (found["same"], found["data"], found["files"], found["other_labels"], found["metrics"]) == (True, {}, {}, [], {})
    assert found["rows"] > 0
    rows = (readable / "rows.csv").read_text()
    try:
        (readable / "rows.csv").write_text(rows.rstrip("\n").rsplit("\n", 1)[0] + "\n")
        done = made_again(1)
    finally:
        (readable / "rows.csv").write_text(rows)
    assert "something else came out" in done.stdout
    assert "data:" in done.stdout
