"""Many rows: order, the cap, the journal, kills."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadConfig, BudgetReached, EndpointError, Stopped
from tasks.interrupt import interruptible
from tasks.progress import Bar, listening
from tasks.prompting.ask import FEWEST_ASKED, Meter
from tasks.prompting.budget import Cap
from tasks.prompting.journal import Journal, Reply
from tasks.records import Answer, Failure
from tests.prompting.conftest import make_spec
from tests.prompting.loopback import Loopback, Say, completion, error, right_answer

Ask = Callable[..., list[Answer]]
ROW_USD = 40e-6 + 8 * 2e-6
"""What the loopback server's usage costs at the test endpoint's prices."""


def test_answers_come_in_the_rows_order_with_tokens_cost_and_latency(ask_rows: Ask) -> None:
    with Loopback(lambda request, number: Say(right_answer(request).body, after_s=0.02 * (number % 3))) as server:
        answers = ask_rows(server.url, count=30)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 15
    assert {(answer.input_tokens, answer.output_tokens) for answer in answers} == {(40, 8)}
    assert all(answer.cost_usd == pytest.approx(ROW_USD) and answer.latency_ms and answer.latency_ms > 0 for answer in answers)


def test_progress_is_told_row_by_row(ask_rows: Ask) -> None:
    seen: list[float] = []
    with Loopback() as server, listening(lambda bar: seen.append(bar.done)):
        ask_rows(server.url, count=5)
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5]


def test_what_was_answered_once_is_never_asked_again(ask_rows: Ask) -> None:
    with Loopback() as server:
        first = ask_rows(server.url, count=12)
        meter, cap = Meter(), Cap(0.0)
        again = ask_rows(server.url, count=12, meter=meter, cap=cap)
    assert again == first
    assert (meter.found, meter.requests, meter.usd, cap.spent_usd) == (12, 0, 0, 0)
    assert len(server.requests) == 12


def test_another_prompt_asks_anew(ask_rows: Ask) -> None:
    with Loopback() as server:
        ask_rows(server.url, count=3)
        ask_rows(server.url, count=3, spec=make_spec(instructions="Say which, please."))
    assert len(server.requests) == 6


def test_unreadable_answers_were_paid_for_and_are_kept(ask_rows: Ask) -> None:
    with Loopback(lambda request, number: Say(completion("maybe"))) as server:
        ask_rows(server.url, count=3)
        answers = ask_rows(server.url, count=3)
    assert [answer.failure for answer in answers] == [Failure.INVALID] * 3
    assert [answer.answer for answer in answers] == ["maybe"] * 3
    assert len(server.requests) == 3


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_cap_is_never_passed_and_what_was_paid_for_is_reused(ask_rows: Ask, concurrency: int) -> None:
    cap = Cap(0.002)
    with Loopback(lambda request, number: Say(right_answer(request).body, after_s=0.01)) as server:
        with pytest.raises(BudgetReached, match=r"raise budget\.usd"):
            ask_rows(server.url, count=100, cap=cap, concurrency=concurrency)
        paid = len(server.requests)
        assert 10 < paid < 100
        assert paid * ROW_USD == pytest.approx(cap.spent_usd)
        assert cap.spent_usd <= cap.usd
        assert cap.reserved_usd == pytest.approx(0)
        answers = ask_rows(server.url, count=100, cap=Cap(1.0), concurrency=concurrency)
    assert len(answers) == len(server.requests) == 100


def test_contenders_that_share_a_cap_stay_under_it_together(ask_rows: Ask) -> None:
    cap = Cap(0.002)
    stopped: list[BudgetReached] = []

    def ask(instructions: str) -> None:
        try:
            ask_rows(server.url, count=60, cap=cap, spec=make_spec(instructions=instructions))
        except BudgetReached as error:
            stopped.append(error)

    with Loopback(lambda request, number: Say(right_answer(request).body, after_s=0.005)) as server:
        threads = [threading.Thread(target=ask, args=[f"Way {n}."]) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(stopped) == 3
    assert len(server.requests) * ROW_USD == pytest.approx(cap.spent_usd)
    assert cap.spent_usd <= cap.usd


def test_a_free_endpoint_answers_under_a_cap_of_nothing(ask_rows: Ask) -> None:
    with Loopback() as server:
        answers = ask_rows(server.url, count=4, cap=Cap(0.0), usd_per_million_input=0, usd_per_million_output=0)
    assert [answer.failure for answer in answers] == [None] * 4


def test_an_endpoint_without_a_price_is_refused_before_anything_is_sent(ask_rows: Ask) -> None:
    with Loopback() as server, pytest.raises(BadConfig, match="usd_per_million_input"):
        ask_rows(server.url, usd_per_million_input=None)
    assert server.requests == []


def test_a_prompt_made_for_another_model_is_refused(ask_rows: Ask) -> None:
    with Loopback() as server, pytest.raises(BadConfig, match="another"):
        ask_rows(server.url, spec=make_spec(model="another"))


def test_asking_stops_once_too_large_a_share_failed_and_no_row_is_lost(ask_rows: Ask) -> None:
    with Loopback(lambda request, number: Say(completion("maybe"))) as server:
        answers = ask_rows(server.url, count=60, concurrency=4, max_failed=0.5)
    failures = Counter(answer.failure for answer in answers)
    assert len(answers) == 60
    assert failures == {Failure.INVALID: len(server.requests), Failure.STOPPED: 60 - len(server.requests)}
    assert FEWEST_ASKED <= len(server.requests) < FEWEST_ASKED + 4


def test_an_outage_ends_the_asking_with_an_error_and_a_rerun_asks_only_what_is_missing(ask_rows: Ask) -> None:
    out = threading.Event()
    out.set()
    with Loopback(lambda request, number: error(503) if out.is_set() and number > 10 else None) as server:
        with pytest.raises(EndpointError, match="had no reply"):
            ask_rows(server.url, count=60, max_failed=0.5, attempts=1)
        out.clear()
        before = len(server.requests)
        answers = ask_rows(server.url, count=60, max_failed=0.5)
    assert [answer.failure for answer in answers] == [None] * 60
    assert len(server.requests) - before == 50


def test_a_few_failures_do_not_stop_the_others(ask_rows: Ask) -> None:
    with Loopback(lambda request, number: Say(completion("maybe")) if number % 3 == 0 else None) as server:
        answers = ask_rows(server.url, count=60, max_failed=0.5)
    assert Counter(answer.failure for answer in answers) == {None: 40, Failure.INVALID: 20}


def test_a_kill_in_the_middle_repeats_at_most_what_was_under_way(tmp_path: Path, ask_rows: Ask) -> None:
    script = (
        "import sys; from pathlib import Path; from tasks.prompting.ask import answer_all; from tasks.prompting.budget import Cap;"
        "from tests.prompting.conftest import make_endpoint, make_examples, make_spec;"
        "answer_all(make_spec(), make_examples(60), make_endpoint(sys.argv[1]), Cap(1.0), Path(sys.argv[2]))"
    )
    reached = threading.Event()

    def behave(request: dict[str, object], number: int) -> Say | None:
        if number >= 25:
            reached.set()
        return Say(right_answer(request).body, after_s=0.03)

    with Loopback(behave) as server:
        command = [sys.executable, "-c", script, server.url, str(tmp_path / "journal.sqlite")]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        assert reached.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        answers = ask_rows(server.url, count=60)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 30
    asked = Counter(request["messages"][-1]["content"] for request in server.requests)
    assert len(asked) == 60
    assert sum(asked.values()) - 60 <= 4


def test_several_writers_may_use_one_journal(tmp_path: Path) -> None:
    reply = Reply("positive", "stop", None, 1, 1, 0.0, 1.0, 1)

    def write(who: int) -> bool:
        with Journal(tmp_path / "shared.sqlite") as journal:
            for row in range(100):
                journal.keep(f"{row}", "m", reply)
            return all(journal.find(f"{row}") == reply for row in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write, range(4)))


def test_bars_end_even_when_the_cap_stops_the_asking(ask_rows: Ask) -> None:
    bars: list[Bar] = []
    with Loopback() as server, listening(bars.append), pytest.raises(BudgetReached):
        ask_rows(server.url, count=10, cap=Cap(1e-6))
    assert bars[-1].finished
    assert server.requests == []


def in_any_turn(request: dict[str, Any], number: int) -> Say:
    """The right answer, wherever in the conversation the row stands."""
    row = next(turn["content"] for turn in request["messages"] if "film" in turn["content"])
    return right_answer(request | {"messages": [{"content": row}]})


def test_batches_answer_as_one_by_one_does_turn_by_turn_and_at_half_the_price(ask_rows: Ask, tmp_path: Path) -> None:
    spec = make_spec(think="Think.", thinking_tokens=20, answer_form="Now the label.", review="Sure?", rounds=1)
    with Loopback(in_any_turn) as server:
        one_by_one = ask_rows(server.url, count=6, spec=spec)
        (tmp_path / "journal.sqlite").unlink()
        meter = Meter()
        answers = ask_rows(server.url, count=6, spec=spec, batch=True, meter=meter)
        assert len(server.batches.made) == 3  # steps, label, review
        again = Meter()
        assert ask_rows(server.url, count=6, spec=spec, batch=True, meter=again) == answers
    assert [(each.label, each.draft, each.failure) for each in answers] == [(each.label, each.draft, None) for each in one_by_one]
    assert [each.cost_usd for each in answers] == pytest.approx([each.cost_usd / 2 for each in one_by_one])
    assert (meter.requests, meter.usd) == (18, pytest.approx(18 * ROW_USD / 2))
    assert (again.requests, again.found, again.usd) == (0, 6, 0)


def test_a_row_that_fails_in_a_batch_leaves_the_others_alone(ask_rows: Ask) -> None:
    def refuse_one(request: dict[str, Any], number: int) -> Say | None:
        return error(400, code="content_filter") if "film 3" in str(request["messages"]) else None

    with Loopback(refuse_one) as server:
        answers = ask_rows(server.url, count=6, batch=True)
    assert [each.failure for each in answers] == [None, None, None, Failure.REFUSED, None, None]
    assert [each.label for each in answers] == ["negative", "positive", "negative", None, "negative", "positive"]


def test_a_batch_that_could_pass_the_cap_is_never_handed_in(ask_rows: Ask) -> None:
    with Loopback() as server, pytest.raises(BudgetReached):
        ask_rows(server.url, count=20, batch=True, cap=Cap(20 * ROW_USD / 10))
    assert (server.batches.files, server.batches.made) == ({}, [])


def test_a_run_that_is_told_to_end_asks_nobody_any_more_and_the_next_one_asks_the_rest(ask_rows: Ask, tmp_path: Path) -> None:
    asked, told = threading.Event(), threading.Event()

    def behave(request: dict[str, Any], number: int) -> Say:
        if number >= 5 and not told.is_set():
            asked.set()
            told.wait(60)
        return right_answer(request)

    def run(url: str, pool: ThreadPoolExecutor, asking: list[Any]) -> None:
        with interruptible():
            asking.append(pool.submit(ask_rows, url, 40, timeout_s=90.0, deadline_s=90.0))
            assert asked.wait(60)
            raise KeyboardInterrupt

    asking: list[Any] = []
    with Loopback(behave) as server, ThreadPoolExecutor() as pool:
        with pytest.raises(KeyboardInterrupt):
            run(server.url, pool, asking)
        told.set()
        with pytest.raises(Stopped, match="run it again"):
            asking[0].result()
        assert len(server.requests) <= 4 + 4
        with pytest.raises(Stopped):  # what had not begun does not begin
            ask_rows(server.url, 40)
        with interruptible():
            answers = ask_rows(server.url, 40)
    assert all(answer.label for answer in answers)
    assert len(server.requests) == 40
