import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import child
from tasks.child import run_child
from tasks.errors import BadData, ChildDied
from tasks.forks import Forks, can_fork
from tasks.progress import listening
from tests.live import descendants

ECHO = "tests.children.echo"
ROOT = {"PYTHONPATH": str(Path(__file__).parent.parent)}
"""Where children find the tests."""


@pytest.fixture(scope="module")
def forks() -> Iterator[list[Forks]]:
    """What forks children that find the tests."""
    if not can_fork():
        pytest.skip("children are not forked on this machine")
    own = [Forks({**child.GENTLE, **os.environ, **child.OFFLINE, **ROOT})]
    yield own
    own[0].end()


@pytest.fixture(params=["plain", "forked"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How children start: alone, or forked from a process that has loaded the libraries."""
    if request.param == "plain":
        monkeypatch.setattr(child, "can_fork", lambda: False)
    else:
        monkeypatch.setattr(child, "_forks", request.getfixturevalue("forks"))
    return str(request.param)


def echo(request: dict[str, object]) -> Any:
    return run_child(ECHO, request, env=ROOT)


def test_a_child_returns_its_result_and_passes_on_logs_and_progress(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    heard: list[tuple[str, float, str]] = []
    with listening(lambda bar: heard.append((bar.title, bar.done, bar.note))):
        result = echo({"say": "hello"})
    assert result["request"] == {"say": "hello"}
    assert result["pid"] != os.getpid()
    assert (result["parent"] == os.getpid()) == (how == "plain")
    assert caplog.text.count("told hello") == 1
    assert caplog.text.count("trained hello") == 1, "transformers keeps its log from the root logger"
    assert ("steps", 2, "two") in heard


def test_an_error_of_ours_crosses_over_with_its_type_and_message(how: str) -> None:
    with pytest.raises(BadData, match="row 3 is empty"):
        echo({"refuse": True})


def test_a_child_that_crashes_or_is_killed_is_an_error_not_the_end(how: str) -> None:
    with pytest.raises(ChildDied, match="ended with status 1"):
        echo({"crash": True})
    with pytest.raises(ChildDied, match="SIGKILL"):
        echo({"die": True})


def _parent(pids: Path, forked: bool) -> None:
    if not forked:
        child.can_fork = lambda: False  # type: ignore[assignment]
    os.environ |= ROOT

    def tell(_: object) -> None:
        if not pids.exists():
            (aside := pids.with_suffix(".aside")).write_text(str(descendants("tests.children.")[0].pid))
            aside.rename(pids)

    with listening(tell):
        echo({"sleep": 60})


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, how: str) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=_parent, args=(tmp_path / "pid", how == "forked"))
    parent.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert parent.pid
    started = psutil.Process(parent.pid).children(recursive=True)
    assert int((tmp_path / "pid").read_text()) in {each.pid for each in started}
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == [], "what forked it ends too"


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_child_that_cannot_be_forked_starts_the_plain_way(
    moment: str, forks: list[Forks], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Forks({**child.GENTLE, **os.environ, **child.OFFLINE, **ROOT})
    known = [gone]
    monkeypatch.setattr(child, "_forks", known)
    if moment == "before":
        gone.process.kill()
        gone.process.wait()
    else:
        gone.process.send_signal(signal.SIGSTOP)  # it holds the request
        threading.Timer(1, gone.process.kill).start()
    found = echo({})
    assert (found["request"], found["parent"]) == ({}, os.getpid())
    assert known == []


def test_a_fork_that_the_system_refuses_is_told_and_the_next_child_is_forked(
    forks: list[Forks], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(child, "_forks", forks)
    here = forks[0].process.pid
    soft, hard = resource.prlimit(here, resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir(f"/proc/{here}/fd")}
    free = [number for number in range(1000) if number not in used]
    resource.prlimit(here, resource.RLIMIT_NOFILE, (free[4], hard))  # what the child is given fits, and no more
    try:
        assert echo({})["parent"] == os.getpid()
    finally:
        resource.prlimit(here, resource.RLIMIT_NOFILE, (soft, hard))
    assert echo({})["parent"] == here


def test_what_forks_ends_with_its_parent_while_it_loads(tmp_path: Path) -> None:
    if not can_fork():
        pytest.skip("children are not forked on this machine")
    script = "from tasks.child import prepare_children; prepare_children()"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=60)
    assert time.monotonic() - started < 60, "its output was open until the last one ended"


def test_a_child_with_another_environment_finds_it_and_one_whose_libraries_would_load_otherwise_is_not_forked(
    forks: list[Forks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_forks", forks)
    found = run_child(ECHO, {"tell": "BAKEOFF_HOME"}, env={**ROOT, "BAKEOFF_HOME": "there"})
    assert (found["told"], found["parent"]) == ("there", forks[0].process.pid)
    found = run_child(ECHO, {"tell": "OMP_NUM_THREADS"}, env={**ROOT, "OMP_NUM_THREADS": "7"})
    assert (found["told"], found["parent"]) == ("7", os.getpid())
