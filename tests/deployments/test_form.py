"""The form in Prefect's UI, filled in in a real browser; and a person's word on a run that waits for it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.register import register
from tasks.config import BakeoffConfig
from tests.deployments.pages import CHROMIUM, opened_pages
from tests.deployments.test_on_a_server import call, finish, logs, start
from tests.deployments.test_worker import until
from tests.live import PATIENCE_S, environment, eventually, running, same

pytestmark = pytest.mark.slow

NAME = "by-form"
TUNED = {"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 2, "max_tokens": 16}
GATE = {"alpha": 0.5, "margin": 0.1}
"""Few rows decide; the cheaper one of two that are about as good takes the place."""
CONFIG: dict[str, Any] = {
    "name": "filled-in",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [{"name": "asked", "endpoint": "loopback"}],
    "tuned": [TUNED],
    "gate": GATE,
}

EPOCHS = 60
"""So many that progress is told a few times before it is whole: every two seconds."""
ALONE = {**CONFIG, "name": NAME, "tuned": []}
"""The prompt by itself, which thereby becomes the first champion."""


@pytest.fixture(scope="module")
def registered(server: str) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        register(BakeoffConfig.model_validate(CONFIG), nightly=[])


def deployment(api: httpx.Client, name: str) -> str:
    return str(api.get(f"/deployments/name/{name}").raise_for_status().json()["id"])


def run_count(api: httpx.Client, deployment: str) -> int:
    return int(api.post("/flow_runs/count", json={"deployments": {"id": {"any_": [deployment]}}}).raise_for_status().json())


def artifacts(api: httpx.Client, run: str) -> dict[str, Any]:
    found = api.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run]}}}).raise_for_status().json()
    return {each["key"]: each["data"] for each in found}


def publish_first(api: httpx.Client) -> None:
    """The champion's first version: the prompt, which alone competed."""
    first = start(api, parameters={"config": ALONE}).raise_for_status().json()["id"]
    assert finish(api, first)["type"] == "COMPLETED", logs(api, first)
    assert f"# Champion of {NAME.replace('-', chr(92) + '-')}: version 1, asked" in artifacts(api, first)[f"champion-{NAME}"]


@pytest.mark.timeout(1200)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt-get install chromium` brings one")
def test_a_person_fills_in_the_form_watches_approves_and_rolls_back_in_a_browser_and_a_function_call_comes_to_the_same_verdict(
    registered: None,
    server: str,
    api: httpx.Client,
    worker: "subprocess.Popen[bytes]",
    home: Path,
    readable: Path,
    settings_file: Path,
    tmp_path: Path,
) -> None:
    publish_first(api)
    bakeoff, rollback = deployment(api, "bakeoff/cpu"), deployment(api, "rollback/cpu")
    before = run_count(api, bakeoff)
    with opened_pages(str(CHROMIUM), server, tmp_path) as ui:
        ui.find_deployment("bakeoff", "cpu")
        ui.look("deployment")
        ui.page.get_by_role("tab", name="Description").click()
        ui.says("Prompt a large model, or fine-tune a small one?", "Runs on the pool")
        assert ui.page.get_by_text("Raises:").count() == 0
        ui.look("description")

        ui.open_custom_run()
        ui.says(
            "Dataset",
            "The labelled examples that every contender is measured on.",
            "Passes over train.",
            "Class weights (Optional)",
        )
        ui.page.get_by_role("button", name="Select Method").click()
        assert {each.inner_text() for each in ui.page.get_by_role("option").all()} >= {"lora", "head", "full"}
        ui.look("form-values-of-a-field")
        ui.page.keyboard.press("Escape")
        ui.field("Name (Optional)").fill("Not A Name")
        refused = ui.submit()
        assert "config.name" in refused
        assert "'Not A Name' does not match" in refused
        ui.says("Validation failed for field 'config.name'", "'Not A Name' does not match")
        ui.field("Name (Optional)").scroll_into_view_if_needed()
        ui.look("refused")
        ui.open_deployment(bakeoff)
        ui.open_custom_run()
        ui.field("Epochs (Optional)").fill("0")
        ui.page.get_by_role("button", name="Submit").click()
        ui.look("refused-at-once")
        assert ui.field("Epochs (Optional)").evaluate("field => field.validationMessage")
        assert run_count(api, bakeoff) == before

        ui.field("Name (Optional)").fill(NAME)
        ui.field("Epochs (Optional)").fill(f"{EPOCHS}")
        ui.field("Approval (Optional)").click()
        ui.look("form-filled-in")
        run = ui.submit()
        ui.leave()
        sent = api.get(f"/flow_runs/{run}").raise_for_status().json()["parameters"]["config"]
        assert (sent["name"], sent["tuned"][0]["epochs"], sent["gate"]["approval"]) == (NAME, EPOCHS, True)

        eventually(lambda: 0 < artifacts(api, run).get("progress-train-tiny", 0) < 100)
        ui.open_run(run, tab="Artifacts")
        ui.says("progress-train-tiny")
        ui.look("progress")
        ui.open_artifact("progress-train-tiny")
        ui.says("Progress: ")
        ui.look("progress-of-the-training")
        ui.leave()
        until(api, run, "Paused")
        ui.open_run(run)
        word = ui.resume()
        ui.says(f"May tiny become champion of {NAME}?")
        word.get_by_label("Publish (Optional)").click()
        word.get_by_label("Your name (Optional)").fill("Ada")
        word.get_by_label("Note (Optional)").fill("It reads well.")
        ui.look("approval")
        ui.answer(word)
        ui.leave()
        assert finish(api, run)["type"] == "COMPLETED", logs(api, run)
        assert artifacts(api, run)["progress-train-tiny"] == 100

        ui.open_run(run, tab="Artifacts")
        for key in ("verdict", "contenders", "champion", "report"):
            ui.says(f"{key}-{NAME}")
        ui.look("artifacts", whole=True)
        ui.open_artifact(f"verdict-{NAME}")
        ui.says("PUBLISHED: tiny", "Ada: It reads well.")
        ui.look("verdict", whole=True)
        for key, said in (
            ("contenders", "macro-F1"),
            ("report", "right label down, answer across"),
            ("champion", "version 2, tiny"),
        ):
            ui.open_run(run, tab="Artifacts")
            ui.open_artifact(f"{key}-{NAME}")
            ui.says(said)
            ui.look(key, whole=True)

        ui.open_form(rollback)
        ui.field("name").fill(NAME)
        ui.field("to").fill("1")
        ui.field("reason").fill("It reads irony wrong.")
        ui.field("by (Optional)").fill("Ada")
        ui.look("rollback-form", whole=True)
        taken_back = ui.submit()
        ui.leave()
        assert finish(api, taken_back)["type"] == "COMPLETED", logs(api, taken_back)
        ui.open_run(taken_back, tab="Artifacts")
        ui.open_artifact(f"champion-{NAME}")
        ui.says("version 3, asked", "taken back to version 1", "It reads irony wrong.", "Ada (")
        ui.look("champion-after-rollback", whole=True)

    by_form = json.loads((home / "workspace" / "runs" / run / "verdict.json").read_text())
    nobody_asked = {**sent, "gate": {**sent["gate"], "approval": False}}
    called = call([ALONE, nobody_asked], readable, tmp_path / "called", server, settings_file)
    assert (by_form["winner"], by_form["approval"]["by"], called["approval"]) == ("tiny", "Ada", None)
    assert by_form["decision"] == called["decision"] == "publish"
    assert same({**by_form, "approval": None}) == same(called)

    again = api.post(f"/deployments/{rollback}/create_flow_run", json={"parameters": {"name": NAME, "to": 9, "reason": "?"}})
    state = finish(api, again.raise_for_status().json()["id"])
    assert (state["type"], f"champion '{NAME}' has no version 9; there are 1, 2, 3" in state["message"]) == ("FAILED", True)


@contextmanager
def working(server: str, home: Path, readable: Path, settings_file: Path, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of the pool `gpu`, where nobody else works, in the home of the session's worker."""
    env = environment(
        PREFECT_API_URL=server,
        PREFECT_WORKER_QUERY_SECONDS="1",
        BAKEOFF_HOME=str(home),
        BAKEOFF_ROOTS=str(readable),
        BAKEOFF_SETTINGS=str(settings_file),
    )
    with running([sys.executable, "-m", "deployments", "worker", "gpu"], env, folder, "worker") as process:
        yield process


def answer(api: httpx.Client, run: str, **word: Any) -> None:
    """Once the form is there, which Prefect saves after it has paused the run."""
    for _ in range(240):
        done = api.post(f"/flow_runs/{run}/resume", json={"run_input": word}).raise_for_status().json()
        if done["status"] == "ACCEPT" or "schema not found" not in done["details"]["reason"]:
            break
        time.sleep(0.5)
    assert done["status"] == "ACCEPT", done


def test_a_run_whose_worker_stops_while_it_waits_asks_again_on_the_next_one_and_a_no_publishes_nothing(
    registered: None, server: str, api: httpx.Client, home: Path, readable: Path, settings_file: Path, tmp_path: Path
) -> None:
    asked = {"name": "asked", "endpoint": "loopback", "techniques": ["persona"]}  # no other test paid for its answers
    asking = {**CONFIG, "name": "held", "prompts": [asked], "tuned": [], "gate": {**GATE, "approval": True}}
    body = {"parameters": {"config": asking}}
    run = api.post(f"/deployments/{deployment(api, 'bakeoff/gpu')}/create_flow_run", json=body).raise_for_status().json()["id"]
    around = server, home, readable, settings_file, tmp_path
    with working(*around) as worker:
        until(api, run, "Paused")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0, (tmp_path / "worker.log").read_text()
    until(api, run, "AwaitingRetry")
    late = api.post(f"/flow_runs/{run}/resume", json={"run_input": {"approve": True}}).json()
    assert late["status"] != "ACCEPT", "a word that nobody hears is refused, not lost"
    with working(*around):
        until(api, run, "Paused")
        answer(api, run, approve=False, by="Ada", note="Not before the holidays.")
        assert finish(api, run)["type"] == "COMPLETED", logs(api, run)
    found = artifacts(api, run)
    assert "champion-held" not in found
    assert "Ada did not approve it (Not before the holidays.)" in found["verdict-held"].replace("\\", "")
    verdict = json.loads((home / "workspace" / "runs" / run / "verdict.json").read_text())
    assert verdict["spent_usd"] > 0, "what the run paid before its worker stopped counts against its cap"
