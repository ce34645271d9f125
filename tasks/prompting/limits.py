"""How fast an endpoint may be asked: its limits a minute, the waits that it asks for, and how many requests it bears at once.

`Pacer` is one for an endpoint's model in a process and safe between threads and event loops. `Gate` is one for a client. What holds
across processes is a `SharedLimit`; without one each process keeps the limits for itself alone.
"""

import asyncio
import logging
import threading
import time
from collections import deque

from tasks.settings import Endpoint

logger = logging.getLogger(__name__)
USED_SHARE = 0.99
"""Of what is allowed; the rest is for requests that arrive a little closer together than they were sent."""


class Pacer:
    """Sends requests evenly, never in bursts: each is given its time, one after another.

    A server that counts by the second refuses a burst that a minute would allow, and a time that was given away in advance is not
    lost when the one before it starts late.
    """

    def __init__(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self.concurrency: int | None = None
        """What the endpoint was last found to bear at once; None where not known."""
        self._request_s = 60 / (requests_per_minute * USED_SHARE) if requests_per_minute else 0.0
        self._token_s = 60 / (tokens_per_minute * USED_SHARE) if tokens_per_minute else 0.0
        self._next_request = self._next_token = self._paused_until = 0.0
        self._lock = threading.Lock()

    def book(self, tokens: int) -> float:
        """Take the next free time for a request of so many tokens; how many seconds it is away."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._paused_until, self._next_request, self._next_token)
            self._next_request = start + self._request_s
            self._next_token = start + tokens * self._token_s
            return start - now

    def give_back(self, tokens: int) -> None:
        """Tokens that were booked and not used; less than 0 for more used than booked."""
        with self._lock:
            self._next_token -= tokens * self._token_s

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the endpoint asked for it."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def pause_left(self) -> float:
        """Seconds until something may be sent again."""
        return max(0.0, self._paused_until - time.monotonic())


_pacers: dict[tuple[str, str, int | None, int | None], Pacer] = {}
_pacers_lock = threading.Lock()


def pacer_of(endpoint: Endpoint) -> Pacer:
    """The pacer that all who ask this model there share in this process."""
    key = (endpoint.base_url, endpoint.model, endpoint.requests_per_minute, endpoint.tokens_per_minute)
    with _pacers_lock:
        return _pacers.setdefault(key, Pacer(endpoint.requests_per_minute, endpoint.tokens_per_minute))


class Gate:
    """How many requests are under way at once: half as many when the endpoint says that it is too much, one more after each round
    without complaint, within 1 and the endpoint's `concurrency`. For one event loop."""

    def __init__(self, most: int, pacer: Pacer) -> None:
        self.most, self.limit = most, min(most, pacer.concurrency or most)
        self.under_way = 0
        self._pacer = pacer
        self._successes = 0
        self._cut_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def turn(self) -> "Turn":
        """A place in the queue, not yet taken."""
        return Turn(self)

    def answered(self) -> None:
        """A request went well."""
        self._successes += 1
        if self._successes >= self.limit and self.limit < self.most:
            self._set(self.limit + 1)

    def refused(self, sent_at: float) -> None:
        """A request was too much. Those sent before the last cut (`time.monotonic`) say nothing new."""
        if sent_at < self._cut_at:
            return
        self._cut_at = time.monotonic()
        self._set(max(1, self.limit // 2))
        logger.debug("the endpoint asks to slow down: %d requests at once", self.limit)

    def _set(self, limit: int) -> None:
        self.limit = self._pacer.concurrency = limit
        self._successes = 0
        self._wake()

    async def _enter(self) -> None:
        while self.under_way >= self.limit:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._wake()  # it was our turn: somebody else's now
                raise
        self.under_way += 1

    def _leave(self) -> None:
        self.under_way -= 1
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self.under_way
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1


class Turn:
    """One row's place among the requests under way."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.held = gate, False

    async def enter(self) -> None:
        """Wait for a place, unless it is held already."""
        if not self.held:
            await self.gate._enter()
            self.held = True

    def leave(self) -> None:
        """Make room for others."""
        if self.held:
            self.held = False
            self.gate._leave()
