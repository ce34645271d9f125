"""Trainings on one accelerator take turns, on a real Prefect server."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import turns
from tasks.child import run_child, taking_turns
from tasks.device import device_in_words
from tasks.errors import Stopped
from tasks.interrupt import interruptible
from tasks.turns import training_turn, turn_name


def active(api: httpx.Client) -> int:
    return int(api.get(f"/v2/concurrency_limits/{turn_name()}").raise_for_status().json()["active_slots"])


def in_thread(server: str, begun: threading.Event, end: threading.Event) -> threading.Thread:
    """Another run's training."""

    def train() -> None:
        with temporary_settings({PREFECT_API_URL: server}), training_turn():
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_training_waits_for_the_one_before_it_and_goes_when_that_has_ended(
    server: str, api: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "AGAIN_S", 0.1)
    caplog.set_level(logging.INFO)
    first, second, end = threading.Event(), threading.Event(), threading.Event()
    one = in_thread(server, first, end)
    assert first.wait(30)
    other = in_thread(server, second, end)
    assert not second.wait(1)
    assert (active(api), caplog.text.count("another run trains, this one waits for its turn")) == (1, 1)
    end.set()
    assert second.wait(30)
    for thread in (one, other):
        thread.join(30)
    assert active(api) == 0


@pytest.mark.slow
def test_a_run_that_is_ended_while_it_waits_for_its_turn_ends_at_once(server: str, api: httpx.Client) -> None:
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()
    holder = in_thread(server, begun, end)
    assert begun.wait(30)

    def wait() -> None:
        with temporary_settings({PREFECT_API_URL: server}), pytest.raises(Stopped, match="interrupted"), training_turn():
            pass
        ended.set()

    def interrupted_run() -> None:
        with interruptible():
            threading.Thread(target=wait, daemon=True).start()
            time.sleep(0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert ended.wait(30)
    end.set()
    holder.join(30)
    assert active(api) == 0


def test_without_a_server_or_with_one_out_of_reach_nothing_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), training_turn():
        assert caplog.text == ""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), training_turn():
        assert "gives no turn of" in caplog.text


def test_every_child_that_trains_has_a_turn_of_its_own_and_no_other_child_has() -> None:
    taken: list[str] = []

    @contextmanager
    def turn() -> Iterator[None]:
        taken.append("begun")
        yield
        taken.append("ended")

    def echo() -> None:
        run_child("tests.children.echo", {"say": "hello"}, env={"PYTHONPATH": str(Path(__file__).parent.parent)})

    with taking_turns(turn):
        echo()
        echo()
    echo()
    assert taken == ["begun", "ended"] * 2


@pytest.mark.parametrize(("seen", "forced", "words"), [("0,1", "cuda", "cuda 0,1"), (None, "mps", "mps"), (None, "cpu", "cpu")])
def test_the_device_is_named_without_torch(monkeypatch: pytest.MonkeyPatch, seen: str | None, forced: str, words: str) -> None:
    monkeypatch.setenv("BAKEOFF_DEVICE", forced)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert device_in_words() == words
