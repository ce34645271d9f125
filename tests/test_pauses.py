"""A run that waits for a person, on a real Prefect server: its deployment's slot, and a server that is away."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency import _leases
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from tasks.orchestration.pauses import ask_person
from tests.live import eventually
from tests.registry.proxy import serve_proxy

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.orchestration.pauses.PAUSE_POLL_S", 0.2)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Something else happens in the time of a `with`, and goes well."""
    failed: list[BaseException] = []

    def act() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    other = threading.Thread(target=copy_context().run, args=[act], daemon=True)
    other.start()
    try:
        yield
    finally:
        other.join(60)
    assert failed == []


def state(api: httpx.Client, run: Any) -> dict[str, Any]:
    return dict(api.get(f"/flow_runs/{run}").raise_for_status().json()["state"] or {})


def answer(api: httpx.Client, run: Any, text: str) -> None:
    done = api.post(f"/flow_runs/{run}/resume", json={"run_input": {"answer": text}}).raise_for_status().json()
    assert done["status"] == "ACCEPT", done


def renewals() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("concurrency-lease-renewal")]


def begin(client: SyncPrefectClient, deployment: Any) -> FlowRun:
    """A run that a worker took: it has the deployment's slot where that is free."""
    run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(run.id, Pending())
    return client.read_flow_run(run.id)


def test_a_deployments_run_outlives_the_slot_that_its_pause_gives_back_and_takes_one_again(
    server: str, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_leases, "_RENEWAL_FRACTION", 0.001)
    monkeypatch.setattr(_leases, "_RENEWAL_RETRY_BASE_DELAY", 0.1)
    answered, looked = threading.Event(), threading.Event()

    @flow(name="asking", persist_result=False)
    def asking() -> str | None:
        said = ask_person("Why?", 120, "why")
        answered.set()
        looked.wait(60)
        return said

    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(asking), f"asking-{uuid4().hex[:8]}", concurrency_limit=1)
        run = begin(client, deployment)
        others: list[str] = []

        def person() -> None:
            eventually(lambda: state(api, run.id)["type"] == "PAUSED")
            eventually(lambda: not renewals())  # the server said that the slot is gone
            answer(api, run.id, "So.")
            answered.wait(60)
            with get_client(sync_client=True) as own:
                others.append(state(api, begin(own, deployment).id)["name"])
            looked.set()

        with meanwhile(person):
            assert run_flow(asking, flow_run=run) == "So."
        assert state(api, run.id)["type"] == "COMPLETED"
        assert others == ["AwaitingConcurrencySlot"]
        assert state(api, begin(client, deployment).id)["name"] == "Pending", "the run gave its slot back when it ended"


def test_a_run_that_waits_for_a_person_outlives_a_server_that_is_away(
    server: str, api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    away = threading.Event()

    @flow(name="waiting", persist_result=False)
    def waiting() -> str | None:
        return ask_person("Why?", 120, "why")

    query = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}, "flows": {"name": {"any_": ["waiting"]}}}

    def person() -> None:
        found: list[dict[str, Any]] = []
        eventually(lambda: found.extend(api.post("/flow_runs/filter", json=query).raise_for_status().json()) or found)
        keys = found[0]["state"]["state_details"]["run_input_keyset"]
        eventually(lambda: api.get(f"/flow_runs/{found[0]['id']}/input/{keys['description']}").is_success)
        away.set()
        eventually(lambda: "the run waits on" in caplog.text)
        answer(api, found[0]["id"], "So.")
        away.clear()

    with serve_proxy(server.removesuffix("/api"), "", "") as proxy:
        proxy.answer = lambda method, path: (500, b"{}") if away.is_set() else None
        with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}), meanwhile(person):
            assert waiting() == "So."
