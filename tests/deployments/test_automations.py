"""What the server does by itself, on a real server: dead runs are found and begun again, people are told."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations as declared
from deployments.automations import ONCE, SILENCE, TAG, TRIES, WANTED, apply_automation, recovery
from deployments.register import register
from tasks.announcing import announce, budget_watched
from tasks.config import BakeoffConfig, Task
from tasks.errors import BadConfig, BudgetReached
from tasks.records import DatasetSummary, Decision, Verdict
from tasks.settings import PREFECT_DEFAULTS
from tests.deployments.receiver import Receiver
from tests.live import eventually

pytestmark = pytest.mark.slow

CONFIG = BakeoffConfig.model_validate({"name": "told", "dataset": "owner/name"})


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def registered(server: str, receiver: Receiver) -> str:
    """The deployments and automations, with a webhook that tells the receiver; the id of `grade/gpu`, for which nobody works."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    with temporary_settings({PREFECT_API_URL: server}):
        said = {"subject": "{{subject}}", "body": "{{body}}"}
        CustomWebhookNotificationBlock(name="people", url=receiver.url, json_data=said).save("people", overwrite=True)
        register(CONFIG, nightly=[], notify=["custom-webhook/people"])
    found = httpx.get(f"{server}/deployments/name/grade/gpu", timeout=60).raise_for_status()
    return str(found.json()["id"])


def automations(api: httpx.Client) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for each in api.post("/automations/filter", json={}).raise_for_status().json():
        found.setdefault(each["name"], []).append(each)
    return found


def begin(api: httpx.Client, deployment: str, **parameters: Any) -> str:
    """A run that nobody works on, as far as `Running`."""
    run = create(api, deployment, **parameters)
    go_on(api, run)
    return run


def create(api: httpx.Client, deployment: str, **parameters: Any) -> str:
    answer = api.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
    time.sleep(0.5)  # as in `go_on`
    return str(answer.raise_for_status().json()["id"])


def go_on(api: httpx.Client, run: str) -> None:
    for state in ("PENDING", "RUNNING"):
        put(api, run, state)
        time.sleep(0.5)  # no run is faster; SQLite loses events that come at once


def put(api: httpx.Client, run: str, state: str) -> None:
    answer = api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": state, "message": f"a test says {state}"}})
    assert answer.raise_for_status().json()["status"] == "ACCEPT", answer.text


def verdict_of(decision: Decision, reason: str) -> Verdict:
    return Verdict(
        run_id="run-1",
        name="told",
        decision=decision,
        reason=reason,
        winner="lora",
        contenders=[],
        comparison=None,
        comparisons=[],
        champion=None,
        spent_usd=0,
        reused=[],
        dataset=DatasetSummary(fingerprint="f" * 64, train=8, dev=4, test=4),
        created=datetime.now(UTC),
    )


def state_of(api: httpx.Client, run: str) -> str:
    return str(api.get(f"/flow_runs/{run}").raise_for_status().json()["state_name"])


def test_registering_again_makes_no_automation_twice_and_one_that_is_off_stays_off(
    registered: str, server: str, api: httpx.Client
) -> None:
    before = automations(api)
    assert len([name for name in before if not name.startswith("bakeoff: an event starts")]) == 7
    assert len(before["bakeoff: an event starts a retrain of told"]) == 1
    off = before["bakeoff: crashed runs begin again"][0]["id"]
    api.patch(f"/automations/{off}", json={"enabled": False}).raise_for_status()
    with temporary_settings({PREFECT_API_URL: server}):
        register(CONFIG, nightly=[])
    after = automations(api)
    assert {name: [each["id"] for each in found] for name, found in after.items()} == {
        name: [each["id"] for each in found] for name, found in before.items()
    }
    assert [name for name, found in after.items() if not found[0]["enabled"]] == ["bakeoff: crashed runs begin again"]
    assert after["bakeoff: a crash is told of"][0]["actions"] == before["bakeoff: a crash is told of"][0]["actions"]
    api.patch(f"/automations/{off}", json={"enabled": True}).raise_for_status()


def test_each_bake_off_has_one_automation_that_runs_it_by_its_own_config_whichever_was_registered_last(
    registered: str, server: str, api: httpx.Client
) -> None:
    told = CONFIG.model_copy(update={"task": Task(instructions="Is {{ row.text }} good?")})
    other = CONFIG.model_copy(update={"name": "other"})
    with temporary_settings({PREFECT_API_URL: server}):
        for config in (told, other, told, other):
            register(config, nightly=["gpu"])
    assert {name: len(found) for name, found in automations(api).items() if "retrain" in name}.items() >= {
        "bakeoff: an event starts a retrain of told": 1,
        "bakeoff: an event starts a retrain of other": 1,
    }.items()
    retrain = api.get("/deployments/name/retrain/gpu").raise_for_status().json()
    assert retrain["parameters"]["config"]["name"] == "other"
    about = {"prefect.resource.id": "bakeoff.config.told"}
    event = {"event": WANTED, "resource": about, "payload": {"because": "new labels"}}
    api.post("/events", json=[{**event, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}]).raise_for_status()
    query = {"deployments": {"id": {"any_": [retrain["id"]]}}}
    (run,) = eventually(lambda: api.post("/flow_runs/filter", json=query).raise_for_status().json())
    assert run["parameters"] == {"because": "new labels", "config": told.model_dump(mode="json")}
    api.delete(f"/flow_runs/{run['id']}").raise_for_status()


def test_the_one_automation_that_an_earlier_release_had_for_all_bake_offs_becomes_that_of_this_one(
    registered: str, server: str, api: httpx.Client
) -> None:
    (found,) = automations(api)["bakeoff: an event starts a retrain of told"]
    api.patch(f"/automations/{found['id']}", json={"enabled": False}).raise_for_status()
    as_it_was = {key: value for key, value in found.items() if key not in {"id", "created", "updated"}}
    api.put(f"/automations/{found['id']}", json={**as_it_was, "name": "bakeoff: an event starts a retrain", "enabled": False})
    with temporary_settings({PREFECT_API_URL: server}):
        register(CONFIG, nightly=[])
    after = automations(api)
    assert "bakeoff: an event starts a retrain" not in after
    (ours,) = after["bakeoff: an event starts a retrain of told"]
    assert (ours["id"], ours["enabled"]) == (found["id"], False)
    api.patch(f"/automations/{found['id']}", json={"enabled": True}).raise_for_status()


def test_a_run_that_crashed_is_begun_again_on_the_same_id_and_given_up_after_its_tries(
    registered: str, api: httpx.Client, receiver: Receiver
) -> None:
    run = begin(api, registered, input_file="a.csv", output_file="b.csv")
    for _ in range(1, TRIES):
        put(api, run, "CRASHED")
        eventually(lambda: state_of(api, run) == "AwaitingRetry")
        time.sleep(ONCE.seconds)
        go_on(api, run)
    put(api, run, "CRASHED")
    crashes = [f"try {number} of {TRIES}" for number in range(1, TRIES + 1)]
    eventually(lambda: all(any(text in each["body"] for each in receiver.got) for text in crashes))
    assert state_of(api, run) == "Crashed"  # and what the last crash set off has been done
    assert all(each["subject"].startswith("Bakeoff: Crashed: grade ") for each in receiver.got if "try " in each["body"])


def test_a_run_that_says_nothing_for_three_signs_of_life_is_taken_for_dead() -> None:
    silent = recovery()[0].trigger
    beat = "prefect.flow-run.heartbeat"
    assert (silent.after, silent.posture.value, silent.within) == ({beat}, "Proactive", SILENCE)
    assert {beat, "prefect.flow-run.Completed", "prefect.flow-run.AwaitingRetry"} <= silent.expect
    assert SILENCE.seconds == 3 * int(PREFECT_DEFAULTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


def test_a_run_that_a_worker_took_and_did_not_begin_is_given_to_the_next_one_and_one_that_began_is_not(
    registered: str, server: str, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(within: timedelta) -> None:
        monkeypatch.setattr(declared, "STUCK", within)
        with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
            (stuck,) = (each for each in declared.recovery() if "never began" in each.name)
            apply_automation(client, stuck)

    def beat(run: str) -> None:
        tag = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
        event = {
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [tag],
        }
        api.post("/events", json=[{**event, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}]).raise_for_status()

    deployment = str(api.get("/deployments/name/bakeoff/gpu").raise_for_status().json()["id"])  # which has several at once
    usual = declared.STUCK
    apply(timedelta(seconds=10))  # Prefect takes no less
    try:
        began, lost = begin(api, deployment), create(api, deployment)
        put(api, lost, "PENDING")  # and its worker dies

        def given() -> bool:
            beat(began)  # again and again, as a run does: SQLite loses events
            return state_of(api, lost) == "AwaitingRetry"

        eventually(given, every=1)
        assert state_of(api, began) == "Running"  # though it was taken first
        state = api.get(f"/flow_runs/{lost}").raise_for_status().json()["state"]
        assert "given to the next one" in state["message"]
    finally:
        apply(usual)
    put(api, began, "COMPLETED")  # nothing more is expected of it
    api.delete(f"/flow_runs/{lost}").raise_for_status()


def test_people_are_told_of_a_new_champion_of_a_refusal_and_of_a_cap_and_not_of_a_champion_that_stays(
    registered: str, server: str, receiver: Receiver
) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        for decision, reason in (
            (Decision.KEEP_CHAMPION, "the champion is as good"),
            (Decision.PUBLISH, "better by 7 points"),
            (Decision.NOT_ENOUGH_EVIDENCE, "too few rows"),
        ):
            announce(verdict_of(decision, reason))
        with pytest.raises(BudgetReached, match=r"\$5"), budget_watched("told"):
            raise BudgetReached("the cap of $5 would be passed")
    wanted = {
        "Bakeoff: New champion of told": "better by 7 points",
        "Bakeoff: Nothing published for told": "too few rows",
        "Bakeoff: Budget reached by told": "the cap of $5 would be passed",
    }
    eventually(lambda: wanted.items() <= {each["subject"]: each["body"] for each in receiver.got}.items())
    assert not any("as good" in each["body"] for each in receiver.got)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("people", "give a block as TYPE/NAME"),
        ("custom-webhook/nobody", "there is no such block"),
    ],
)
def test_a_block_that_is_not_there_is_refused_before_anything_is_changed(
    registered: str, server: str, api: httpx.Client, name: str, said: str
) -> None:
    with temporary_settings({PREFECT_API_URL: server}), pytest.raises(BadConfig, match=said):
        register(CONFIG, nightly=["gpu"], notify=[name])
    (schedule,) = api.get("/deployments/name/retrain/gpu-nightly").raise_for_status().json()["schedules"]
    assert not schedule["active"]
