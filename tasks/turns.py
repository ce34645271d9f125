"""Trainings on one accelerator take turns, whichever runs they belong to; whatever else runs do is not held up.

A turn is a slot of one of the Prefect server's global concurrency limits, one a machine and device, held by a lease: it comes free
when its holder is done, and when the holder died within `LEASE_S` and some seconds, or at once where another run of the same home
wants it: who holds a turn holds a lock on a file named after the lease. Without a server nothing is waited for.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL

from tasks.device import device_in_words
from tasks.errors import Stopped
from tasks.interrupt import INTERRUPTED, when_interrupted

logger = logging.getLogger(__name__)

LEASE_S = 60.0
"""So long a turn is kept for a holder that says nothing; Prefect takes no shorter lease."""
AGAIN_S = 3.0
"""Who waits for a turn asks again after so long."""
UNHEARD = (httpx.HTTPError, PrefectException, ConcurrencySlotAcquisitionError, OSError)
"""What comes of a server that is out of reach."""


def turn_name() -> str:
    """What the limit is called in Prefect's UI: this machine and its device.

    In a pod the host's name is the pod's own, so there `BAKEOFF_MACHINE` says on which node it runs.
    """
    machine = os.environ.get("BAKEOFF_MACHINE") or socket.gethostname()
    return f"training on {re.sub(r'[^A-Za-z0-9._-]+', '-', machine)} ({device_in_words()})"


@contextmanager
def training_turn(folder: Path) -> Iterator[None]:
    """The device of this machine, for the time of a `with`.

    While the server is out of reach a training does not wait for it: it may then meet another one.

    Args:
        folder: where the runs of this home note who holds a turn.

    Raises:
        Stopped: the run is to end; nothing was begun.
    """
    name = turn_name()
    with _given_back(name) as held:
        try:
            if PREFECT_API_URL.value():
                _make(name)
                _wait_for(name, folder, held)
        except UNHEARD as error:
            logger.warning("the Prefect server gives no turn of %r, so the training starts without: %s", name, _why(error))
        yield


@contextmanager
def _given_back(name: str) -> Iterator[ExitStack]:
    """What is entered into the stack is left again. Where the server is out of reach by then, the training is done all the same."""
    held = ExitStack()
    try:
        yield held
    finally:
        try:
            held.close()
        except UNHEARD as error:
            logger.warning("the turn of %r could not be given back, and is free in %.0f s: %s", name, LEASE_S, _why(error))


def _wait_for(name: str, folder: Path, held: ExitStack) -> None:
    """Enter the slot into `held` as soon as it is free."""
    stop, told = Event(), False
    kept = held.enter_context(ConcurrencyContext())
    with when_interrupted(stop.set):
        while True:
            if _looks_free(name) and _taken(name, held):
                _note(kept.cleanup_lease_ids[-1], folder, held)
                return
            if not told:
                logger.info("%s: another run trains, this one waits for its turn", name)
            told = True
            if not _free_dead(folder) and stop.wait(AGAIN_S):
                raise Stopped(INTERRUPTED)


def _looks_free(name: str) -> bool:
    """Looked at first, since Prefect logs an error for each slot that is refused."""
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
    return limit.active_slots < limit.limit


def _taken(name: str, held: ExitStack) -> bool:
    """Enter the slot, unless another one was quicker."""
    try:
        slot = concurrency(name, lease_duration=LEASE_S, max_retries=0, strict=True, raise_on_lease_renewal_failure=False)
        held.enter_context(slot)
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED:
            return False
        raise
    return True


def _note(lease: UUID, folder: Path, held: ExitStack) -> None:
    """Hold the lock that tells other runs of this home that the holder of the lease lives."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{lease}.lock"
    held.enter_context(FileLock(path))
    held.callback(partial(path.unlink, missing_ok=True))


def _free_dead(folder: Path) -> bool:
    """Give back the turns whose holders died; whether there were any."""
    freed = False
    for path in folder.glob("*.lock"):
        try:
            with FileLock(path, timeout=0), get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(UUID(path.stem))
                path.unlink(missing_ok=True)
                freed = True
        except Timeout:
            logger.debug("the holder of %s lives", path.stem)
    return freed


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _make(name: str) -> None:
    """Make the limit where it is not there. One that an operator has set otherwise stays as it is."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            except ObjectAlreadyExists:
                logger.debug("%s: another run made it just now", name)
