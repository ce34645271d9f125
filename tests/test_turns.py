"""Trainings on one accelerator take turns, on a real Prefect server."""

import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import turns
from tasks.child import run_child, taking_turns
from tasks.device import device_in_words
from tasks.errors import Stopped
from tasks.interrupt import interruptible
from tasks.turns import LEASE_S, training_turn, turn_name
from tests.live import environment, eventually


def active(api: httpx.Client) -> int:
    return int(api.get(f"/v2/concurrency_limits/{turn_name()}").raise_for_status().json()["active_slots"])


WAITS = "another run trains, this one waits for its turn"


def wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    eventually(lambda: text in caplog.text)


def in_thread(server: str, folder: Path, begun: threading.Event, end: threading.Event) -> threading.Thread:
    """Another run's training."""

    def train() -> None:
        with temporary_settings({PREFECT_API_URL: server}), training_turn(folder):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_training_waits_for_the_one_before_it_and_goes_when_that_has_ended(
    server: str, api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "AGAIN_S", 0.1)
    caplog.set_level(logging.INFO)
    first, second, end = threading.Event(), threading.Event(), threading.Event()
    one = in_thread(server, tmp_path, first, end)
    assert first.wait(30)
    other = in_thread(server, tmp_path, second, end)
    wait_for(WAITS, caplog)
    assert not second.wait(1)
    assert (active(api), caplog.text.count(WAITS)) == (1, 1)
    end.set()
    assert second.wait(30)
    for thread in (one, other):
        thread.join(30)
    assert active(api) == 0


@pytest.mark.slow
def test_a_run_that_is_ended_while_it_waits_for_its_turn_ends_at_once(
    server: str, api: httpx.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()
    holder = in_thread(server, tmp_path, begun, end)
    assert begun.wait(30)

    def wait() -> None:
        with temporary_settings({PREFECT_API_URL: server}), pytest.raises(Stopped, match="interrupted"), training_turn(tmp_path):
            pass
        ended.set()

    def interrupted_run() -> None:
        with interruptible():
            threading.Thread(target=wait, daemon=True).start()
            wait_for(WAITS, caplog)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    with interruptible():  # the next run begins
        pass
    assert ended.wait(30)
    end.set()
    holder.join(30)
    assert active(api) == 0


HOLD = """
import sys, time
from pathlib import Path
from tasks.turns import training_turn
with training_turn(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_turn_of_a_holder_that_was_killed_is_free_at_once_for_another_run_of_its_home(
    server: str, api: httpx.Client, root: Path, tmp_path: Path
) -> None:
    env = environment(PREFECT_API_URL=server, PYTHONPATH=str(root))
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    assert active(api) == 1
    with temporary_settings({PREFECT_API_URL: server}), training_turn(tmp_path):
        assert active(api) == 1
        assert len(list(tmp_path.glob("*.lock"))) == 1
    assert (active(api), list(tmp_path.glob("*.lock"))) == (0, [])


@pytest.mark.slow
def test_the_turn_of_a_holder_that_was_killed_is_had_by_a_run_of_another_home_once_its_lease_ends(
    server: str, api: httpx.Client, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In real time: Prefect gives no shorter lease, and looks for those that have ended every 15 s."""
    caplog.set_level(logging.INFO)
    env, began = environment(PREFECT_API_URL=server, PYTHONPATH=str(root)), time.monotonic()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "killed")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    begun, end = threading.Event(), threading.Event()
    other = in_thread(server, tmp_path / "other", begun, end)
    wait_for(WAITS, caplog)
    eventually(begun.is_set)
    assert time.monotonic() - began >= LEASE_S, "until then the holder might have lived"
    assert (active(api), len(list((tmp_path / "other").glob("*.lock")))) == (1, 1)  # it did not begin without a turn
    end.set()
    other.join(30)
    assert active(api) == 0


@pytest.mark.slow
def test_a_training_that_is_done_while_the_server_is_away_is_done(
    server: str, api: httpx.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as training:
        with temporary_settings({PREFECT_API_URL: server}):
            training.enter_context(training_turn(tmp_path))
        (lease,) = tmp_path.glob("*.lock")
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            training.close()
    assert "could not be given back" in caplog.text
    assert active(api) == 1  # until the lease ends
    api.post("/v2/concurrency_limits/decrement-with-lease", json={"lease_id": lease.stem}).raise_for_status()
    assert active(api) == 0


def test_without_a_server_or_with_one_out_of_reach_nothing_is_waited_for(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), training_turn(tmp_path):
        assert caplog.text == ""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), training_turn(tmp_path):
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


@pytest.mark.parametrize(
    ("seen", "given", "forced", "words"),
    [
        ("0,1", None, "cuda", "cuda 0,1"),
        ("1", "GPU-a", "cuda", "cuda 1"),
        (None, "GPU-a", "cuda", "cuda GPU-a"),
        (None, "all", "cuda", "cuda"),
        (None, None, "mps", "mps"),
        (None, "GPU-a", "cpu", "cpu"),
    ],
)
def test_the_device_is_named_without_torch(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, given: str | None, forced: str, words: str
) -> None:
    monkeypatch.setenv("BAKEOFF_DEVICE", forced)
    for name, value in (("CUDA_VISIBLE_DEVICES", seen), ("NVIDIA_VISIBLE_DEVICES", given)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert device_in_words() == words


def test_a_turn_is_named_after_the_machine_that_the_operator_names_not_after_the_pod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAKEOFF_DEVICE", "cpu")
    monkeypatch.setenv("BAKEOFF_MACHINE", "node 7.example")
    assert turn_name() == "training on node-7.example (cpu)"
    monkeypatch.delenv("BAKEOFF_MACHINE")
    assert turn_name() == f"training on {re.sub(r'[^A-Za-z0-9._-]+', '-', socket.gethostname())} (cpu)"
