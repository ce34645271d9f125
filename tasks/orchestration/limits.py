"""An endpoint's limits a minute, kept across all runs on a Prefect server."""

import asyncio
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from tasks.orchestration.page import artifact_key
from tasks.settings import Endpoint

logger = logging.getLogger(__name__)
SAVED_S = 2.0
"""So many seconds of an endpoint's limit can be saved up on the server while nobody asks; they count into its minute."""
TAKEN_S = 1.0
"""So many seconds of it are taken at once, so that not every request waits for the server's word."""
SLOTS = {"requests": 1000, "tokens": 1}
"""How many of a limit's slots are one of these: the server rounds down to whole slots what came free since it last gave some."""
SCATTER_S = 0.3
"""Those who wait for the same slots come back within so many seconds: SQLite sends away who comes at the very same moment."""
SERVER_WAIT_S = 15.0
"""A server that says nothing for so long is out of reach."""
ALONE_S = 60.0
"""So long a process then keeps the limits for itself, before it tries the server again."""


def limits_of_server(name: str, endpoint: Endpoint) -> "ServerLimits | None":
    """What keeps a named endpoint's limits a minute across all runs on this Prefect server.

    Returns: None where the endpoint has no such limit, or no server is there: each process then keeps the limits for itself.
    """
    limited = endpoint.requests_per_minute or endpoint.tokens_per_minute
    return ServerLimits(name, endpoint) if limited and (PREFECT_API_URL.value() or flow_run.id) else None


class ServerLimits:
    """A `SharedLimit` (`tasks/settings.py`) by Prefect's global concurrency limits, whose slots decay with time.

    They are made, or brought up to the settings, when something is first asked for, and are named after the endpoint alone. While
    the server is out of reach nothing waits for it: rows go on at the pace that each process keeps.
    """

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = artifact_key("bakeoff", name)
        self._per_minute = {"requests": endpoint.requests_per_minute, "tokens": endpoint.tokens_per_minute}
        self._hands: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hand] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._alone_until = 0.0

    async def take(self, requests: int, tokens: int) -> None:
        """Wait until the server grants so much; less than 0 gives back."""
        hand, wanted = self._hand(), {"requests": requests, "tokens": tokens}
        if max(requests, tokens) <= 0:
            for kind, purse in hand.purses.items():
                purse.in_hand -= wanted[kind] * SLOTS[kind]
            return
        async with hand.turn:
            if time.monotonic() < self._alone_until:
                return
            try:
                for kind, purse in hand.purses.items():
                    await purse.take(wanted[kind] * SLOTS[kind])
            except (httpx.HTTPError, PrefectException, OSError) as error:
                self._alone_until = time.monotonic() + ALONE_S
                logger.warning(
                    "the Prefect server does not say how fast %s may be asked: this process keeps the limits a minute alone, and "
                    "asks again in %.0f s (%s)",
                    self._name,
                    ALONE_S,
                    str(error) or type(error).__name__,
                )

    def _hand(self) -> "_Hand":
        """What this event loop has taken; loops share nothing that one of them may wait for."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._hands:
                self._hands[loop] = _Hand({kind: _Purse(self._name, kind, most) for kind, most in self._per_minute.items() if most})
            return self._hands[loop]


@dataclass
class _Hand:
    purses: dict[str, "_Purse"]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Purse:
    """Slots of one of the server's limits that were taken and not used yet; what is left at the end is lost."""

    def __init__(self, name: str, kind: str, per_minute: int) -> None:
        self.name, self.in_hand = f"{name}-{kind}", 0
        one = SLOTS[kind]
        self.saved = max(one, round(per_minute * one * SAVED_S / 60))
        self.batch = max(one, round(per_minute * one * TAKEN_S / 60))
        self.per_s = (per_minute * one - (self.saved - one)) / 60  # what was saved up can be used within the same minute
        self._made = False

    async def take(self, slots: int) -> None:
        while self.in_hand < slots:
            await asyncio.sleep(await self._fetch())
        self.in_hand -= slots

    async def _fetch(self) -> float:
        """Take slots from the server if it has so many now; else how many seconds they are away."""
        async with asyncio.timeout(SERVER_WAIT_S), get_client() as client:
            if not self._made:
                await self._make(client)
            try:
                reply = await client.increment_concurrency_slots([self.name], self.batch, "rate_limit")
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.LOCKED:
                    raise
            else:
                self._made = bool(reply.json())  # else somebody deleted it
                self.in_hand += self.batch if self._made else 0
                return 0.0
            # not as its Retry-After says, which is drawn at random: what comes free meanwhile beyond `saved` would be lost
            limit = await client.read_global_concurrency_limit_by_name(self.name)
        missing = limit.active_slots + self.batch - limit.limit
        return max(0.0, missing / self.per_s) + random.uniform(0, SCATTER_S)  # noqa: S311

    async def _make(self, client: PrefectClient) -> None:
        try:
            await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
        except ObjectAlreadyExists:  # another run made it just now
            await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
        self._made = True
