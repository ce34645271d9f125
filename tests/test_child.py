import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.child import run_child
from tasks.errors import BadData, ChildDied
from tasks.progress import listening

ECHO = "tests.children.echo"


def echo(request: dict[str, object]) -> Any:
    return run_child(ECHO, request, env={"PYTHONPATH": str(Path(__file__).parent.parent)})


def test_a_child_returns_its_result_and_passes_on_logs_and_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    heard: list[tuple[str, float, str]] = []
    with listening(lambda bar: heard.append((bar.title, bar.done, bar.note))):
        result = echo({"say": "hello"})
    assert result["request"] == {"say": "hello"}
    assert result["pid"] != os.getpid()
    assert caplog.text.count("told hello") == 1
    assert caplog.text.count("trained hello") == 1, "transformers keeps its log from the root logger"
    assert ("steps", 2, "two") in heard


def test_an_error_of_ours_crosses_over_with_its_type_and_message() -> None:
    with pytest.raises(BadData, match="row 3 is empty"):
        echo({"refuse": True})


def test_a_child_that_crashes_or_is_killed_is_an_error_not_the_end() -> None:
    with pytest.raises(ChildDied, match="ended with status 1"):
        echo({"crash": True})
    with pytest.raises(ChildDied, match="SIGKILL"):
        echo({"die": True})


def _parent(pids: Path) -> None:
    os.environ["PIDS"] = str(pids)
    with listening(lambda bar: pids.write_text(str(_youngest_child()))):
        echo({"sleep": 60})


def _youngest_child() -> int:
    import psutil

    return max(child.pid for child in psutil.Process().children())


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    import psutil

    parent = multiprocessing.get_context("spawn").Process(target=_parent, args=(tmp_path / "pid",))
    parent.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    assert parent.pid
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []
