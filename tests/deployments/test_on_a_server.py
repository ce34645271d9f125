"""Deployments on a real server, their runs by a real worker."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.register import register
from tasks.config import BakeoffConfig
from tasks.turns import training_turn
from tests.live import environment, eventually, same

pytestmark = pytest.mark.slow

POOLS = ["apple-silicon", "cpu", "gpu"]
TUNED = {"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 2, "max_tokens": 16}
CONFIG: dict[str, Any] = {
    "name": "deployed",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [{"name": "asked", "endpoint": "loopback"}],
    "tuned": [TUNED],
}
CALL = """
import json, sys
from flows.bakeoff import bakeoff
from tasks.config import BakeoffConfig
for config in sys.argv[1:]:
    print(bakeoff(BakeoffConfig.model_validate(json.loads(config))).model_dump_json())
"""


@pytest.fixture(scope="module")
def registered(server: str) -> None:
    """The deployments, with this module's config as default parameters."""
    with temporary_settings({PREFECT_API_URL: server}):
        register(BakeoffConfig.model_validate(CONFIG), nightly=["cpu"])


def deployment(api: httpx.Client, pool: str, flow: str = "bakeoff") -> dict[str, Any]:
    return dict(api.get(f"/deployments/name/{flow}/{pool}").raise_for_status().json())


def ours(api: httpx.Client) -> list[dict[str, Any]]:
    """The deployments, without those that other tests made of flows of their own."""
    found = api.post("/deployments/filter", json={}).raise_for_status().json()
    return [each for each in found if each["entrypoint"].startswith("flows.")]


def start(api: httpx.Client, **body: Any) -> httpx.Response:
    return api.post(f"/deployments/{deployment(api, 'cpu')['id']}/create_flow_run", json=body)


def finish(api: httpx.Client, run: str) -> dict[str, Any]:
    """The run's state once it has ended."""
    for _ in range(600):
        found = dict(api.get(f"/flow_runs/{run}").raise_for_status().json())
        if found["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            return dict(found["state"])
        time.sleep(0.5)
    pytest.fail(f"run {run} did not end: {found['state']}")


def logs(api: httpx.Client, run: str) -> list[dict[str, Any]]:
    query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
    return list(api.post("/logs/filter", json=query).raise_for_status().json())


def take_verdict(home: Path, run: str, kept: Path) -> Any:
    """The verdict that a run left in the worker's home, which is then put away, so that the next run does all work itself."""
    verdict = json.loads((home / "workspace" / "runs" / run / "verdict.json").read_text())
    home.rename(kept)
    return verdict


def call(configs: list[dict[str, Any]], readable: Path, home: Path, server: str, settings_file: Path) -> Any:
    """The last verdict of function calls one after the other in the folder of the data, in a process of its own."""
    env = environment(PREFECT_API_URL=server, BAKEOFF_HOME=str(home), BAKEOFF_SETTINGS=str(settings_file))
    command = [sys.executable, "-c", CALL, *map(json.dumps, configs)]
    done = subprocess.run(command, env=env, cwd=readable, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def run_by_schedule(api: httpx.Client) -> str:
    """A run that the scheduler starts within seconds, by a second schedule beside the nightly one; its id."""
    path = f"/deployments/{deployment(api, 'cpu-nightly', 'retrain')['id']}/schedules"
    once = (datetime.now(UTC) + timedelta(seconds=20)).strftime("%Y%m%dT%H%M%S")
    schedule = {"rrule": f"DTSTART:{once}\nRRULE:FREQ=DAILY;COUNT=1", "timezone": "UTC"}
    api.post(path, json=[{"schedule": schedule, "active": True, "slug": "once"}]).raise_for_status()
    query = {"flow_runs": {"tags": {"all_": ["auto-scheduled"]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}  # the soonest
    for _ in range(360):
        found = api.post("/flow_runs/filter", json=query).raise_for_status().json()
        if found and found[0]["created_by"]["display_value"] == "once":
            return str(found[0]["id"])
        time.sleep(0.5)
    pytest.fail(f"the scheduler made no run of the schedule; the soonest is {[run['created_by'] for run in found]}")


DECLARED = [("", f"flows.{name}.{name}") for name in ("bakeoff", "grade", "predict", "contend", "retrain", "rollback")]
DECLARED += [("-nightly", "flows.retrain.retrain")]


def test_registering_twice_updates_and_makes_nothing_twice(server: str, api: httpx.Client, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments"]
    env = environment(PREFECT_API_URL=server, PREFECT_HOME=str(tmp_path))
    first = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert [line for line in first.stdout.splitlines() if "nightly" in line] == [
        "retrain/gpu-nightly: off",
        "retrain/apple-silicon-nightly: off",
        "retrain/cpu-nightly: on",
    ]
    before = {pool: deployment(api, f"{pool}-nightly", "retrain") for pool in POOLS}
    mine = {"schedule": {"cron": "0 12 1 1 *", "timezone": "UTC"}, "active": False, "slug": "mine"}
    api.post(f"/deployments/{before['gpu']['id']}/schedules", json=[mine]).raise_for_status()
    once = {**mine, "slug": "nightly", "active": True}  # as an earlier release had it
    api.post(f"/deployments/{deployment(api, 'cpu', 'retrain')['id']}/schedules", json=[once]).raise_for_status()
    api.patch(f"/deployments/{deployment(api, 'cpu')['id']}", json={"concurrency_limit": 1}).raise_for_status()  # so it had this
    assert deployment(api, "cpu")["global_concurrency_limit"]["limit"] == 1
    api.patch("/work_pools/cpu", json={"concurrency_limit": 1}).raise_for_status()
    with temporary_settings({PREFECT_API_URL: server}):
        register(BakeoffConfig.model_validate(CONFIG), nightly=["gpu"], timezone="Europe/Berlin")
    pools = api.post("/work_pools/filter", json={}).raise_for_status().json()
    assert sorted(pool["name"] for pool in pools) == POOLS
    api.patch("/work_pools/cpu", json={"concurrency_limit": 8}).raise_for_status()  # for the tests that follow
    assert {pool["type"] for pool in pools} == {"process"}
    assert {pool["name"]: pool["concurrency_limit"] for pool in pools} == {"apple-silicon": 8, "cpu": 1, "gpu": 8}
    names = [(each["name"], each["entrypoint"]) for each in ours(api)]
    assert sorted(names) == sorted((pool + end, entry) for pool in POOLS for end, entry in DECLARED)
    for pool in POOLS:
        assert deployment(api, pool)["schedules"] == deployment(api, pool, "retrain")["schedules"] == []
        assert deployment(api, pool)["global_concurrency_limit"] is None
        assert deployment(api, pool, "retrain")["global_concurrency_limit"]["limit"] == 1
        after = deployment(api, f"{pool}-nightly", "retrain")
        assert after["id"] == before[pool]["id"]
        assert after["parameters"]["config"]["name"] == "deployed"
        assert (after["entrypoint"], after["pull_steps"], after["enforce_parameter_schema"]) == (
            "flows.retrain.retrain",
            None,
            True,
        )
        assert after["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"  # it has a schedule
        schedules = {schedule["slug"]: schedule for schedule in after["schedules"]}
        assert set(schedules) == ({"nightly", "mine"} if pool == "gpu" else {"nightly"})  # what the operator added stays
        nightly = schedules["nightly"]["schedule"]
        assert (nightly["cron"], nightly["timezone"]) == ("0 2 * * *", "Europe/Berlin")
        assert schedules["nightly"]["active"] == (pool == "gpu")


def test_schedules_that_people_added_stay_with_or_without_a_slug_and_with_their_parameters(
    registered: None, server: str, api: httpx.Client
) -> None:
    theirs = {
        "schedule": {"cron": "0 4 * * *", "timezone": "Europe/Berlin"},
        "parameters": {"config": {**CONFIG, "name": "theirs"}},
    }
    both = [{**theirs, "slug": "theirs", "active": False}, {**theirs, "active": True}]
    places = [deployment(api, "gpu-nightly", "retrain")["id"], deployment(api, "gpu", "retrain")["id"]]
    added = {each["id"]: each for place in places for each in api.post(f"/deployments/{place}/schedules", json=both).json()}
    for _ in range(2):
        with temporary_settings({PREFECT_API_URL: server}):
            register(BakeoffConfig.model_validate(CONFIG), nightly=["cpu"])
    kept = {each["id"]: each for place in places for each in api.get(f"/deployments/{place}/schedules").json()}
    assert set(added) <= set(kept)
    assert "nightly" in [each["slug"] for key, each in kept.items() if key not in added]
    for key, before in added.items():
        slug = before["slug"] or f"added-{key[:8]}"  # without one the server would remove them all at the next registration
        assert {**kept[key], "updated": None} == {**before, "slug": slug, "updated": None}
        api.delete(f"/deployments/{before['deployment_id']}/schedules/{key}").raise_for_status()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"parameters": {"config": {**CONFIG, "tuned": [{**TUNED, "epochs": 0}]}}}, "epochs"),
        ({"parameters": {"config": {**CONFIG, "tuned": [{**TUNED, "method": "prayer"}]}}}, "prayer"),
        ({"parameters": {"config": {**CONFIG, "base_url": "http://elsewhere"}}}, "base_url"),
        ({"parameters": {"config": {"name": "no-data"}}}, "dataset"),
        ({"parameters": {"config": {**CONFIG, "samples": ["x" * 600_000]}}}, "less than 524,288 bytes"),
        ({"job_variables": {"env": {"BAKEOFF_ROOTS": "/"}}}, "env"),
        ({"job_variables": {"command": "true"}}, "command"),
        ({"job_variables": {"working_dir": "/etc"}}, "working_dir"),
    ],
)
def test_a_bad_run_is_refused_before_it_starts(registered: None, api: httpx.Client, body: dict[str, Any], said: str) -> None:
    answer = start(api, **body)
    assert answer.status_code in {409, 422}
    assert said in answer.text


def test_run_deployment_the_schedule_and_a_function_call_come_to_the_same_verdict(
    registered: None,
    server: str,
    api: httpx.Client,
    worker: "subprocess.Popen[bytes]",
    home: Path,
    readable: Path,
    settings_file: Path,
    tmp_path: Path,
) -> None:
    if home.exists():  # other tests' runs of the same worker left their products in it
        home.rename(tmp_path / "before")
    with temporary_settings({PREFECT_API_URL: server}):
        by_hand = str(run_deployment("bakeoff/cpu", timeout=0).id)
    assert finish(api, by_hand)["type"] == "COMPLETED", logs(api, by_hand)
    first = take_verdict(home, by_hand, tmp_path / "by-hand")

    scheduled = run_by_schedule(api)
    assert finish(api, scheduled)["type"] == "COMPLETED", logs(api, scheduled)
    second = take_verdict(home, scheduled, tmp_path / "scheduled")

    third = call([CONFIG], readable, tmp_path / "called", server, settings_file)
    assert [first["run_id"], *(verdict["decision"] for verdict in (first, second, third))] == [by_hand, *["publish"] * 3]
    assert len({verdict["run_id"] for verdict in (first, second, third)}) == 3
    looked = ["model loopback"]  # of its announced end, before it was known whether a bake-off is due
    assert [verdict["reused"] for verdict in (first, second, third)] == [[], looked, []], "each did the work itself"
    assert (first["why"], second["why"]["words"], third["why"]) == (None, "there is no champion yet", None)
    assert same(first) == same(second) == same(third)
    told = {line["name"].partition(".")[0] for line in logs(api, by_hand)}
    assert {"prefect", "tasks", "services"} <= told


def test_a_bake_off_that_only_prompts_ends_while_another_one_has_its_training_to_do(
    registered: None, server: str, api: httpx.Client, worker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    def begin(name: str, **arms: Any) -> str:
        return str(start(api, parameters={"config": {**CONFIG, "name": name, **arms}}).raise_for_status().json()["id"])

    def waits(run: str) -> bool:
        return any("another run trains, this one waits for its turn" in line["message"] for line in logs(api, run))

    with temporary_settings({PREFECT_API_URL: server}), training_turn(tmp_path):  # a training for as long as the test wants
        trains = begin("trains", prompts=[], tuned=[{**TUNED, "learning_rate": 0.02}])  # no run before made this one
        eventually(lambda: waits(trains), every=0.5)
        prompts = begin("prompts", tuned=[])
        assert finish(api, prompts)["type"] == "COMPLETED", logs(api, prompts)
        assert api.get(f"/flow_runs/{trains}").raise_for_status().json()["state_type"] == "RUNNING"
    assert finish(api, trains)["type"] == "COMPLETED", logs(api, trains)


def test_an_event_starts_a_retrain_for_the_reason_that_it_gives(registered: None, api: httpx.Client) -> None:
    about = {"prefect.resource.id": "bakeoff.config.deployed"}
    said = "1,000 new labels " + "x" * 3000  # more than the flow takes
    event = {"event": "bakeoff.retrain.wanted", "resource": about, "payload": {"because": said}}
    elsewhere = {**event, "resource": {"prefect.resource.id": "bakeoff.config.another"}}
    for each in (elsewhere, event):
        sent = {**each, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}
        api.post("/events", json=[sent]).raise_for_status()
        time.sleep(0.5)  # SQLite loses events that come at once
    query = {"deployments": {"id": {"any_": [deployment(api, "cpu", "retrain")["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}

    def asked() -> list[dict[str, Any]]:
        found = api.post("/flow_runs/filter", json=query).raise_for_status().json()
        return [run for run in found if run["parameters"].get("because")]

    (run,) = eventually(asked, every=0.5)
    assert (run["parameters"]["because"], run["parameters"]["config"]["name"]) == (said[:1999] + "…", "deployed")
    api.delete(f"/flow_runs/{run['id']}").raise_for_status()


@pytest.mark.parametrize("source", ["{outside}/rows.csv", "../{name}/rows.csv"])
def test_a_run_of_the_api_reads_only_what_the_operator_named(
    registered: None,
    api: httpx.Client,
    worker: "subprocess.Popen[bytes]",
    readable: Path,
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "rows.csv").hardlink_to(readable / "rows.csv")
    named = {"source": source.format(outside=outside, name=outside.name)}
    run = start(api, parameters={"config": {**CONFIG, "dataset": named}}).raise_for_status().json()["id"]
    state = finish(api, run)
    assert state["type"] == "FAILED"
    assert f"lies outside the folders that this run may read: {readable}" in state["message"]


def test_a_deployments_run_grades_a_file_that_the_operator_named_into_the_workers_home(
    registered: None, api: httpx.Client, worker: "subprocess.Popen[bytes]", home: Path, readable: Path
) -> None:
    grading = api.get("/deployments/name/grade/cpu").raise_for_status().json()["id"]

    def grade(**parameters: Any) -> dict[str, Any]:
        named = {"input_file": "rows.csv", "wordings": 0, **parameters}
        answer = api.post(f"/deployments/{grading}/create_flow_run", json={"parameters": named})
        return finish(api, answer.raise_for_status().json()["id"]) if answer.is_success else {"status": answer.status_code}

    assert grade() == {"status": 409}, "a run must say where the grades go"
    outside = grade(output_file="../rows.csv")
    assert (outside["type"], "is not a plain file name" in outside["message"]) == ("FAILED", True)
    assert grade(output_file="graded.csv")["type"] == "COMPLETED"
    lines = (home / "graded" / "graded.csv").read_text().splitlines()
    assert lines[0] == "text,label,grade,confidence,reason,failure"
    assert len(lines) == len((readable / "rows.csv").read_text().splitlines())
