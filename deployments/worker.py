"""`python -m deployments worker POOL`: a worker of a process pool that ends well.

Prefect's own worker, told to stop, kills its runs at once, and they stay `Running` until somebody notices. This one, which is
Prefect's but for its end, then waits until trainings have written down where they are, and gives its runs back: the next worker of
the pool, or this one when it starts again, goes on with them.
"""

import asyncio
import logging
import os
import platform
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil

from deployments.pools import refuse_unknown
from tasks.child import GRACE_S
from tasks.errors import BadConfig, MissingPart
from tasks.settings import settings_file

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State

logger = logging.getLogger(__name__)

SERVER_S = 180.0
"""So long a worker waits for the server and its pool: `make up` starts all at once."""
AGAIN_S = 0.3
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""The environment variable by which a process knows its run."""


def work(pool: str, healthcheck: bool = False) -> None:
    """Work until SIGTERM or Ctrl-C.

    Raises:
        BadConfig: there is no such pool, or its runs are no processes, or the settings' file is not there.
        MissingPart: the server or the pool did not come.
    """
    refuse_unknown(pool)
    if file := settings_file():
        os.environ["BAKEOFF_SETTINGS"] = str(file)  # its runs have working folders of their own
    asyncio.run(_work(pool, healthcheck))


async def _work(pool: str, healthcheck: bool) -> None:
    from prefect.workers.process import ProcessWorker

    await _find(pool)
    worker = ProcessWorker(name=f"{platform.node()} {pool}", work_pool_name=pool, create_pool_if_not_found=False)
    working = asyncio.create_task(worker.start(with_healthcheck=healthcheck, printer=logger.info))
    left: list[psutil.Process] = []
    runs: set[UUID] = set()

    def stop() -> None:
        if not left:
            left.extend(psutil.Process().children(recursive=True))  # looked at now: soon they have another parent
            runs.update(run for process in left if (run := _run_of(process)))
            logger.info("told to stop: %d runs are given back", len(runs))
            working.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await working
    await asyncio.to_thread(_wait_for, left)
    await _give_back(runs)


async def _find(pool: str) -> None:
    """Wait until the server answers and has the pool."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    trouble, deadline = "", asyncio.get_running_loop().time() + SERVER_S
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with get_client() as client:
                found = await client.read_work_pool(pool)
        except ObjectNotFound:
            trouble = f"the Prefect server has no work pool {pool!r} (make deploy)"
        except httpx.TransportError as error:
            trouble = f"the Prefect server does not answer ({error}): start it, or correct PREFECT_API_URL"
        else:
            if found.type != "process":
                how = f"prefect worker start --pool {pool} --type {found.type}"
                raise BadConfig(f"the runs of work pool {pool!r} are of type {found.type!r}, not processes: {how}")
            return
        await asyncio.sleep(AGAIN_S)
    raise MissingPart(f"no worker for {pool}: {trouble}")


def _run_of(process: psutil.Process) -> UUID | None:
    """The run that a process belongs to."""
    with suppress(psutil.Error, ValueError):
        return UUID(process.environ().get(RUN_ID, ""))
    return None


def _wait_for(processes: list[psutil.Process]) -> None:
    """Until they have ended; those that take longer than their grace are killed."""
    _, slow = psutil.wait_procs(processes, timeout=GRACE_S + 5)
    for process in slow:
        logger.warning("process %d did not end within %.0f s: killed", process.pid, GRACE_S + 5)
        with suppress(psutil.NoSuchProcess):
            process.kill()


async def _give_back(runs: Collection[UUID]) -> None:
    """Schedule the runs again that were under way: on the same id, so that they go on from what they kept."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    if not runs:
        return
    async with get_client() as client:
        for run in runs:
            try:
                if told := await _hand_in(client, run):
                    logger.info("run %s: %s", run, told)
            except (httpx.HTTPError, PrefectException) as error:  # the others all the same; the server's automation finds it later
                logger.warning("run %s could not be given back: %s", run, error)


async def _hand_in(client: "PrefectClient", run: UUID) -> str:
    """Tell the server what becomes of a run whose process is gone; its answer in words, empty where the run had ended before."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import AwaitingRetry, Cancelled

    state = (await client.read_flow_run(run)).state
    if not state or not (state.is_running() or state.is_pending() or state.is_paused() or state.is_cancelling()):
        return ""
    wanted: State[Any] = (
        Cancelled(message="its worker was stopped while it was being cancelled")
        if state.is_cancelling()
        else AwaitingRetry(message="its worker was stopped; it goes on from what it kept")  # paused: it waits for a person
    )
    answer = await client.set_flow_run_state(run, wanted)
    if answer.status is SetStateStatus.ACCEPT:
        return "cancelled, as somebody wished" if state.is_cancelling() else "given back"
    became = answer.state.name if answer.state else state.name
    return f"not given back, the server left it {became} ({getattr(answer.details, 'reason', None) or answer.status.value})"
