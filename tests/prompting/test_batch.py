"""Batches over a real HTTP server that speaks OpenAI's Batch API: as good as asking directly, at half the price, made once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BudgetReached, EndpointError
from tasks.prompting import batch as batches
from tasks.prompting.ask import Meter, answer_all
from tasks.prompting.budget import Cap
from tasks.prompting.journal import Journal, request_key
from tasks.prompting.messages import build_request
from tasks.records import Answer, Failure
from tests.prompting.conftest import make_endpoint, make_examples, make_spec
from tests.prompting.loopback import Loopback, Say, completion, error

Ask = Callable[..., list[Answer]]
ROW_USD = (40e-6 + 8 * 2e-6) / 2
"""What the loopback server's usage costs in a batch."""
WORST_USD = 1.9e-4
"""A little more than what a row can cost in a batch at worst (`test_what_could_pass_the_cap…` holds it to that)."""


@pytest.fixture(autouse=True)
def _polled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_POLL_S", 0.05)
    monkeypatch.setattr(batches, "MADE_WITHIN_S", 0.5)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


def texts(server: Loopback) -> Counter[str]:
    """How often each row was worked on."""
    return Counter(request["messages"][-1]["content"] for request in server.requests)


def rows_of_newest(server: Loopback) -> int:
    """How many rows the batch has that was made last."""
    return len(server.batches.files[server.batches.made[0]["input_file_id"]].splitlines())


def untimed(answers: list[Answer]) -> list[dict[str, Any]]:
    return [answer.model_dump(exclude={"latency_ms", "cost_usd"}) for answer in answers]


def planned(tmp_path: Path) -> int:
    with Journal(tmp_path / "journal.sqlite") as journal:
        return len(journal.planned_batches())


@pytest.mark.parametrize("spec", [make_spec(), make_spec(rounds=1, review="Is that right?")], ids=["one turn", "with a review"])
def test_a_batch_answers_as_direct_asking_does_at_half_the_price(server: Loopback, ask_rows: Ask, spec: Any) -> None:
    server.batches.shuffle = True
    meter, cap = Meter(), Cap(1.0)
    answers = ask_rows(server.url, count=12, batch=True, meter=meter, cap=cap, spec=spec)
    worked_on = len(server.requests)
    direct = answer_all(spec, make_examples(12), make_endpoint(server.url), Cap(1.0))
    assert untimed(answers) == untimed(direct)
    assert sum(answer.cost_usd for answer in answers) == pytest.approx(sum(answer.cost_usd for answer in direct) / 2)
    assert meter.usd == pytest.approx(cap.spent_usd) == pytest.approx(worked_on * ROW_USD)
    assert meter.requests == worked_on == len(server.requests) - worked_on
    assert cap.reserved_usd == pytest.approx(0)


def test_batches_and_direct_asking_share_their_answers(server: Loopback, ask_rows: Ask, tmp_path: Path) -> None:
    ask_rows(server.url, count=4)
    ask_rows(server.url, count=10, batch=True)
    again = ask_rows(server.url, count=10, cap=Cap(0.0))
    assert [answer.label for answer in again] == ["negative", "positive"] * 5
    assert set(texts(server).values()) == {1}
    assert planned(tmp_path) == 0


def test_rows_in_the_file_of_errors_fail_by_their_own_reason_and_the_others_are_kept(server: Loopback, ask_rows: Ask) -> None:
    said = {
        "film 1": error(400, "filtered", "content_filter"),
        "film 2": error(500, "trouble"),
        "film 3": Say(completion("maybe")),
        "film 4": error(400, "maximum context length is 10 tokens", "context_length_exceeded"),
        "film 5": Say("no completion"),
    }
    server.behave = lambda request, _: next((say for word, say in said.items() if word in request["messages"][-1]["content"]), None)
    answers = ask_rows(server.url, count=8, batch=True)
    expected = [None, Failure.REFUSED, Failure.ENDPOINT, Failure.INVALID, Failure.TOO_LONG, Failure.PROTOCOL, None, None]
    assert [answer.failure for answer in answers] == expected
    assert [answer.label for answer in answers if not answer.failure] == ["negative", "negative", "positive"]
    server.behave = lambda request, _: None
    ask_rows(server.url, count=8, batch=True)
    assert sorted(texts(server).values()) == [1, 1, 1, 1, 2, 2, 2, 2]  # the unreadable answer was paid for, and is kept


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_a_batch_that_ended_early_keeps_what_was_answered_and_the_rest_is_asked_again(
    server: Loopback, ask_rows: Ask, ending: str
) -> None:
    server.batches.ending, server.batches.keep = ending, 5
    meter = Meter()
    answers = ask_rows(server.url, count=8, batch=True, meter=meter)
    assert [answer.failure for answer in answers] == [None] * 5 + [Failure.ENDPOINT] * 3
    assert meter.usd == pytest.approx(5 * ROW_USD)
    server.batches.ending, server.batches.keep = "completed", None
    answers = ask_rows(server.url, count=8, batch=True)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 4
    assert set(texts(server).values()) == {1}


def test_a_batch_that_is_refused_as_a_whole_is_an_error_that_says_why_and_costs_nothing(server: Loopback, ask_rows: Ask) -> None:
    server.batches.ending = "failed"
    cap = Cap(1.0)
    with pytest.raises(EndpointError, match="Enqueued token limit reached"):
        ask_rows(server.url, count=8, batch=True, cap=cap)
    assert (cap.spent_usd, cap.reserved_usd) == (0, 0)
    server.batches.ending = "completed"
    assert len(ask_rows(server.url, count=8, batch=True)) == len(server.requests) == 8


def test_what_could_pass_the_cap_is_refused_before_anything_is_uploaded(server: Loopback, ask_rows: Ask, tmp_path: Path) -> None:
    cap = Cap(10 * WORST_USD)
    for too_many in (12, 100):
        with pytest.raises(BudgetReached, match=r"raise budget\.usd"):
            ask_rows(server.url, count=too_many, batch=True, cap=cap)
    assert server.batches.files == {}
    assert (cap.spent_usd, cap.reserved_usd, planned(tmp_path)) == (0, 0, 0)
    assert len(ask_rows(server.url, count=10, batch=True, cap=cap)) == 10
    assert cap.spent_usd == pytest.approx(10 * ROW_USD)


def test_an_endpoint_without_batches_says_so(server: Loopback, ask_rows: Ask) -> None:
    server.batches.there = False
    for _ in range(2):
        with pytest.raises(EndpointError, match="set batch to false"):
            ask_rows(server.url, count=3, batch=True)
    assert len(ask_rows(server.url, count=3)) == 3


def test_many_requests_go_in_several_batches(server: Loopback, ask_rows: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_REQUESTS", 4)
    assert [answer.label for answer in ask_rows(server.url, count=10, batch=True)] == ["negative", "positive"] * 5
    assert len(server.batches.made) == 3
    assert set(texts(server).values()) == {1}


def test_a_batch_whose_reply_was_lost_is_found_by_its_name_and_not_made_again(server: Loopback, ask_rows: Ask) -> None:
    lost = iter([error(502), Say('{"id": "batch', cut_at=5)])
    server.batches.on_made = lambda: next(lost, None)
    assert len(ask_rows(server.url, count=6, batch=True)) == 6
    assert len(server.batches.made) == 1
    lost = iter([Say("<html>a login page</html>")])
    assert len(ask_rows(server.url, count=8, batch=True)) == 8
    assert len(server.batches.made) == 2


def test_a_batch_is_not_followed_to_another_host(server: Loopback, ask_rows: Ask) -> None:
    with Loopback() as elsewhere:
        server.batches.on_look = lambda: Say("", 307, {"Location": f"{elsewhere.url}/batches/b"})
        with pytest.raises(EndpointError, match="redirects"):
            ask_rows(server.url, count=3, batch=True)
    assert elsewhere.requests == elsewhere.batches.made == []


def test_an_outage_while_waiting_is_waited_out(server: Loopback, ask_rows: Ask) -> None:
    troubles = iter([Say(""), error(503, Retry_After="0.1"), error(429, Retry_After="0.1")])
    server.batches.on_look = lambda: next(troubles, None)
    assert len(ask_rows(server.url, count=6, batch=True)) == 6
    assert set(texts(server).values()) == {1}


def test_a_batch_that_the_endpoint_forgot_counts_at_its_worst_and_is_made_again(server: Loopback, ask_rows: Ask) -> None:
    forget = iter([lambda: server.batches.made.clear()])
    server.batches.on_look = lambda: next(forget, lambda: None)()
    cap = Cap(1.0)
    answers = ask_rows(server.url, count=6, batch=True, cap=cap)
    assert {answer.failure for answer in answers} == {Failure.ENDPOINT}
    assert cap.spent_usd > 6 * ROW_USD
    assert {answer.failure for answer in ask_rows(server.url, count=6, batch=True)} == {None}


def ask_and_be_killed(server: Loopback, journal: Path, when: Callable[[Callable[[], None]], None]) -> None:
    """A process that asks about 6 rows in a batch; `when` gets what kills it."""
    script = (
        "import sys; from pathlib import Path; from tasks.prompting.ask import answer_all; from tasks.prompting.budget import Cap;"
        "from tests.prompting.conftest import make_endpoint, make_examples, make_spec;"
        "answer_all(make_spec(), make_examples(6), make_endpoint(sys.argv[1], batch=True), Cap(1.0), Path(sys.argv[2]))"
    )
    child: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def kill() -> None:
        started.wait(60)
        os.kill(child[0].pid, signal.SIGKILL)
        child[0].wait()

    when(kill)
    child.append(subprocess.Popen([sys.executable, "-c", script, server.url, str(journal)], cwd=Path(__file__).parents[2]))
    started.set()
    assert child[0].wait(60) == -signal.SIGKILL


def kill_when_waiting(server: Loopback) -> Callable[[Callable[[], None]], None]:
    def when(kill: Callable[[], None]) -> None:
        looks = iter([lambda: None, kill])
        server.batches.looks = 10**6
        server.batches.on_look = lambda: next(looks, lambda: None)()

    return when


def kill_when_made(server: Loopback) -> Callable[[Callable[[], None]], None]:
    def when(kill: Callable[[], None]) -> None:
        killing = iter([kill])
        server.batches.on_made = lambda: next(killing, lambda: None)()

    return when


@pytest.mark.parametrize("killing", [kill_when_waiting, kill_when_made], ids=["while waiting", "before its id is written down"])
def test_a_batch_of_a_killed_process_is_picked_up_and_nothing_is_paid_twice(
    server: Loopback, ask_rows: Ask, tmp_path: Path, killing: Any
) -> None:
    ask_and_be_killed(server, tmp_path / "journal.sqlite", killing(server))
    assert len(server.batches.made) == 1
    for _ in range(3):  # of other people, and more than one page of them
        server.batches.create({"input_file_id": "another", "metadata": {"bakeoff": "another"}})
    server.batches.looks = 1
    meter = Meter()
    answers = ask_rows(server.url, count=8, batch=True, meter=meter)
    assert [answer.label for answer in answers] == ["negative", "positive"] * 4
    assert len(server.batches.made) == 1 + 3 + 1
    assert rows_of_newest(server) == 2  # those that the killed process did not ask about
    assert set(texts(server).values()) == {1}
    assert meter.usd == pytest.approx(8 * ROW_USD)
    assert planned(tmp_path) == 0


def test_a_batch_that_was_planned_and_never_made_is_made(server: Loopback, ask_rows: Ask, tmp_path: Path) -> None:
    examples, endpoint = make_examples(6), make_endpoint(server.url)
    keys = [request_key(endpoint, build_request(make_spec(), example.inputs)) for example in examples]
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.plan_batch("killed-before-it-was-sent", keys)
    assert len(ask_rows(server.url, count=6, batch=True)) == len(server.requests) == 6
    assert planned(tmp_path) == 0


def test_a_batch_that_another_machine_has_planned_and_is_about_to_make_is_waited_for(
    server: Loopback, ask_rows: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MADE_WITHIN_S", 5.0)
    examples, endpoint = make_examples(6), make_endpoint(server.url)
    requests = {request_key(endpoint, each): each for each in (build_request(make_spec(), one.inputs) for one in examples)}
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.plan_batch("of-another-machine", requests)
    lines = [{"custom_id": key, "method": "POST", "url": batches.URL, "body": body} for key, body in requests.items()]
    made = {
        "input_file_id": server.batches.store("\n".join(map(json.dumps, lines))),
        "metadata": {batches.LABEL: "of-another-machine"},
    }
    other = threading.Timer(0.5, server.batches.create, [made])
    other.start()
    assert [each.failure for each in ask_rows(server.url, count=6, batch=True)] == [None] * 6
    other.join()
    assert len(server.batches.made) == 1
    assert set(texts(server).values()) == {1}


def test_who_asks_for_some_rows_of_a_batch_leaves_the_others_to_who_asks_for_them(
    server: Loopback, ask_rows: Ask, tmp_path: Path
) -> None:
    ask_and_be_killed(server, tmp_path / "journal.sqlite", kill_when_waiting(server))
    server.batches.looks = 1
    assert len(ask_rows(server.url, count=2, batch=True)) == 2
    assert planned(tmp_path) == 1
    assert [answer.label for answer in ask_rows(server.url, count=6, batch=True)] == ["negative", "positive"] * 3
    assert (len(server.batches.made), len(server.requests), planned(tmp_path)) == (1, 6, 0)


def test_new_rows_wait_for_the_money_that_a_batch_picked_up_may_take(server: Loopback, ask_rows: Ask, tmp_path: Path) -> None:
    ask_and_be_killed(server, tmp_path / "journal.sqlite", kill_when_waiting(server))
    server.batches.looks = 1
    cap = Cap(8 * WORST_USD)
    assert len(ask_rows(server.url, count=12, batch=True, cap=cap)) == 12
    assert cap.spent_usd == pytest.approx(12 * ROW_USD)
    assert (len(server.batches.made), rows_of_newest(server)) == (2, 6)


def test_two_runs_that_want_the_same_wait_for_one_batch(server: Loopback, ask_rows: Ask) -> None:
    server.batches.on_look = lambda: time.sleep(0.1)
    server.behave = lambda request, number: time.sleep(0.05)  # while one look has the batch worked on, the other run looks too
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: ask_rows(server.url, count=6, batch=True), range(2)))
    assert both[0] == both[1]
    assert len(server.batches.made) == 1
    assert set(texts(server).values()) == {1}
