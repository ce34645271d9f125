"""Our worker, told to stop in the middle of a training."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import worker
from deployments.register import register
from tasks.child import GRACE_S
from tasks.config import BakeoffConfig
from tasks.tuning.checkpoints import COMPLETE
from tests.live import BIN, PATIENCE_S, environment, eventually, running

CONFIG: dict[str, Any] = {
    "name": "stopped",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [],
    "tuned": [{"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.002, "epochs": 60, "max_tokens": 16}],
}
WORKER = [sys.executable, "-m", "deployments", "worker"]


@contextmanager
def working(server: str, home: Path, readable: Path) -> Iterator["subprocess.Popen[bytes]"]:
    names = {
        "PREFECT_API_URL": server,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "BAKEOFF_HOME": str(home),
        "BAKEOFF_ROOTS": str(readable),
    }
    with running([*WORKER, "apple-silicon"], environment(**names), home.parent, "worker") as process:
        yield process


def until(api: httpx.Client, run: str, state: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = dict(api.get(f"/flow_runs/{run}").raise_for_status().json())
        if found["state_name"] != state and found["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            pytest.fail(f"the run ended in {found['state']}; it told:\n{logs(api, run)}")
        return found if found["state_name"] == state else None

    return dict(eventually(there, every=0.2))


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_leaves_a_checkpoint_and_gives_its_run_back_and_the_next_one_goes_on(
    server: str, api: httpx.Client, readable: Path, tmp_path: Path
) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        register(BakeoffConfig.model_validate(CONFIG), nightly=[])
    home = tmp_path / "home"
    home.mkdir()
    deployment = api.get("/deployments/name/bakeoff/apple-silicon").raise_for_status().json()["id"]
    run = api.post(f"/deployments/{deployment}/create_flow_run", json={}).raise_for_status().json()["id"]
    with working(server, home, readable) as process:
        training = home / "workspace" / "inprogress" / "train"
        eventually(lambda: any(training.glob("*/checkpoints/*")))
        runs = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(runs, timeout=GRACE_S + 10)
        assert not alive, "the grace itself is what is promised"
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "worker.log").read_text()  # as the server answers
    assert until(api, run, "AwaitingRetry")["run_count"] == 1
    assert any(training.glob(f"*/checkpoints/*/{COMPLETE}"))
    with working(server, home, readable):
        until(api, run, "Running")
        assert api.get(f"/flow_runs/{run}").json()["run_count"] == 2
        eventually(lambda: "training goes on from its checkpoint" in logs(api, run), every=0.2)
    api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLED"}, "force": True}).raise_for_status()


@pytest.mark.slow
def test_a_run_whose_container_or_pod_is_told_to_stop_leaves_a_checkpoint_and_is_scheduled_again_and_goes_on(
    server: str, api: httpx.Client, readable: Path, root: Path, tmp_path: Path
) -> None:
    """Workers of the types docker and kubernetes start `prefect flow-run execute`, in the image's environment; SIGTERM reaches it
    alone, and its container ends with it."""
    (behavior,) = re.findall(r"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=\w+", (root / "Dockerfile").read_text())
    with temporary_settings({PREFECT_API_URL: server}):
        register(BakeoffConfig.model_validate({**CONFIG, "name": "stopped-container"}), nightly=[])
    deployment = api.get("/deployments/name/bakeoff/apple-silicon").raise_for_status().json()["id"]
    run = api.post(f"/deployments/{deployment}/create_flow_run", json={}).raise_for_status().json()["id"]
    home = tmp_path / "home"
    home.mkdir()
    names = dict([behavior.split("=")]) | {
        "PREFECT_API_URL": server,
        "PREFECT__FLOW_RUN_ID": run,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "BAKEOFF_HOME": str(home),
        "BAKEOFF_ROOTS": str(readable),
        "BAKEOFF_MACHINE": "a-node",  # where no killed run of another test still has its turn
    }

    def take() -> None:
        """As a worker does before it starts the container."""
        api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "PENDING"}, "force": True}).raise_for_status()

    command = [str(BIN / "prefect"), "flow-run", "execute"]
    take()
    with running(command, environment(**names), tmp_path, "first") as process:
        training = home / "workspace" / "inprogress" / "train"
        eventually(lambda: any(training.glob("*/checkpoints/*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "first.log").read_text()
    assert "Flow run successfully rescheduled." in (tmp_path / "first.log").read_text()
    assert until(api, run, "AwaitingRetry")["run_count"] == 1
    assert any(training.glob(f"*/checkpoints/*/{COMPLETE}"))
    take()
    with running(command, environment(**names), tmp_path, "second"):
        eventually(lambda: "training goes on from its checkpoint" in logs(api, run), every=0.2)
    api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLED"}, "force": True}).raise_for_status()


@pytest.mark.slow
def test_of_runs_to_be_given_back_each_is_told_of_whatever_became_of_the_others(
    server: str, api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    flow = api.post("/flows/", json={"name": "given-back"}).raise_for_status().json()["id"]

    def begin(**state: Any) -> str:
        run = str(api.post("/flow_runs/", json={"flow_id": flow}).raise_for_status().json()["id"])
        api.post(f"/flow_runs/{run}/set_state", json={"state": state, "force": True}).raise_for_status()
        return run

    lasting = {"pause_reschedule": True}  # the server takes no such run back that has no deployment
    runs = {
        "deleted": begin(type="RUNNING"),
        "running": begin(type="RUNNING"),
        "cancelling": begin(type="CANCELLING"),
        "refused": begin(type="PAUSED", state_details=lasting),
        "ended": begin(type="COMPLETED"),
    }
    api.delete(f"/flow_runs/{runs['deleted']}").raise_for_status()
    caplog.set_level("INFO")
    with temporary_settings({PREFECT_API_URL: server}):
        asyncio.run(worker._give_back([UUID(run) for run in runs.values()]))
    found = {name: api.get(f"/flow_runs/{run}").json().get("state_name") for name, run in runs.items()}
    assert found == {
        "deleted": None,
        "running": "AwaitingRetry",
        "cancelling": "Cancelled",
        "refused": "Paused",
        "ended": "Completed",
    }
    assert f"run {runs['running']}: given back" in caplog.text
    assert f"run {runs['refused']}: not given back, the server left it Paused" in caplog.text
    assert f"run {runs['deleted']} could not be given back" in caplog.text


def logs(api: httpx.Client, run: str) -> str:
    query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
    return "\n".join(line["message"] for line in api.post("/logs/filter", json=query).raise_for_status().json())


@pytest.mark.parametrize("named", [None, "ours.yaml"])
def test_the_runs_of_a_worker_have_the_settings_of_the_folder_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    async def begun(pool: str, healthcheck: bool) -> None:
        """Runs inherit the worker's environment."""

    monkeypatch.setattr(worker, "_work", begun)
    monkeypatch.chdir(tmp_path)
    (tmp_path / (named or "bakeoff.yaml")).write_text("usd_per_hour: {cpu: 1}")
    if named:
        monkeypatch.setenv("BAKEOFF_SETTINGS", named)
    worker.work("cpu")
    assert os.environ["BAKEOFF_SETTINGS"] == str(tmp_path / (named or "bakeoff.yaml"))


def test_a_worker_for_no_pool_of_ours_is_refused(root: Path) -> None:
    done = subprocess.run([*WORKER, "tpu"], cwd=root, env=environment(), capture_output=True, text=True)
    assert (done.returncode, "no work pool 'tpu': the pools are gpu, apple-silicon, cpu" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
