"""The arms of one bake-off as runs on other machines' work pools, each of the flow `contend`; this run waits for them."""

import time
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_logger
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from services.bench import Bench
from tasks.config import BakeoffConfig, Interview, Pool, Prompt, Technique, Tuned
from tasks.errors import BadConfig, RunFailed
from tasks.evaluation.made import is_made
from tasks.records import DatasetRecord
from tasks.tuning.stage import find_base

logger = get_logger("flow_runs.fan_out")  # Prefect shows these on the run's page; it hears no logger called `flows`
POLL_S = 2.0
UNTAKEN_S = 60.0
"""A run that no worker has taken for so long is told of; one that is online asks for runs every few seconds."""
UNTAKEN_AGAIN_S = 300.0
"""And again each time that so much more has passed."""
CRASHED_FOR_S = 180.0
"""A crashed run may be started again, by an automation or by hand, and then goes on: it is given so long."""
UNHEARD_S = 600.0
"""So long the server may be down."""
Share = tuple[str, list[str]]
"""A pool, and the contenders that one run there makes."""
Untaken = tuple[float, float]
"""Since when no worker has taken a run, and when that is to be said next."""


def check_pools(config: BakeoffConfig, bench: Bench) -> None:
    """What can be known at once of contenders that are made elsewhere.

    Raises:
        BadConfig: the workspace is not shared, or no Prefect server is named.
    """
    if not shares(config, contenders_of(config)):
        return
    if bench.shelf is None:
        raise BadConfig(
            "pools sends contenders to other machines, but the workspace is this one's alone: name a store that all machines reach "
            "in the settings (workspace.store, or BAKEOFF_WORKSPACE__STORE), or set pools to here"
        )
    if not PREFECT_API_URL.value():
        raise BadConfig(
            "pools sends contenders to other machines, but no Prefect server is named: start one and set PREFECT_API_URL, or set "
            "pools to here"
        )


def fan_out(config: BakeoffConfig, dataset: DatasetRecord, bench: Bench) -> None:
    """Have contenders made on the pools that the config names, and wait for them. Afterwards they are in the workspace, and what
    they took counts as this run's. No run is started for what is there already.

    Raises:
        BadConfig: a pool has no online worker, or no deployment; nothing was spent.
        RunFailed: a run there did not make its contenders.
    """
    away = [each for each in contenders_of(config) if shares(config, [each])]
    for tuned in config.tuned if away else ():
        find_base(tuned, bench.settings, bench.workspace)  # what is wrong comes out before anybody is paid
    around = config, dataset, bench.places, bench.cap, bench.workspace
    wanted = shares(config, [each for each in away if not is_made(each, *around)])
    if wanted:
        with get_client(sync_client=True) as client:
            _make_there(client, config, on_other_pools(client, wanted), bench)


def on_other_pools(client: SyncPrefectClient, wanted: list[Share]) -> list[Share]:
    """What this run does not make itself. It makes what its own pool is to make: it has a place there until it ends, and as many
    bake-offs as the pool has places would wait for ever for a place for their contenders."""
    own = client.read_flow_run(UUID(str(flow_run.id))).work_pool_name
    for pool, names in wanted:
        if pool == own:
            logger.info("this run has a place on pool %s, and makes %s itself", pool, ", ".join(names))
    return [(pool, names) for pool, names in wanted if pool != own]


def _make_there(client: SyncPrefectClient, config: BakeoffConfig, others: list[Share], bench: Bench) -> None:
    for pool in sorted({pool for pool, _ in others}):
        refuse_idle(client, pool)
    left = config.budget.model_copy(update={"usd": max(0.0, bench.cap.usd - bench.cap.spent_usd)})
    waiting: dict[UUID, FlowRun] = {}
    try:
        for share in others:
            run = _start(config.model_copy(update={"budget": left, "grader": None}), share)  # grading is paid for here
            waiting[run.id] = run
            bench.account.add(str(run.id))
        runs = list(waiting)
        problems = _wait(client, waiting)
    except BaseException as error:
        if isinstance(error, Exception) or not _goes_on(client):
            cancel_runs(waiting)
        raise
    for each in runs:
        bench.account.count(str(each))
    if problems:
        raise RunFailed(f"{'; '.join(problems)}: what was made is kept; run again to go on")


def contenders_of(config: BakeoffConfig) -> list[Tuned | Prompt]:
    """Those that can be made elsewhere."""
    return [*config.tuned, *config.prompts]


def shares(config: BakeoffConfig, contenders: Iterable[Tuned | Prompt]) -> list[Share]:
    """Which of these contenders are made elsewhere: a run for each tuned one, one for all prompted ones, which share the cap. A
    prompt that interviews a person is made here, where the person is asked."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in contenders:
        pool = config.pools.tuned if isinstance(each, Tuned) else config.pools.prompts
        if pool is not Pool.HERE and not _asks_person(each):
            found[pool.value, each.name if isinstance(each, Tuned) else ""].append(each.name)
    return [(pool, names) for (pool, _), names in found.items()]


def cancel_runs(runs: Iterable[UUID]) -> None:
    """Have runs on other machines end."""
    with get_client(sync_client=True) as client:
        for run in runs:
            try:
                logger.info("run %s is cancelled: %s", run, client.set_flow_run_state(run, Cancelling()).status.value)
            except (httpx.HTTPError, PrefectException) as error:  # this run ends all the same, and so must the others
                logger.warning("run %s could not be cancelled, and goes on by itself: %s", run, error)


def _goes_on(client: SyncPrefectClient) -> bool:
    """Whether this run, which is being stopped, will be begun again on another worker, and then finds its runs at work: so it is
    where its own worker is stopped, and not where it is cancelled, or was called as a function."""
    state = client.read_flow_run(UUID(str(flow_run.id))).state
    return bool(deployment.id and state and state.type in (StateType.RUNNING, StateType.SCHEDULED, StateType.PENDING))


def _asks_person(contender: Tuned | Prompt) -> bool:
    if isinstance(contender, Tuned):
        return False
    return Technique.FLIPPED in contender.techniques and contender.interview is Interview.HUMAN


def refuse_idle(client: SyncPrefectClient, pool: str) -> None:
    """Raises BadConfig where nobody would take a run from a pool."""
    try:
        client.read_deployment_by_name(f"contend/{pool}")
        workers = client.read_workers_for_work_pool(pool, offset=0, limit=200)  # without them it sends null, which is refused
    except ObjectNotFound:
        raise BadConfig(f"pools names {pool!r}, which the Prefect server does not know: register it with `make deploy`") from None
    if not any(worker.status is WorkerStatus.ONLINE for worker in workers):
        raise BadConfig(
            f"pools names {pool!r}, which has no online worker: start one there (make worker POOL={pool}), or set it to here"
        )


def _start(config: BakeoffConfig, share: Share) -> FlowRun:
    """A run there: one that this run started before, in an earlier life, if it has not ended."""
    pool, names = share
    said = ", ".join(names)
    for number in range(1, 1000):
        run = run_deployment(
            f"contend/{pool}",
            parameters={"config": config.model_dump(mode="json"), "contenders": names},
            flow_run_name=f"{config.name}: {said}",
            timeout=0,
            idempotency_key=f"{flow_run.id} {pool} {said} {number}",
        )
        assert isinstance(run, FlowRun)
        if run.state is None or not run.state.is_final():
            logger.info("run %s on pool %s makes %s", run.name, pool, said)
            return run
    raise RunFailed(f"a thousand runs on pool {pool!r} ended and {said} is not made: see why on their pages")


def _wait(client: SyncPrefectClient, waiting: dict[UUID, FlowRun]) -> list[str]:
    """Until all have ended; what went wrong with them. Those that have are taken out of `waiting`."""
    problems: list[str] = []
    crashed: dict[UUID, float] = {}
    untaken: dict[UUID, Untaken] = {}
    while waiting:
        time.sleep(POLL_S)
        for run in [_look(client, each) for each in waiting]:
            _tell_untaken(run, untaken)
            problem = _problem(run, crashed)
            if problem is not None:
                del waiting[run.id]
                problems += filter(None, [problem])
    return problems


def _tell_untaken(run: FlowRun, untaken: dict[UUID, Untaken]) -> None:
    """Say of a run that no worker takes for how long, and what can be done. It may be behind others' work, so it is waited for."""
    if run.state is None or run.state.type is not StateType.SCHEDULED:
        untaken.pop(run.id, None)
        return
    now = time.monotonic()
    since, due = untaken.setdefault(run.id, (now, now + UNTAKEN_S))
    if now < due:
        return
    untaken[run.id] = since, now + UNTAKEN_AGAIN_S
    logger.warning(
        "run %r (%s) has waited for %.0f s on pool %r, and no worker has taken it: see on the pool's page that a worker is online "
        "(make worker POOL=%s) and whether all its places are taken; where those runs wait for others themselves, raise its limit "
        "(prefect work-pool set-concurrency-limit %s NUMBER)",
        *(run.name, run.id, now - since, run.work_pool_name, run.work_pool_name, run.work_pool_name),
    )


def _problem(run: FlowRun, crashed: dict[UUID, float]) -> str | None:
    """None while a run goes on; empty where it made its contenders; else what became of it."""
    state = run.state
    if state is None or not state.is_final():
        crashed.pop(run.id, None)
        return None
    if state.type is StateType.COMPLETED:
        return ""
    if state.type is StateType.CRASHED:
        since = crashed.setdefault(run.id, time.monotonic())
        if time.monotonic() - since < CRASHED_FOR_S:
            return None
    return f"run {run.name!r} ({run.id}) on pool {run.work_pool_name!r} is {state.name}: {state.message or 'without a word'}"


def _look(client: SyncPrefectClient, run: UUID) -> FlowRun:
    """A run as the server knows it; a server that is down is waited for."""
    deadline = time.monotonic() + UNHEARD_S
    while True:
        try:
            return client.read_flow_run(run)
        except httpx.HTTPError as error:
            theirs = not isinstance(error, httpx.HTTPStatusError) or error.response.is_server_error
            if not theirs or time.monotonic() > deadline:
                raise
            logger.warning("the Prefect server does not answer, and is asked again: %s", error or type(error).__name__)
            time.sleep(POLL_S)
