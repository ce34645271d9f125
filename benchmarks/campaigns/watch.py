"""The server that the killed processes ask: it knows which of them sent what."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.campaigns.asker import KEY_ENV
from tests.live import environment
from tests.prompting.loopback import Loopback, Say, completion

ROOT = Path(__file__).parents[2]


def by_content(request: dict[str, Any], _number: int) -> Say:
    """An answer that goes by the conversation alone, after 5 to 45 ms: steps, a label, or now and then nothing that can be read."""
    chance = zlib.crc32(json.dumps(request["messages"], sort_keys=True).encode())
    text = json.dumps({"label": ("negative", "positive")[chance % 2]}) if "response_format" in request else f"Step {chance}."
    return Say(completion("no label" if chance % 23 == 0 else text), after_s=0.005 + chance % 40 / 1000)


class Watch(Loopback):
    """Notes for every request the process that sent it, by the number in its key (`life-3`)."""

    def __init__(self, behave: Callable[[dict[str, Any], int], Say | None] = by_content) -> None:
        super().__init__(behave)
        self.sent: list[tuple[int, str]] = []
        """Process and body, in the order of arrival."""
        self._noting = threading.Lock()
        self._server.handle_error = self._of_killed  # type: ignore[assignment]

    def _of_killed(self, request: Any, address: Any) -> None:
        """Processes that are killed reset connections and leave requests half sent; other errors are told."""
        if not isinstance(sys.exc_info()[1], ConnectionError | json.JSONDecodeError):
            type(self._server).handle_error(self._server, request, address)

    def answer(self, request: dict[str, Any], headers: dict[str, str]) -> Say:
        """Note the request, then answer it."""
        if "path" not in request:
            with self._noting:
                self.sent.append((int(headers["authorization"].rpartition("-")[2]), json.dumps(request, sort_keys=True)))
        return super().answer(request, headers)


def repeats(sent: Sequence[tuple[int, str]], planned: Mapping[str, int] | None = None) -> tuple[Counter[int], int]:
    """By process: how many of its requests were sent again by a later one. And how many one process sent twice itself.

    Args:
        planned: how often an unbroken run sends each body; the last ones, beyond the first, are not counted.
    """
    by_kill: Counter[int] = Counter()
    within = 0
    left = Counter(body for _, body in sent)
    last: dict[str, int] = {}
    for life, body in sent:
        planned_ones = (planned or {}).get(body, 1) - 1
        if body in last and left[body] > planned_ones:
            by_kill[last[body]] += life != last[body]
            within += life == last[body]
        left[body] -= 1
        last[body] = life
    return by_kill, within


def start_asker(server: Loopback, folder: Path, rows: int, life: int, how: str) -> "subprocess.Popen[bytes]":
    """A process that asks, its standard error in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.campaigns.asker", server.url, str(folder), str(rows), how]
    env = environment(OMP_NUM_THREADS="1", **{KEY_ENV: f"life-{life}"})
    with (folder / f"life-{life}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=log)


def wait_until(there: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    """Until something is there, or the process has ended."""
    while process.poll() is None and not there():
        time.sleep(0.002)


def kill(process: "subprocess.Popen[Any]") -> bool:
    """SIGKILL; whether the process was still running."""
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def finish(process: "subprocess.Popen[bytes]", folder: Path, life: int) -> None:
    """Wait for the end. Raises RuntimeError when it is no good one."""
    if process.wait(600):
        raise RuntimeError(
            f"the process ended with status {process.returncode}: {(folder / f'life-{life}.log').read_text()[-3000:]}"
        )


def answers_in(folder: Path) -> list[dict[str, Any]]:
    """What the process wrote down."""
    return list(json.loads((folder / "answers.json").read_text()))
