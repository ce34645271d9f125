"""Batches fill under load, the queue is bounded, deadlines hold."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batching import Batcher, Full, Late
from serving.meters import Meters
from serving.options import Options
from tasks.errors import EndpointError
from tasks.predicting.rows import Inputs
from tasks.records import Answer


class Slow:
    """Answers with the row's text once `go` is set, and knows its batches."""

    def __init__(self, go: bool = True) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        if go:
            self.go.set()

    def __call__(self, rows: Sequence[Inputs]) -> list[Answer]:
        self.batches.append([row["text"] for row in rows])
        assert self.go.wait(10)
        if rows[0]["text"] == "bad":
            raise EndpointError("it is down")
        return [Answer(answer=row["text"], label=None) for row in rows]


def rows(*texts: str) -> list[Inputs]:
    return [{"text": text} for text in texts]


def test_requests_within_the_wait_go_in_one_batch_and_each_gets_its_own() -> None:
    slow = Slow()

    async def run() -> list[list[Answer]]:
        batcher = Batcher(slow, Options(wait_ms=200, batch_rows=8), Meters())
        said = await asyncio.gather(*(batcher.ask(rows(f"{n}", f"{n}!")) for n in range(4)))
        await batcher.close()
        return said

    said = asyncio.run(run())
    assert [[answer.answer for answer in each] for each in said] == [[f"{n}", f"{n}!"] for n in range(4)]
    assert len(slow.batches) == 1


def test_what_comes_while_a_batch_is_predicted_goes_into_the_next() -> None:
    slow = Slow(go=False)

    async def run() -> None:
        batcher = Batcher(slow, Options(wait_ms=0, batch_rows=4), Meters())
        first = asyncio.create_task(batcher.ask(rows("first")))
        while not slow.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.ask(rows(str(n)))) for n in range(6)]
        await asyncio.sleep(0.01)
        slow.go.set()
        await asyncio.gather(first, *others)
        await batcher.close()

    asyncio.run(run())
    assert slow.batches == [["first"], ["0", "1", "2", "3"], ["4", "5"]]


def test_a_full_queue_turns_away_and_says_when_to_come_back() -> None:
    slow = Slow(go=False)

    async def run() -> None:
        batcher = Batcher(slow, Options(wait_ms=0, batch_rows=1, queue_rows=3), Meters())
        first = asyncio.create_task(batcher.ask(rows("first")))
        while not slow.batches:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(batcher.ask(rows("a", "b", "c")))
        await asyncio.sleep(0.01)
        with pytest.raises(Full) as full:
            await batcher.ask(rows("d"))
        assert 1 <= full.value.retry_after_s <= 60
        slow.go.set()
        assert len(await waiting) == 3
        await first
        await batcher.close()

    asyncio.run(run())


def test_a_request_past_its_deadline_is_given_up_and_not_predicted_later() -> None:
    slow = Slow(go=False)

    async def run() -> None:
        batcher = Batcher(slow, Options(wait_ms=0, batch_rows=1, deadline_s=0.5), Meters())
        first = asyncio.create_task(batcher.ask(rows("first")))
        while not slow.batches:
            await asyncio.sleep(0.001)
        for request in (first, batcher.ask(rows("late"))):
            with pytest.raises(Late):
                await request
        slow.go.set()
        assert [answer.answer for answer in await batcher.ask(rows("next"))] == ["next"]
        await batcher.close()

    asyncio.run(run())
    assert slow.batches == [["first"], ["next"]]


def test_a_batch_that_fails_fails_its_requests_and_no_others() -> None:
    async def run() -> None:
        batcher = Batcher(Slow(), Options(wait_ms=0, batch_rows=1), Meters())
        with pytest.raises(EndpointError):
            await batcher.ask(rows("bad"))
        assert len(await batcher.ask(rows("good"))) == 1
        await batcher.close()

    asyncio.run(run())
