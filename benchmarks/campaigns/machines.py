"""A bake-off over three machines, one of which is killed: the verdict is that of one machine, and nothing is made or paid for
twice.

Each machine is a worker with a home of its own, empty at first; they share a workspace on a real S3 server, and nothing else. The
bake-off runs on one, its tuned contenders train on the second, its prompt is asked on the third. The second (in another round, the
third) is killed with SIGKILL in the middle of its work, and a fourth takes its place with an empty home.
"""

import json
import logging
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.campaigns.asker import KEY_ENV
from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.flow_kills import differences, products
from benchmarks.campaigns.watch import Watch
from benchmarks.scratch import scratch
from deployments.register import register
from services.s3 import start_s3
from tasks.config import BakeoffConfig
from tasks.settings import Store
from tasks.sharing.growing import SNAPSHOT
from tasks.store import StoreClient, connect
from tasks.tuning.checkpoints import COMPLETE
from tests.flows.test_bakeoff import BAKEOFF, CONFIG, slowly
from tests.live import BIN, Patient, credentials, environment, make_readable, prefect_server, same
from tests.prompting.loopback import Say

log = logging.getLogger(__name__)
CONCURRENCY, EVERY_S, LEASE_S, ANSWER_S = 4, 1.0, 6.0, 0.4
TINY = {**CONFIG["tuned"][0], "epochs": 12}
TUNED = [TINY, {**TINY, "name": "less", "learning_rate": 0.0002, "epochs": 2}]  # no tie, which measured costs would decide
POOLS = {"tuned": "gpu", "prompts": "cpu"}
PARENT = "apple-silicon"
WAIT_S = 900.0
MADE = re.compile(r"(\w+ [0-9a-f]{12}): made and shared")
GOES_ON = "training goes on from its checkpoint"
Kill = tuple[str, str]
"""A pool, and what its worker is in the middle of: `train` or `ask`."""


@dataclass
class World:
    """What the machines have in common."""

    folder: Path
    api: str
    keys: dict[str, str]
    credentials: dict[str, str]
    s3: str
    server: Watch
    life: int = 0
    workers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def readable(self) -> Path:
        """The data and the base model."""
        return self.folder / "readable"

    def environment(self, home: Path, shared: str) -> dict[str, str]:
        """A machine's: its own home, user's folder and device, and the workspace that it shares (none if empty)."""
        self.life += 1
        endpoint = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "json_schema": False, "key_env": KEY_ENV}
        endpoint |= {"base_url": self.server.url, "concurrency": CONCURRENCY}
        store = {"bucket": "machines", "prefix": shared or "alone", "endpoint_url": self.s3}
        told = {"endpoints": {"loopback": endpoint}, "stores": {"ours": store}}
        told |= {"workspace": {"store": "ours", "lease_s": LEASE_S, "every_s": EVERY_S}} if shared else {}
        user = home / "user"
        user.mkdir(parents=True)
        (home / "settings.yaml").write_text(yaml.safe_dump(told))
        names = {"BAKEOFF_HOME": str(home), "BAKEOFF_SETTINGS": str(home / "settings.yaml"), KEY_ENV: f"life-{self.life}"}
        names |= {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(home / "prefect"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        names |= {"PREFECT_LOGGING_TO_API_ENABLED": "false"}  # SQLite has enough to do
        names |= {"HOME": str(user), "XDG_CACHE_HOME": str(user / ".cache"), "HF_HOME": str(user / ".cache" / "huggingface")}
        names |= {"BAKEOFF_MACHINE": home.name}  # else a dead machine's turn of its device would hold up the next one's training
        return environment(**names, **self.keys, BAKEOFF_ROOTS=str(self.readable), PREFECT_WORKER_QUERY_SECONDS="2")

    def shared_store(self, shared: str) -> StoreClient:
        """What the machines of a round share."""
        return connect("ours", Store(bucket="machines", prefix=shared, endpoint_url=self.s3), self.credentials)

    def start(self, home: Path, pool: str, shared: str) -> None:
        """A worker of a pool."""
        env = self.environment(home, shared)
        command = [str(BIN / "prefect"), "worker", "start", "--pool", pool, "--type", "process"]
        with (home / "worker.log").open("wb") as log:
            self.workers[home.name] = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """SIGKILL of a machine: the worker and all that it started."""
        process = self.workers.pop(name)
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in everything:
            with_suppressed(each.kill)
        process.wait()

    def stop(self) -> None:
        """Nobody works any more."""
        for name in list(self.workers):
            self.kill(name)


def with_suppressed(act: Callable[[], object]) -> None:
    """A process may have ended by itself."""
    try:
        act()
    except psutil.NoSuchProcess:
        return


@dataclass
class Round:
    """What a fan-out over machines came to."""

    verdict: dict[str, Any]
    sent: list[tuple[int, str]]
    made: Counter[str]
    files: dict[str, dict[str, str]]
    seconds: float
    taken_over_s: float = 0.0
    """From the kill until another machine was at the same work: until it trained on, or asked."""
    rerun_runs: int = 0
    """Runs that the same bake-off, run again, started on other machines."""
    rerun_s: float = 0.0
    asked_again: int = 0
    """Calls of the rerun."""


def run(options: Options) -> list[Figure]:
    """The figures."""
    with opened() as world:
        alone = unbroken(world)
        log.info("on one machine: %.0f s", alone.seconds)
        rounds = {kill: fan_out(world, kill) for kill in (None, ("gpu", "train"), ("cpu", "ask"))}
        cancelled = cancel(world)
    told = list(rounds.values())
    wrong = [text for each in told for text in differences(of(each.verdict), of(alone.verdict))]
    needed = Counter(body for _, body in alone.sent)
    again = {kill: sum((Counter(body for _, body in each.sent) - needed).values()) for kill, each in rounds.items()}
    return [
        Figure("machines", 3, ">= 3", "workers with homes of their own, empty at first; a fourth for the killed one"),
        Figure("verdicts_that_differ", len(wrong), "== 0", "; ".join(wrong[:5]) or f"of {len(told)}, from that of one machine"),
        Figure("trained_files_that_differ", sum(other_bytes(alone, each) for each in told), "== 0", "by SHA-256"),
        Figure("products_made_twice", sum(count - 1 for each in told for count in each.made.values()), "== 0", made_note(told)),
        Figure("paid_twice_without_a_kill", again[None] + again["gpu", "train"], "== 0", f"of {needed.total()} a round"),
        Figure("paid_twice_after_a_kill", again["cpu", "ask"], f"<= {CONCURRENCY}", "calls under way, whose answers nobody heard"),
        Figure("runs_that_a_rerun_starts", told[0].rerun_runs, "== 0", f"in {told[0].rerun_s:.0f} s"),
        Figure("calls_of_a_rerun", told[0].asked_again, "== 0"),
        Figure("cancelled_with_the_bake_off", cancelled, ">= 3", "runs on other machines, one not yet begun"),
        Figure("taken_over_s", rounds["gpu", "train"].taken_over_s, note=f"lease {LEASE_S:g} s; told at once of the crash"),
        Figure("seconds", told[0].seconds, note=f"over three machines of one computer; on one {alone.seconds:.0f}"),
    ]


def of(verdict: dict[str, Any]) -> Any:
    """What must be the same; each round has a folder of its own in the store."""
    champion = {name: value for name, value in (verdict["champion"] or {}).items() if name != "uri"}
    return {**same(verdict), "decision": verdict["decision"], "champion": champion}


def unhurried(request: dict[str, Any], number: int) -> Say:
    """A model that takes long enough to be killed in the middle of."""
    return replace(slowly(request, number), after_s=ANSWER_S)


def made_note(rounds: list[Round]) -> str:
    """How many products a round makes."""
    return f"of {', '.join(str(len(each.made)) for each in rounds)} in the rounds"


@contextmanager
def opened() -> Iterator[World]:
    """A Prefect server with pools and deployments, S3, an endpoint, and no machine yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        (folder / "server").mkdir()
        (folder / "readable").mkdir()
        make_readable(folder / "readable")
        api = stack.enter_context(prefect_server(folder / "server"))
        s3 = stack.enter_context(start_s3(folder / "store"))
        server = stack.enter_context(Watch(unhurried))
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
        connect("ours", Store(bucket="machines", endpoint_url=s3.endpoint_url, create=True), credentials(s3)).check()
        with temporary_settings({PREFECT_API_URL: api}):
            register(config_of(), nightly=[])
        world = World(folder, api, keys, credentials(s3), s3.endpoint_url, server)
        stack.callback(world.stop)
        yield world


def config_of(pools: dict[str, str] | None = None) -> BakeoffConfig:
    """The bake-off."""
    return BakeoffConfig.model_validate({**CONFIG, "name": "machines", "tuned": TUNED, "store": "ours", "pools": pools or {}})


def unbroken(world: World) -> Round:
    """The same bake-off on one machine, its workspace its own."""
    home = world.folder / "alone"
    env = world.environment(home, "")
    (home / "machines.yaml").write_text(yaml.safe_dump(config_of().model_dump(mode="json")))
    started = time.monotonic()
    command = [*BAKEOFF, str(home / "machines.yaml"), "--output", "json"]
    done = subprocess.run(command, env=env, cwd=world.readable, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"the run ended with status {done.returncode}: {done.stderr[-3000:]}")
    return Round(json.loads(done.stdout), list(world.server.sent), Counter(), products(home), time.monotonic() - started)


def fan_out(world: World, kill: Kill | None) -> Round:
    """The bake-off over three machines, one of them killed; then once more, with all there."""
    name = f"{kill[0]}-killed" if kill else "whole"
    first = len(world.server.sent)
    homes = {pool: world.folder / f"{name}-{pool}" for pool in (PARENT, *POOLS.values())}
    for pool, home in homes.items():
        world.start(home, pool, name)
    with Patient(base_url=world.api, timeout=60) as api:
        await_workers(api, homes)
        started, taken_over = time.monotonic(), 0.0
        parent = begin(api)
        if kill:
            taken_over = kill_and_replace(world, api, parent, homes[kill[0]], kill, name, first)
        finish(api, parent, world)
        seconds = time.monotonic() - started
        verdict = verdict_of(homes[PARENT], parent)
        sent = world.server.sent[first:]
        told = Round(verdict, sent, made_in(world.folder, name), products(homes[PARENT]), seconds, taken_over)
        if not kill:
            before, started = len(children(api)), time.monotonic()
            finish(api, begin(api), world)
            told.rerun_runs, told.rerun_s = len(children(api)) - before, time.monotonic() - started
            told.asked_again = len(world.server.sent) - first - len(sent)
    world.stop()
    log.info("%s: %.0f s, %d products, %d calls", name, told.seconds, len(told.made), len(told.sent))
    return told


def kill_and_replace(world: World, api: httpx.Client, parent: str, home: Path, kill: Kill, name: str, first: int) -> float:
    """Kill a machine in the middle of its work; the dead run is begun again, and a new machine takes it. Seconds until it works."""
    pool, what = kill
    store = world.shared_store(name)

    def training() -> bool:
        made = any((home / "workspace").glob(f"inprogress/train/*/checkpoints/*/{COMPLETE}"))
        return made and checkpoint_sent(store)

    def asking() -> bool:
        return len(world.server.sent) >= first + 40

    until(training if what == "train" else asking, f"{what} on {pool}")
    world.kill(home.name)
    at = time.monotonic()
    if what == "train" and not checkpoint_sent(store):
        raise RuntimeError("the training ended before it was killed")
    dead = [each for each in children(api) if each["state_type"] == "RUNNING" and each["work_pool_name"] == pool]
    for each in dead:  # as the automation would that finds silent runs, a minute and a half later; another begins it again
        ask(api, f"/flow_runs/{each['id']}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    if not dead:  # it may have several: a contender each, of which one trains and the others wait for their turn
        raise RuntimeError("the killed machine had no run")
    home = world.folder / f"{name}-{pool}-next"
    world.start(home, pool, name)
    log.info("killed the machine of %s while it was to %s", pool, what)
    begun = GOES_ON if what == "train" else "left under the cap"
    until(lambda: begun in said(home), f"{what} on the next machine")
    return time.monotonic() - at


def checkpoint_sent(store: StoreClient) -> bool:
    """Whether another machine that took over a training now would go on from a whole checkpoint."""
    sent = [each.key for each in store.listed("workspace", "inprogress", "train") if each.key.endswith(f"/{SNAPSHOT}")]
    return any(found is not None and COMPLETE.encode() in found[0] for found in map(store.read, sent))


def cancel(world: World) -> int:
    """Cancel a bake-off that waits for its runs; how many of these end cancelled."""
    name = "cancelled"
    homes = {pool: world.folder / f"{name}-{pool}" for pool in (PARENT, *POOLS.values())}
    for pool, home in homes.items():
        world.start(home, pool, name)
    with Patient(base_url=world.api, timeout=60) as api:
        await_workers(api, homes)
        before = {each["id"] for each in children(api)}
        parent = begin(api)
        ours: Callable[[], list[dict[str, Any]]] = lambda: [each for each in children(api) if each["id"] not in before]  # noqa: E731
        until(lambda: sum(each["state_type"] == "RUNNING" for each in ours()) >= 2, "two runs on other machines")
        ask(api, f"/flow_runs/{parent}/set_state", {"state": {"type": "CANCELLING"}})
        until(lambda: all(each["state_type"] in ("CANCELLED", "COMPLETED") for each in ours()), "cancelled runs")
        found = sum(each["state_type"] == "CANCELLED" for each in ours())
    world.stop()
    return found


def await_workers(api: httpx.Client, pools: dict[str, Path]) -> None:
    """Until the server knows of a worker in every pool that was heard of just now."""

    def online(pool: str) -> bool:
        found = ask(api, f"/work_pools/{pool}/workers/filter", {})
        return any(each["status"] == "ONLINE" for each in found)

    until(lambda: all(online(pool) for pool in pools), f"workers of {', '.join(pools)}")


def begin(api: httpx.Client) -> str:
    """A run of the bake-off, in the parent's pool."""
    deployment = ask(api, f"/deployments/name/bakeoff/{PARENT}")["id"]
    body = {"parameters": {"config": config_of(POOLS).model_dump(mode="json")}}
    return str(ask(api, f"/deployments/{deployment}/create_flow_run", body)["id"])


def children(api: httpx.Client) -> list[dict[str, Any]]:
    """All runs that make contenders for others."""
    return list(ask(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["contend"]}}}))


def ask(api: httpx.Client, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server says; not oftener than once a second."""
    time.sleep(1)
    return (api.get(path) if body is None else api.post(path, json=body)).raise_for_status().json()


def finish(api: httpx.Client, run: str, world: World) -> None:
    """Raises RuntimeError where a run does not end well."""
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    until(lambda: ask(api, f"/flow_runs/{run}")["state_type"] in ended, f"end of {run}")
    state = ask(api, f"/flow_runs/{run}")["state"]
    if state["type"] != "COMPLETED":
        logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in world.folder.glob("*/worker.log"))
        raise RuntimeError(f"run {run} is {state['type']}: {state['message']}\n{logs}")


def verdict_of(home: Path, run: str) -> dict[str, Any]:
    """What the parent's machine keeps of a run."""
    return dict(json.loads((home / "workspace" / "runs" / run / "verdict.json").read_text()))


def made_in(folder: Path, name: str) -> Counter[str]:
    """How often each product was made, over the machines of a round; by their logs."""
    return Counter(found for home in folder.glob(f"{name}-*") for found in MADE.findall(said(home)))


def said(home: Path) -> str:
    """A worker's log and that of its runs, on one line."""
    return " ".join((home / "worker.log").read_text(errors="replace").split())


def other_bytes(alone: Round, other: Round) -> int:
    """Files of trained contenders that differ, or are missing."""
    trained = {name: files for name, files in alone.files.items() if name.startswith("train/")}
    own = {"record.json"}  # seconds are in it
    pairs = [
        (other.files.get(name, {}).get(file), sha)
        for name, files in trained.items()
        for file, sha in files.items()
        if file not in own
    ]
    if len(trained) != len(TUNED):
        raise RuntimeError(f"{len(trained)} trainings, not {len(TUNED)}")
    return sum(here != there for here, there in pairs)


def until(there: Callable[[], bool], what: str) -> None:
    """Raises RuntimeError where something does not come to be."""
    deadline = time.monotonic() + WAIT_S
    while not there():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {WAIT_S:.0f} s for: {what}")
        time.sleep(0.1)
