"""Trainings on one accelerator take turns, whichever runs they belong to; whatever else runs do is not held up.

A turn is a slot of one of the Prefect server's global concurrency limits, one a machine and device, held by a lease: it comes free
when its holder is done, and within `LEASE_S` and some seconds when the holder died. Without a server nothing is waited for.
"""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event

import httpx
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
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


def turn_name() -> str:
    """What the limit is called in Prefect's UI: this machine and its device."""
    return f"training on {re.sub(r'[^A-Za-z0-9._-]+', '-', socket.gethostname())} ({device_in_words()})"


@contextmanager
def training_turn() -> Iterator[None]:
    """The device of this machine, for the time of a `with`.

    While the server is out of reach a training does not wait for it: it may then meet another one.

    Raises:
        Stopped: the run is to end; nothing was begun.
    """
    with ExitStack() as held:
        if PREFECT_API_URL.value():
            name = turn_name()
            try:
                _make(name)
                _wait_for(name, held)
            except (httpx.HTTPError, PrefectException, ConcurrencySlotAcquisitionError, OSError) as error:
                why = str(error) or type(error).__name__
                logger.warning("the Prefect server gives no turn of %r, so the training starts without: %s", name, why)
        yield


def _wait_for(name: str, held: ExitStack) -> None:
    """Enter the slot into `held` as soon as it is free."""
    stop, told = Event(), False
    with when_interrupted(stop.set):
        while True:
            try:
                slot = concurrency(name, lease_duration=LEASE_S, max_retries=0, strict=True, raise_on_lease_renewal_failure=False)
                held.enter_context(slot)
                return
            except ConcurrencySlotAcquisitionError as error:
                if not _is_taken(error):
                    raise
            if not told:
                logger.info("%s: another run trains, this one waits for its turn", name)
            told = True
            if stop.wait(AGAIN_S):
                raise Stopped(INTERRUPTED)


def _is_taken(error: ConcurrencySlotAcquisitionError) -> bool:
    cause = error.__cause__
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED


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
