import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled

from deployments.register import register
from flows import fan_out as module
from flows.fan_out import cancel_runs, check_pools, contenders_of, on_other_pools, refuse_idle, shares
from services.bench import opened
from services.s3 import LocalS3
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, RunFailed
from tasks.records import Decision
from tests.live import BIN, credentials, environment, eventually, running, same

PARTS: dict[str, Any] = {
    "dataset": "owner/name",
    "prompts": [{"name": "a"}, {"name": "b"}, {"name": "c", "techniques": ["flipped"], "interview": "human"}],
    "tuned": [{"name": "t"}, {"name": "u"}],
}


def config(**pools: str) -> BakeoffConfig:
    return BakeoffConfig.model_validate({**PARTS, "pools": pools})


def keys_of(s3: LocalS3) -> dict[str, str]:
    """As a worker's environment has them."""
    keys = credentials(s3)
    names = {"AWS_ACCESS_KEY_ID": keys["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"]}
    return names | {"AWS_DEFAULT_REGION": keys["region_name"]}


def test_each_tuned_contender_is_a_run_and_the_prompts_are_one_but_for_those_that_ask_a_person() -> None:
    away = config(tuned="gpu", prompts="cpu")
    assert shares(away, contenders_of(away)) == [("gpu", ["t"]), ("gpu", ["u"]), ("cpu", ["a", "b"])]
    assert shares(config(tuned="gpu"), contenders_of(config())) == [("gpu", ["t"]), ("gpu", ["u"])]
    assert shares(config(), contenders_of(config())) == []


def test_contenders_alone_bring_their_parts_and_are_made_by_the_run_itself() -> None:
    whole = BakeoffConfig.model_validate(
        {**PARTS, "pools": {"tuned": "gpu"}, "hybrids": [{"name": "h", "tuned": "t", "prompt": "a"}]}
    )
    alone = whole.alone(["h"])
    assert [[each.name for each in group] for group in (alone.hybrids, alone.tuned, alone.prompts)] == [["h"], ["t"], ["a"]]
    assert shares(alone, contenders_of(alone)) == []
    assert BakeoffConfig.model_validate(alone.model_dump(mode="json")) == alone
    assert whole.alone(["t"]).prompts == []


def test_other_machines_are_refused_where_the_workspace_is_this_ones_alone() -> None:
    with opened(config()) as bench, pytest.raises(BadConfig, match=r"workspace is this one's alone.*BAKEOFF_WORKSPACE__STORE"):
        check_pools(config(tuned="gpu"), bench)


def test_other_machines_are_refused_without_a_server(s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"BAKEOFF_STORES__OURS__BUCKET": bucket, "BAKEOFF_STORES__OURS__ENDPOINT_URL": s3_server.endpoint_url}
    for name, value in (names | {"BAKEOFF_WORKSPACE__STORE": "ours"} | keys_of(s3_server)).items():
        monkeypatch.setenv(name, value)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), opened(config()) as bench:
        check_pools(config(), bench)
        with pytest.raises(BadConfig, match="no Prefect server is named"):
            check_pools(config(prompts="cpu"), bench)


def there(state: State[Any] | None = None, name: str = "t", pool: str = "gpu") -> FlowRun:
    """A run on another machine."""
    return FlowRun(flow_id=uuid4(), name=name, work_pool_name=pool, state=state)


class Server:
    """Stands for the client of a Prefect server: what it says of a run, one answer after the other, the last one for ever."""

    def __init__(self, *runs: FlowRun) -> None:
        self.runs = {run.id: run for run in runs}
        self.says: dict[UUID, list[State[Any] | Exception]] = {}
        self.set: list[tuple[UUID, str]] = []

    def read_flow_run(self, run: UUID) -> FlowRun:
        said = self.says.get(run, [])
        state = said.pop(0) if len(said) > 1 else said[0] if said else self.runs[run].state
        if isinstance(state, Exception):
            raise state
        return self.runs[run].model_copy(update={"state": state})

    def set_flow_run_state(self, run: UUID, state: State[Any]) -> Any:
        if run not in self.runs:
            raise ObjectNotFound(Exception("no such run"))
        if self.says.get(run):
            raise self.says[run][0]
        self.set.append((run, state.name or ""))
        return SimpleNamespace(status=SimpleNamespace(value="ACCEPT"))


class Clock:
    """A clock that moves only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> FlowRun:
    """This run, which a worker of the pool `gpu` works on."""
    run = there(Running(), "this one")
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(id=str(run.id)))
    monkeypatch.setattr(module, "deployment", SimpleNamespace(id=str(uuid4())))
    return run


def test_what_a_runs_own_pool_is_to_make_it_makes_itself(ours: FlowRun) -> None:
    """Else as many bake-offs as the pool has places wait for each other for ever."""
    wanted = [("gpu", ["t"]), ("gpu", ["u"]), ("cpu", ["a", "b"])]
    assert on_other_pools(Server(ours), wanted) == [("cpu", ["a", "b"])]
    elsewhere = ours.model_copy(update={"work_pool_name": None})  # called as a function
    assert on_other_pools(Server(elsewhere), wanted) == wanted


class Accounts:
    """Stands for what a run notes of money."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.counted: list[str] = []
        self.add, self.count = self.added.append, self.counted.append


@pytest.fixture
def bench() -> Any:
    return SimpleNamespace(cap=SimpleNamespace(usd=5.0, spent_usd=2.0), account=Accounts())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BakeoffConfig, tuple[str, list[str]], FlowRun]]:
    """What runs are started, all of which make their contenders; every pool has a worker."""
    found: list[tuple[BakeoffConfig, tuple[str, list[str]], FlowRun]] = []

    def start(config: BakeoffConfig, share: tuple[str, list[str]]) -> FlowRun:
        found.append((config, share, there(Completed(), share[1][0], share[0])))
        return found[-1][2]

    monkeypatch.setattr(module, "_start", start)
    monkeypatch.setattr(module, "refuse_idle", lambda _client, _pool: None)
    return found


def waits(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[], list[str]]) -> None:
    monkeypatch.setattr(module, "_wait", lambda _client, _waiting: outcome())


def test_each_share_is_a_run_under_what_is_left_of_the_cap_and_what_it_spent_counts(
    ours: FlowRun, bench: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, list)
    module._make_there(Server(ours), config(), [("cpu", ["a", "b"]), ("apple-silicon", ["t"])], bench)
    assert [share for _, share, _ in started] == [("cpu", ["a", "b"]), ("apple-silicon", ["t"])]
    assert [sent.budget.usd for sent, _, _ in started] == [3.0, 3.0]
    assert bench.account.added == bench.account.counted == [str(run.id) for _, _, run in started]


def test_what_runs_spent_counts_before_the_error_names_those_that_went_wrong(
    ours: FlowRun, bench: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, lambda: ["run 'a' is Failed", "run 't' is Crashed"])
    with pytest.raises(RunFailed, match=r"run 'a' is Failed; run 't' is Crashed: .*run again to go on"):
        module._make_there(Server(ours), config(), [("cpu", ["a"])], bench)
    assert bench.account.counted == [str(run.id) for _, _, run in started]


@pytest.mark.parametrize(
    ("error", "state", "deployed", "cancelled"),
    [
        (KeyboardInterrupt(), Running(), True, False),  # its worker is stopped: begun again, it finds its runs at work
        (KeyboardInterrupt(), AwaitingRetry(), True, False),  # and was given back already
        (KeyboardInterrupt(), Cancelling(), True, True),
        (KeyboardInterrupt(), Running(), False, True),  # Ctrl-C, where it was called as a function
        (RunFailed("a server that is away for too long"), Running(), True, True),
    ],
    ids=["worker stopped", "given back", "cancelled", "Ctrl-C", "failed"],
)
def test_runs_end_with_the_one_that_waits_for_them_but_not_where_that_one_is_begun_again(
    ours: FlowRun,
    bench: Any,
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    state: State[Any],
    deployed: bool,
    cancelled: bool,
) -> None:
    ended: list[UUID] = []

    def stopped() -> list[str]:
        raise error

    waits(monkeypatch, stopped)
    monkeypatch.setattr(module, "cancel_runs", ended.extend)
    if not deployed:
        monkeypatch.setattr(module, "deployment", SimpleNamespace(id=None))
    server = Server(ours.model_copy(update={"state": state}))
    with pytest.raises(type(error)):
        module._make_there(server, config(), [("cpu", ["a"]), ("cpu", ["t"])], bench)
    assert ended == ([run.id for _, _, run in started] if cancelled else [])


def test_all_runs_are_waited_for_and_what_went_wrong_with_each_is_told(clock: Clock) -> None:
    good, bad, ended = there(name="good"), there(name="bad"), there(name="ended", pool="cpu")
    server = Server(good, bad, ended)
    server.says = {
        good.id: [Scheduled(), Pending(), Running(), Running(), Completed()],
        bad.id: [Running(), Failed(message="no data")],
        ended.id: [Running(), Running(), Cancelled()],
    }
    waiting = {run.id: run for run in (good, bad, ended)}
    assert module._wait(server, waiting) == [
        f"run 'bad' ({bad.id}) on pool 'gpu' is Failed: no data",
        f"run 'ended' ({ended.id}) on pool 'cpu' is Cancelled: without a word",
    ]
    assert waiting == {}


def test_a_crash_is_a_problem_only_where_nobody_begins_the_run_again_for_so_long(clock: Clock) -> None:
    crashed: dict[UUID, float] = {}
    run = there()

    def problem(state: State[Any]) -> str | None:
        return module._problem(run.model_copy(update={"state": state}), crashed)

    died = Crashed(message="its machine is gone")
    assert problem(died) is None
    clock.sleep(module.CRASHED_FOR_S - 1)
    assert problem(died) is None
    assert problem(AwaitingRetry()) is None  # begun again, which ends this crash
    clock.sleep(2)
    assert problem(died) is None
    clock.sleep(module.CRASHED_FOR_S - 1)
    assert problem(died) is None
    clock.sleep(1)
    assert problem(died) == f"run 't' ({run.id}) on pool 'gpu' is Crashed: its machine is gone"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_run_that_no_worker_takes_is_told_of_now_and_then_with_what_to_do_and_waited_for(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    run = there(name="bake: t")
    server = Server(run)
    late = round((module.UNTAKEN_S + 2 * module.UNTAKEN_AGAIN_S) / module.POLL_S) + 5
    server.says = {run.id: [Scheduled()] * late + [Pending()] * 600 + [Running()] * 600 + [Completed()]}
    assert module._wait(server, {run.id: run}) == []
    said = f"run 'bake: t' ({run.id}) has waited for %.0f s on pool 'gpu', and no worker has taken it"
    waited = [module.UNTAKEN_S + number * module.UNTAKEN_AGAIN_S for number in range(3)]
    assert [text.partition(": see ")[0] for text in told(caplog)] == [said % each for each in waited]
    for part in ("make worker POOL=gpu", "prefect work-pool set-concurrency-limit gpu"):
        assert all(part in text for text in told(caplog))


def test_a_run_that_is_taken_now_and_then_is_not_told_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run, short = there(), round(module.UNTAKEN_S / module.POLL_S) - 1
    server = Server(run)
    server.says = {run.id: [Scheduled()] * short + [Running()] + [AwaitingRetry()] * short + [Running(), Completed()]}
    assert module._wait(server, {run.id: run}) == []
    assert told(caplog) == []


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://server/api")
    return httpx.HTTPStatusError(f"{status}", request=request, response=httpx.Response(status, request=request))


def test_a_server_that_is_down_is_waited_for_and_one_that_refuses_is_not(clock: Clock) -> None:
    run = there()
    server = Server(run)
    down = [httpx.ConnectError(""), refused(503), httpx.ReadTimeout("")]
    server.says = {run.id: [*down, Running()]}
    found = module._look(server, run.id).state
    assert found is not None
    assert found.is_running()
    server.says = {run.id: [refused(401), Running()]}
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        module._look(server, run.id)
    began = clock.now
    server.says = {run.id: [httpx.ConnectError("away")]}
    with pytest.raises(httpx.ConnectError, match="away"):
        module._look(server, run.id)
    assert clock.now - began > module.UNHEARD_S


def test_of_runs_to_be_cancelled_each_is_told_whatever_became_of_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone, cut_off, last = there(), there(), there()
    server = Server(cut_off, last)
    server.says = {cut_off.id: [httpx.ConnectError("away")]}
    monkeypatch.setattr(module, "get_client", lambda **_: nullcontext(server))
    cancel_runs([gone.id, cut_off.id, last.id])
    assert server.set == [(last.id, "Cancelling")]
    assert [str(run.id) in text for run, text in zip((gone, cut_off), told(caplog), strict=True)] == [True, True]


@pytest.fixture(scope="module")
def registered(server: str) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        register(config(), nightly=[])


@pytest.fixture
def client(registered: None, server: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        yield client


@pytest.mark.slow
def test_a_pool_that_nobody_works_for_is_refused(client: SyncPrefectClient) -> None:
    with pytest.raises(BadConfig, match="'gpu', which has no online worker"):
        refuse_idle(client, "gpu")
    with pytest.raises(BadConfig, match="'tpu', which the Prefect server does not know"):
        refuse_idle(client, "tpu")


@pytest.mark.slow
def test_a_run_there_is_found_again_in_another_life_and_followed_by_a_new_one_once_it_has_ended(
    client: SyncPrefectClient, ours: FlowRun
) -> None:
    share = "gpu", ["t"]  # for which nobody works
    first = module._start(config(tuned="gpu"), share)
    other = module._start(config(tuned="gpu"), ("gpu", ["u"]))
    assert module._start(config(tuned="gpu"), share).id == first.id != other.id
    cancel_runs([first.id])
    state = client.read_flow_run(first.id).state
    assert state is not None
    assert state.is_cancelled()  # at once, since no worker had it
    second = module._start(config(tuned="gpu"), share)
    assert second.id != first.id
    assert (second.work_pool_name, second.parameters["contenders"]) == ("gpu", ["t"])
    cancel_runs([second.id, other.id])


@pytest.mark.slow
def test_the_server_says_of_which_pool_a_run_is(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    bakeoff = client.read_deployment_by_name("bakeoff/gpu")
    run = client.create_flow_run_from_deployment(bakeoff.id)
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(id=str(run.id)))
    assert on_other_pools(client, [("gpu", ["t"]), ("cpu", ["a"])]) == [("cpu", ["a"])]
    client.delete_flow_run(run.id)


TINY = {"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 3, "max_tokens": 16}
WHOLE: dict[str, Any] = {
    "name": "fanned",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [],
    "tuned": [TINY],
    "store": "ours",
}


@pytest.mark.slow
def test_a_bake_off_whose_tuned_contender_trains_on_another_pool_comes_to_the_verdict_of_one_machine(
    client: SyncPrefectClient, server: str, api: httpx.Client, s3_server: LocalS3, bucket: str, readable: Path, tmp_path: Path
) -> None:
    """The worker of the pool has a home of its own. Three machines, one of which is killed, are the campaign's `machines`."""

    def machine(name: str, workspace: bool) -> dict[str, str]:
        home = tmp_path / name
        home.mkdir()
        store = {"bucket": bucket, "prefix": "shared" if workspace else "alone", "endpoint_url": s3_server.endpoint_url}
        settings: dict[str, Any] = {"stores": {"ours": store}} | ({"workspace": {"store": "ours"}} if workspace else {})
        (home / "settings.yaml").write_text(yaml.safe_dump(settings))
        names = {"BAKEOFF_HOME": str(home), "BAKEOFF_SETTINGS": str(home / "settings.yaml"), "BAKEOFF_ROOTS": str(readable)}
        names |= {"PREFECT_API_URL": server, "PREFECT_HOME": str(home / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        return environment(**names, **keys_of(s3_server), BAKEOFF_MACHINE=name)  # a device of its own: no turn is waited for

    def judged(env: dict[str, str], *overrides: str) -> dict[str, Any]:
        command = [str(BIN / "bakeoff"), "run", str(tmp_path / "whole.yaml"), "--output", "json", *overrides]
        done = subprocess.run(command, env=env, cwd=readable, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-4000:]
        verdict = json.loads(done.stdout)
        assert verdict["decision"] == Decision.PUBLISH
        del verdict["champion"]["uri"]  # each publishes below a prefix of its own
        return dict(verdict)

    def online() -> bool:
        found = api.post("/work_pools/apple-silicon/workers/filter", json={}).raise_for_status().json()
        return any(each["status"] == "ONLINE" for each in found)

    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(WHOLE))
    worker = [sys.executable, "-m", "deployments", "worker", "apple-silicon"]
    with running(worker, machine("there", True), tmp_path, "worker"):
        alone = judged(machine("alone", False))
        eventually(online, every=0.5)
        parted = judged(machine("here", True), "pools.tuned=apple-silicon")
    assert same(parted) == same(alone)
    assert (alone["reused"], {"train tiny", "predictions tiny"} <= set(parted["reused"])) == ([], True)
    query = {"flows": {"name": {"any_": ["contend"]}}}
    runs = [each for each in api.post("/flow_runs/filter", json=query).json() if each["parameters"]["config"]["name"] == "fanned"]
    assert [(run["work_pool_name"], run["state_name"], run["parameters"]["contenders"]) for run in runs] == [
        ("apple-silicon", "Completed", ["tiny"])
    ]
    query = {"logs": {"flow_run_id": {"any_": [parted["run_id"]]}}}
    eventually(lambda: "on pool apple-silicon makes tiny" in api.post("/logs/filter", json=query).text)  # the run's page
    trained = tmp_path / "there" / "workspace" / "products" / "train"
    assert len(list(trained.glob("*/record.json"))) == 1
