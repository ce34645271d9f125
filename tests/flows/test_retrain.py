"""Is a bake-off due, as a user asks: real processes, a real Prefect server, real S3, a real base model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.live import BIN, environment, same

pytestmark = pytest.mark.slow
CONFIG: dict[str, Any] = {
    "name": "again",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [],
    "tuned": [{"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 2, "max_tokens": 16}],
}
HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy", "boto3", "openai")
LIGHT = """
import json, sys
from flows.retrain import retrain
from tasks.config import BakeoffConfig
found = retrain(BakeoffConfig.model_validate(json.loads(sys.argv[1])))
print(json.dumps([found.due, [name for name in sys.argv[2].split() if name in sys.modules]]))
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(readable: Path, tmp_path: Path) -> Path:
    """A copy of the rows and the base, which a test may change."""
    shutil.copytree(readable, tmp_path / "data")
    (tmp_path / "data" / "again.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path / "data"


@pytest.fixture
def run(folder: Path, tmp_path: Path, server: str) -> Run:
    """Runs a command beside the data."""
    names = {"PREFECT_API_URL": server, "PREFECT_HOME": str(tmp_path / "prefect"), "BAKEOFF_HOME": str(tmp_path / "home")}
    env = environment(**names, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

    def begin(*command: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=200)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr[-4000:]
        return done

    return begin


def retrain(run: Run, *words: str, status: int = 0) -> dict[str, Any]:
    return dict(json.loads(run(str(BIN / "bakeoff"), "retrain", "again.yaml", "--output", "json", *words, status=status).stdout))


def test_a_bake_off_runs_for_a_reason_that_is_said_everywhere_and_then_there_is_none(
    run: Run, folder: Path, api: httpx.Client, tmp_path: Path
) -> None:
    first = retrain(run)
    assert (first["due"], first["verdict"]["decision"]) == (True, "publish")
    assert first["verdict"]["why"]["words"] == "there is no champion yet"
    kept = tmp_path / "home" / "workspace" / "runs" / first["run_id"]
    assert json.loads((kept / "verdict.json").read_text())["why"] == first["verdict"]["why"]
    assert "It ran because there is no champion yet." in (kept / "report.html").read_text()
    page = api.get(f"/flow_runs/{first['run_id']}").raise_for_status().json()
    assert (page["name"], page["tags"]) == ("again: no champion yet", ["why:champion"])
    shown = api.post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["why-again"]}}}).json()
    assert shown[0]["flow_run_id"] == first["run_id"]
    assert "there is no champion yet" in shown[0]["data"]
    logged = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [first["run_id"]]}}, "sort": "TIMESTAMP_ASC"}).json()
    ours = [line["message"] for line in logged if line["name"].startswith("tasks.")]
    assert ours[0] == "A new bake-off of again is due: there is no champion yet."

    called = json.loads(run(str(BIN / "bakeoff"), "run", "again.yaml", "--output", "json").stdout)
    assert called["why"] is None
    assert same(called) == same(first["verdict"])

    quiet = run(sys.executable, "-c", LIGHT, json.dumps(CONFIG), " ".join(HEAVY)).stdout.splitlines()[-1]
    assert json.loads(quiet) == [False, []], "nothing is due, and nothing heavy was loaded to find out"

    with (folder / "rows.csv").open("a") as stream:
        stream.write("a superb and moving new story,positive\n")
    dry = retrain(run, "--dry-run", status=3)
    assert (dry["verdict"], [each["kind"] for each in dry["signals"] if each["state"] == "due"]) == (None, ["data"])
