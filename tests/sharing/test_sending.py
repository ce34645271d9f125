import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tasks.sharing import sending
from tasks.sharing.sending import Sender

SELDOM_S = 60.0


@contextmanager
def sender(send: Callable[[], bool], every_s: float = SELDOM_S) -> Iterator[Sender]:
    made = Sender(send, every_s)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.end()
    thread.join(10)
    assert not thread.is_alive()


class Held:
    """A sending that ends when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.count = 0

    def send(self) -> bool:
        self.begun.set()
        assert self.go.wait(10)
        self.count += 1
        return True


def test_all_that_ask_while_one_is_sent_are_served_by_the_next_sending() -> None:
    held = Held()
    with sender(held.send) as each:
        begun = each.soon()
        assert held.begun.wait(10)
        waiting = [each.soon() for _ in range(20)]
        assert not any(one.done() for one in [begun, *waiting]), "the sending under way may have read too early for them"
        held.go.set()
        for one in [begun, *waiting]:
            one.result(10)
        assert held.count == 2


def test_nobody_waits_for_a_store_that_failed_until_it_has_worked_again() -> None:
    works = [False]
    with sender(lambda: works[0], every_s=0.05) as each:
        each.soon().result(10)
        assert each.soon().done(), "it failed the last time"
        each.soon(insist=True).result(10)
        works[0] = True
        deadline = time.monotonic() + 10
        while each.soon().done():
            assert time.monotonic() < deadline, "it works again, and is waited for"


def test_nobody_more_waits_for_a_sending_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE_S", 0.1)
    held = Held()
    with sender(held.send) as each:
        one = each.soon()
        assert held.begun.wait(10)
        time.sleep(0.2)
        assert each.soon().done()
        assert not one.done()
        assert one.cancel(), "its asker gave up"
        held.go.set()
        each.soon(insist=True).result(10)


def test_an_error_that_nobody_foresaw_is_logged_and_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def send() -> bool:
        tried.append("once")
        raise OSError("no space left")

    with sender(send) as each:
        each.soon().result(10)
        each.soon(insist=True).result(10)
        assert len(tried) == 2, "the thread goes on"
    assert "no space left" in caplog.text


def test_who_asked_before_the_end_is_served() -> None:
    held = Held()
    with sender(held.send) as each:
        each.soon()
        assert held.begun.wait(10)
        one = each.soon()
        each.end()
        held.go.set()
        one.result(10)
    assert held.count == 2


def test_who_asks_after_the_end_does_not_wait() -> None:
    with sender(lambda: True) as each:
        pass
    assert each.soon().done()
