"""A whole site, as `make up` starts it, in a folder of its own: Prefect server, worker, S3, local LLM; and runs on it."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from deployments.stack import states
from tests.live import Patient, environment, make_readable, same

ROOT = Path(__file__).parents[2]
COMPARED = ("winner", "contenders", "comparison", "comparisons", "dataset")
"""Beside the decision. Nothing that differs from run to run sways it: each has a name, and so a champion line, of its own, and
measured costs choose between contenders that are not trivial, of which there is one."""
TRAINING = {"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.002, "max_tokens": 16, "batch_size": 4}


@dataclass
class Site:
    """One home, and what runs in it."""

    folder: Path
    epochs: int
    port: int = field(default_factory=lambda: free_port())

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        make_readable(make_folder(self.folder / "readable"))
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config("site")))

    @property
    def home(self) -> Path:
        """BAKEOFF_HOME."""
        return self.folder / "home"

    @property
    def api(self) -> httpx.Client:
        """A client of the server."""
        return Patient(base_url=f"http://127.0.0.1:{self.port}/api", timeout=60)

    def config(self, name: str) -> dict[str, Any]:
        """A bake-off whose training takes a while."""
        tuned = TRAINING | {"epochs": self.epochs}
        arms = {"trivial": ["majority"], "prompts": [], "tuned": [tuned]}
        return {"name": name, "dataset": {"source": "rows.csv", "near_duplicates": 0}, **arms}

    def command(self, *words: str) -> str:
        """`python -m deployments …`; what it printed. Raises RuntimeError when it failed."""
        env = environment(
            BAKEOFF_HOME=str(self.home), BAKEOFF_ROOTS=str(self.folder / "readable"), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"
        )
        command = [sys.executable, "-m", "deployments", *words]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout + done.stderr

    def up(self) -> tuple[float, float]:
        """Start everything; seconds until the UI answered and until the worker polled, the command's own start among them."""
        began = time.monotonic()
        told = self.command("up", "--port", str(self.port), "--nightly", "none", "--config", str(self.folder / "config.yaml"))
        took = time.monotonic() - began
        ui, workers = (float(re.findall(rf"{what} after ([\d.]+) s", told)[0]) for what in ("answers", "poll"))
        return took - workers + ui, took

    def begin(self, name: str) -> str:
        """A run of `bakeoff/cpu`; its id."""
        with self.api as api:
            deployment = api.get("/deployments/name/bakeoff/cpu").raise_for_status().json()["id"]
            body = {"parameters": {"config": self.config(name)}}
            return str(api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The run, as the server has it."""
        with self.api as api:
            return dict(api.get(f"/flow_runs/{run}").raise_for_status().json())

    def history(self, run: str) -> list[str]:
        """The names of the states that a run has had."""
        with self.api as api:
            found = api.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
        return [each["name"] for each in sorted(found, key=lambda each: each["timestamp"])]

    def log(self, run: str) -> str:
        """What a run logged."""
        query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        with self.api as api:
            return "\n".join(each["message"] for each in api.post("/logs/filter", json=query).raise_for_status().json())

    def turns_taken(self) -> int:
        """How many trainings have the device."""
        with self.api as api:
            found = api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json()
        return sum(each["active_slots"] for each in found if each["name"].startswith("training on "))

    def verdict(self, run: str) -> dict[str, Any]:
        """What is compared of a run's verdict."""
        verdict = json.loads((self.home / "workspace" / "runs" / run / "verdict.json").read_text())
        told = same(verdict)
        return {**{key: told[key] for key in COMPARED}, "decision": verdict["decision"]}

    def unbroken(self, name: str) -> dict[str, Any]:
        """The verdict of a run in an empty workspace that nothing happened to. The next run finds none, too."""
        workspace = self.home / "workspace"
        workspace.rename(self.folder / f"workspace-{name}")
        run = self.begin(f"{name}-unbroken")
        self.wait(lambda: self.state(run)["state_type"] == "COMPLETED", 900)
        verdict = self.verdict(run)
        workspace.rename(self.folder / f"workspace-{name}-unbroken")
        return verdict

    def worker(self) -> psutil.Process:
        """The worker of the pool `cpu`."""
        self.wait(lambda: states(self.home).get("worker-cpu", {}).get("statename") == "RUNNING", 60)
        return psutil.Process(states(self.home)["worker-cpu"]["pid"])

    def training(self) -> bool:
        """Whether a training is well under way."""
        return any((self.home / "workspace" / "inprogress" / "train").glob("*/checkpoints*/*"))

    def wait(self, there: Callable[[], bool], seconds: float) -> float:
        """Until something is there; how long it took. Raises TimeoutError."""
        began = time.monotonic()
        while True:
            try:
                if there():
                    return time.monotonic() - began
            except httpx.TransportError:  # the server is away, as some campaigns want it
                time.sleep(0.2)
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not within {seconds} s; {states(self.home)}")
            time.sleep(0.1)


def make_folder(path: Path) -> Path:
    """The folder, made."""
    path.mkdir(parents=True)
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
