"""Rows that come within a few milliseconds, in whatever requests, are predicted together.

A batch starts when its oldest row has waited `wait_ms`, or when it is full, or at once when rows came while the one before was
predicted: so a lone request waits a few milliseconds, and under load batches fill by themselves.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from serving.meters import Meters
from serving.options import Options
from tasks.predicting.rows import Inputs
from tasks.records import Answer

Answering = Callable[[Sequence[Inputs]], list[Answer]]
LONGEST_WAIT_S = 60


class Full(Exception):
    """The queue has no room."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many rows wait: try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Late(Exception):
    """A request was not answered before its deadline."""


@dataclass
class _Piece:
    """Rows of one request that stay together."""

    rows: list[Inputs]
    since: float
    answered: "asyncio.Future[list[Answer]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """The queue before one predictor. It belongs to the event loop that makes it.

    Args:
        answer: predicts a batch; called in a thread.
        workers: batches predicted at the same time: one for a device, several for an endpoint, which has its own limits.
    """

    def __init__(self, answer: Answering, options: Options, meters: Meters, workers: int = 1) -> None:
        self._answer, self._options, self._meters = answer, options, meters
        self._queue: deque[_Piece] = deque()
        self._waiting = 0
        self._rows_per_s = 100.0
        self._more = asyncio.Condition()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._workers = [asyncio.create_task(self._work()) for _ in range(workers)]

    async def ask(self, rows: Sequence[Inputs]) -> list[Answer]:
        """One answer a row, in order.

        Raises:
            Full: the queue has no room for them.
            Late: the deadline passed; rows that had not begun by then are not predicted.
            BakeoffError: the batch could not be predicted.
        """
        if self._waiting + len(rows) > max(self._options.queue_rows, len(rows) if not self._waiting else 0):
            raise Full(min(LONGEST_WAIT_S, max(1, math.ceil(self._waiting / self._rows_per_s))))
        size, now = self._options.batch_rows, asyncio.get_running_loop().time()
        pieces = [_Piece(list(rows[start : start + size]), now) for start in range(0, len(rows), size)]
        self._queue.extend(pieces)
        self._count(len(rows))
        async with self._more:
            self._more.notify_all()
        try:
            async with asyncio.timeout(self._options.deadline_s):
                parts = await asyncio.gather(*(piece.answered for piece in pieces))
        except TimeoutError:
            raise Late(f"no answer within {self._options.deadline_s:g} s") from None
        finally:  # also where the client has gone: what has not begun need not begin
            for piece in pieces:
                piece.answered.cancel()
        return [answer for part in parts for answer in part]

    async def close(self) -> None:
        """Stop. Nobody may be waiting any more."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._take()
            rows = [row for piece in batch for row in piece.rows]
            if not rows:
                continue
            started = loop.time()
            (told,) = await asyncio.gather(loop.run_in_executor(self._threads, self._answer, rows), return_exceptions=True)
            took = max(loop.time() - started, 1e-6)
            self._meters.batch(len(rows), took)
            self._rows_per_s += 0.2 * (len(rows) / took - self._rows_per_s)
            _hand_out(batch, told)

    async def _take(self) -> list[_Piece]:
        """The next batch; empty where everybody has given up."""
        async with self._more:
            await self._more.wait_for(lambda: self._queue)
        left = self._queue[0].since + self._options.wait_ms / 1000 - asyncio.get_running_loop().time()
        if left > 0 and self._waiting < self._options.batch_rows:
            await asyncio.sleep(left)
        batch: list[_Piece] = []
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].rows) <= self._options.batch_rows):
            piece = self._queue.popleft()
            self._count(-len(piece.rows))
            if not piece.answered.done():
                batch.append(piece)
                rows += len(piece.rows)
        return batch

    def _count(self, rows: int) -> None:
        self._waiting += rows
        self._meters.waiting.inc(rows)


def _hand_out(batch: Sequence[_Piece], told: Any) -> None:
    """Give each request its answers, or all of them the error."""
    start = 0
    for piece in batch:
        if piece.answered.done():
            pass  # it gave up meanwhile
        elif isinstance(told, BaseException):
            piece.answered.set_exception(told)
        else:
            piece.answered.set_result(told[start : start + len(piece.rows)])
        start += len(piece.rows)
