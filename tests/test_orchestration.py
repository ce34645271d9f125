"""What the rooms' Prefect tasks share, on a real Prefect server."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import BadData
from tasks.orchestration.limits import SAVED_S, limits_of_server
from tasks.orchestration.page import artifact_key, progress_on_page, show_svg, show_table
from tasks.orchestration.stages import Lanes, stage
from tasks.progress import progress
from tasks.prompting.ask import AskContext, Question, answer_questions
from tasks.prompting.budget import Cap
from tasks.settings import Endpoint
from tests.prompting.conftest import make_endpoint, make_examples, make_spec
from tests.prompting.loopback import Loopback
from tests.registry.proxy import serve_proxy

pytestmark = pytest.mark.slow


@stage("work", "work {name}")
def work(name: str, journal: Path) -> str:
    started = time.monotonic()
    time.sleep(0.4)
    (journal / name).write_text(f"{started} {time.monotonic()}")
    if name.startswith("bad"):
        raise BadData("row 3 is empty")
    return name


@flow(persist_result=False)
def turns(journal: Path, names: dict[str, set[str]]) -> list[str]:
    lanes = Lanes()
    futures = [lanes.submit(resources, work, name, journal) for name, resources in names.items()]
    lanes.finish()
    return [future.result() for future in futures]


def spans(journal: Path) -> dict[str, tuple[float, float]]:
    return {path.name: tuple(map(float, path.read_text().split())) for path in journal.iterdir()}  # type: ignore[misc]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_the_server_answers_what_prefects_own_lists_ask(server: str) -> None:
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        client.read_deployments()  # `prefect deployment ls`, which leaves limit and order open
        client.read_flows()
        client.read_flow_runs(limit=1)


def test_different_resources_work_side_by_side_and_the_same_one_takes_turns(server: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        done = turns(tmp_path, {"train": {"device"}, "local": {"device"}, "remote": {"remote"}, "both": {"device", "remote"}})
    assert done == ["train", "local", "remote", "both"]
    found = spans(tmp_path)
    assert not overlap(found["train"], found["local"])
    assert overlap(found["train"], found["remote"])
    assert found["both"][0] >= max(found["local"][1], found["remote"][1])


def test_a_failure_does_not_keep_the_others_from_their_work_and_is_raised_as_it_was(server: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: server}), pytest.raises(BadData, match="row 3"):
        turns(tmp_path, {"bad": {"device"}, "later": {"device"}, "remote": {"remote"}})
    assert set(spans(tmp_path)) == {"bad", "later", "remote"}


def test_artifact_keys_are_what_prefect_accepts() -> None:
    assert artifact_key("Progress", "ask some/model (few_shot)") == "progress-ask-some-model-few-shot"


def limited(per_minute: int | None = 600, **changes: Any) -> Endpoint:
    return make_endpoint("http://some-host.example/v1", requests_per_minute=per_minute, **changes)


async def take_for(seconds: float, name: str) -> int:
    """A run's requests: how many the server grants in so many seconds."""
    limits, taken, end = limits_of_server(name, limited(tokens_per_minute=60_000)), 0, time.monotonic() + seconds
    assert limits
    while time.monotonic() < end:
        await limits.take(1, 60)
        taken += 1
    return taken


def in_threads(work: Callable[[], int], count: int) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(copy_context().run, work) for _ in range(count)]]


def test_runs_together_keep_an_endpoints_limits(server: str, caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        started = time.monotonic()
        taken = in_threads(lambda: asyncio.run(take_for(4.0, "together")), 2)
        took_s = time.monotonic() - started
    assert sum(taken) <= (took_s + SAVED_S) * 10 + 1  # each run for itself would have had as much
    assert "keeps the limits" not in caplog.text


def test_a_limit_is_named_after_the_endpoint_alone_and_follows_the_settings(server: str, api: httpx.Client) -> None:
    def kept() -> dict[str, float]:
        limits = api.post("/v2/concurrency_limits/filter", json={"limit": 100}).json()
        assert "some-host" not in str(limits)
        return {each["name"]: each["slot_decay_per_second"] for each in limits if "my-llm" in each["name"]}

    with temporary_settings({PREFECT_API_URL: server}):
        asyncio.run(limits_of_server("my_llm", limited(600)).take(1, 1))  # type: ignore[union-attr]
        before = kept()
        later = limits_of_server("my_llm", limited(1200))
        asyncio.run(later.take(1, 1))  # type: ignore[union-attr]
        after = kept()
        api.delete("/v2/concurrency_limits/bakeoff-my-llm-requests").raise_for_status()
        asyncio.run(later.take(100, 1))  # type: ignore[union-attr]
    assert list(before) == list(after) == ["bakeoff-my-llm-requests"]
    assert after["bakeoff-my-llm-requests"] > before["bakeoff-my-llm-requests"]
    assert kept() == after


def test_rows_are_answered_though_the_prefect_server_is_gone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    with Loopback() as model, temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        endpoint = make_endpoint(model.url, requests_per_minute=6000, tokens_per_minute=10**6)
        context = AskContext(endpoint, Cap(1.0), tmp_path / "journal.sqlite", limits=limits_of_server("gone", endpoint))
        answers = answer_questions(make_spec(), [Question(example) for example in make_examples(20)], context)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 10
    assert caplog.text.count("this process keeps the limits a minute alone") == 1


def test_an_endpoint_without_limits_or_a_process_without_a_server_asks_nobody(server: str) -> None:
    assert limits_of_server("here", limited()) is None
    with temporary_settings({PREFECT_API_URL: server}):
        assert limits_of_server("here", limited(None)) is None


def test_prefects_temporary_server_does_not_outlive_a_run_that_is_killed() -> None:
    import psutil

    code = (
        "import subprocess, sys, time\n"
        "from prefect.server.api.server import SubprocessASGIServer\n"
        "from tasks.orchestration.process import arrange_end\n"
        "server = SubprocessASGIServer()\n"
        "server.server_process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "arrange_end()\n"
        "print(server.server_process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        server = psutil.Process(int(run.stdout.readline()))
        run.kill()
    _, alive = psutil.wait_procs([server], timeout=30)
    assert alive == []


MISSING = "so something is missing on the run's page"


def test_a_server_that_is_away_costs_the_page_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = tmp_path / "curves.svg"
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        show_table("training", [{"epoch": 1}], "how it went")
        show_svg("curves", picture, "how it went")
    assert caplog.text.count(MISSING) == 2


def test_a_server_that_fails_costs_the_page_and_not_the_run_and_later_progress_is_shown(
    server: str, api: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.orchestration.page.UPDATE_EVERY_S", 0.05)
    with serve_proxy(server.removesuffix("/api"), "", "") as proxy, temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
        proxy.answer = lambda method, path: (500, b"{}")
        show_table("training", [{"epoch": 1}], "how it went")
        with progress_on_page(), progress("train tiny", 2) as bar:
            while caplog.text.count(MISSING) < 2:
                time.sleep(0.02)
            proxy.answer = lambda method, path: None
            bar.advance()
    query = {"artifacts": {"key": {"any_": ["progress-train-tiny"]}}}
    assert [each["data"] for each in api.post("/artifacts/filter", json=query).raise_for_status().json()] == [50.0]
