"""How fast an endpoint is asked: evenly, no faster than it allows, and slower for all once it complains to one."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.errors import BudgetReached
from tasks.prompting.ask import AskContext, Meter, Question, answer_questions
from tasks.prompting.budget import Cap
from tasks.prompting.limits import USED_SHARE, Gate, Pacer, pacer_of
from tasks.records import Answer
from tests.prompting.conftest import make_endpoint, make_examples, make_spec
from tests.prompting.loopback import Loopback, Say, error, right_answer

Ask = Callable[..., list[Answer]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still but for what this adds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def add(seconds: float) -> None:
        now[0] += seconds

    return add


def test_requests_are_given_times_at_even_distances_within_what_a_minute_allows(clock: Callable[[float], None]) -> None:
    pacer = Pacer(requests_per_minute=600)
    starts = [pacer.book(1) for _ in range(600)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert starts[0] == 0
    assert max(gaps) == pytest.approx(min(gaps))
    assert 60 <= starts[-1] + gaps[0] <= 60 / 0.95


def test_tokens_a_minute_are_kept_to_as_well_and_the_stricter_limit_holds(clock: Callable[[float], None]) -> None:
    pacer = Pacer(requests_per_minute=600, tokens_per_minute=6000)
    starts = [pacer.book(tokens) for tokens in (100, 1, 1, 100, 1)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps == pytest.approx([1 / USED_SHARE, 0.1 / USED_SHARE, 0.1 / USED_SHARE, 1 / USED_SHARE])


def test_tokens_that_were_not_used_are_given_back_and_those_used_beyond_are_owed(clock: Callable[[float], None]) -> None:
    pacer = Pacer(tokens_per_minute=6000)
    pacer.book(100)
    pacer.give_back(60)
    assert pacer.book(10) == pytest.approx(0.4 / USED_SHARE)
    pacer.give_back(-10)
    assert pacer.book(0) == pytest.approx((0.4 + 0.2) / USED_SHARE)


def test_what_was_not_used_while_nobody_asked_is_not_caught_up_in_a_burst(clock: Callable[[float], None]) -> None:
    pacer = Pacer(requests_per_minute=60)
    pacer.book(1)
    clock(3600)
    assert [pacer.book(1), pacer.book(1)] == pytest.approx([0, 1 / USED_SHARE])


def test_contenders_on_one_model_share_its_pacer_and_other_models_have_their_own() -> None:
    endpoint = make_endpoint("http://127.0.0.1:9/v1", requests_per_minute=60)
    assert pacer_of(endpoint) is pacer_of(endpoint.model_copy(update={"concurrency": 99}))
    assert pacer_of(endpoint) is not pacer_of(endpoint.model_copy(update={"model": "another"}))


def test_requests_at_once_are_halved_by_a_complaint_down_to_one_and_grow_by_one_a_round() -> None:
    gate = Gate(16, Pacer())
    for expected in (8, 4, 2, 1, 1):
        gate.refused(time.monotonic())
        assert gate.limit == expected
    for limit in range(1, 16):
        assert gate.limit == limit
        for _ in range(limit):
            gate.answered()
    gate.answered()
    assert gate.limit == 16


def test_complaints_to_requests_that_left_before_the_last_cut_say_nothing_new() -> None:
    gate, before = Gate(16, Pacer()), time.monotonic()
    for _ in range(10):
        gate.refused(before)
    assert gate.limit == 8


def test_what_an_endpoint_bears_is_known_to_who_asks_it_next() -> None:
    pacer = Pacer()
    Gate(16, pacer).refused(time.monotonic())
    assert Gate(16, pacer).limit == 8


def test_those_who_wait_get_their_turn_also_when_one_of_them_gives_up() -> None:
    async def run() -> list[int]:
        gate, done = Gate(1, Pacer()), []

        async def work(number: int) -> None:
            turn = gate.turn()
            try:
                await turn.enter()
                await asyncio.sleep(0.01)
                done.append(number)
            finally:
                turn.leave()

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0.001)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.under_way == 0
        return done

    assert asyncio.run(run()) == [0, 2, 3, 4]


class Crowd:
    """A server that refuses what goes beyond so many requests at once."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.refused = most, 0, 0
        self.lock = threading.Lock()

    def __call__(self, request: dict[str, Any], _number: int) -> Say:
        with self.lock:
            self.now += 1
            crowded = self.now > self.most
            self.refused += crowded
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return error(429, "too many at once", Retry_After="0.02") if crowded else right_answer(request)


def test_asking_settles_at_what_the_endpoint_bears_and_no_row_is_lost(ask_rows: Ask) -> None:
    crowd, meter = Crowd(4), Meter()
    with Loopback(crowd) as server:
        answers = ask_rows(server.url, count=120, concurrency=32, meter=meter, attempts=10)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 60
    assert meter.requests == len(server.requests) == 120 + crowd.refused
    assert crowd.refused < 80  # 28 in the first moment, and now and then one that tries for more


def test_a_pause_that_one_row_is_told_is_kept_by_all(ask_rows: Ask) -> None:
    times: list[float] = []
    told: list[float] = []

    def behave(request: dict[str, Any], number: int) -> Say | None:
        times.append(time.monotonic())
        if number != 12:
            return Say(right_answer(request).body, after_s=0.02)
        told.append(time.monotonic())
        return error(429, Retry_After="0.5")

    with Loopback(behave) as server:
        answers = ask_rows(server.url, count=40, concurrency=4)
    assert {answer.failure for answer in answers} == {None}
    assert sum(told[0] < at < told[0] + 0.5 for at in times) <= 3  # which were on their way


def test_no_more_is_sent_than_the_limits_a_minute_allow(ask_rows: Ask) -> None:
    times: list[float] = []
    with Loopback(lambda request, number: times.append(time.monotonic())) as server:
        ask_rows(server.url, count=1)  # what is loaded for a first request does not count
        began = time.monotonic()  # not the first arrival, which a busy machine makes late
        ask_rows(server.url, count=31, concurrency=16, requests_per_minute=1800)
        assert times[-1] - began > 0.7
        began = time.monotonic()
        ask_rows(server.url, count=61, concurrency=16, tokens_per_minute=60 * 1300)
    assert times[-1] - began > 0.6  # 30 new rows of at least 36 tokens


class Granted:
    """A limit that other runs share; it grants so many and then nothing."""

    def __init__(self, most: int) -> None:
        self.left, self.given_back = most, 0

    async def take(self, requests: int, tokens: int) -> None:
        if tokens < 0:
            self.given_back -= tokens
            return
        assert (requests, tokens > 16) == (1, True)
        self.left -= 1
        if self.left < 0:
            await asyncio.Event().wait()


def test_every_attempt_asks_the_shared_limit_and_gives_back_what_it_did_not_use() -> None:
    limits, meter = Granted(1000), Meter()
    with Loopback(lambda request, number: error(500) if number == 3 else None) as server:
        context = AskContext(make_endpoint(server.url), Cap(1.0), meter=meter, limits=limits)
        answer_questions(make_spec(instructions="Say which. " * 30), [Question(example) for example in make_examples(10)], context)
    assert meter.requests == len(server.requests) == 1000 - limits.left == 11
    assert limits.given_back > 0


def test_who_waits_for_the_shared_limit_does_not_hold_up_the_end() -> None:
    with Loopback() as server:
        context = AskContext(make_endpoint(server.url), Cap(0.0005), limits=Granted(4))
        with pytest.raises(BudgetReached):
            answer_questions(make_spec(), [Question(example) for example in make_examples(40)], context)
