"""Work in a child process: its memory, signals and threads are its own, and a kill of it is an error here, not the end of the run.

    result = run_child("tasks.tuning.train", {"job": …})        in the parent
    if __name__ == "__main__": serve_child(train)               in the module: `train(request) -> result`, both JSON

The child talks in JSON lines on a pipe of its own (what libraries print goes to standard error): progress, logs, then one result or
error. It ends when its parent does.
"""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NoReturn

from tasks import errors
from tasks.progress import Bar, listening, progress

logger = logging.getLogger(__name__)
GENTLE = {"GOMP_SPINCOUNT": "3000"}
"""Torch's threads spin for microseconds when they wait for each other, then sleep: on cores that others use too, spinning on made
training ten times slower; sleeping at once costs a quarter of the speed on idle ones."""

APART = ("transformers", "huggingface_hub")
"""Libraries whose logs do not reach the root logger."""


def run_child(module: str, request: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Any:
    """Run `python -m module` on a request and return its result.

    Args:
        module: has `serve_child(function)` under its `__main__` guard.
        request: anything JSON; it travels on standard input, so it shows in no process list.
        env: added to the environment.

    Raises:
        BakeoffError: of the type that the child raised, with its message.
        ChildDied: the child ended without a result (killed, out of memory).
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", module, str(writer)]  # -P: no module of the working folder
    environment = {**GENTLE, **os.environ, **(env or {})}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, pass_fds=[writer], env=environment)
    os.close(writer)
    assert child.stdin
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()  # left open: its end tells the child that the parent is gone
        with os.fdopen(reader, encoding="utf-8") as lines:
            outcome = _follow(map(json.loads, lines))
        status = child.wait()
    except BrokenPipeError:
        status, outcome = child.wait(), None
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        child.stdin.close()
    if outcome is None:
        raise errors.ChildDied(f"{module} {_ended(status)} before it had a result; run again to go on where it was")
    return _result(outcome)


def serve_child(function: Callable[[Any], Any]) -> NoReturn:
    """The child's side of `run_child`: read the request, tell progress and logs, send the result, exit."""
    channel = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    forward = _Forward(send)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[forward], force=True)
    for name in APART:
        logging.getLogger(name).addHandler(forward)
    logging.getLogger("tasks.progress").setLevel(logging.WARNING)  # the parent logs the bars that it is told of
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        with listening(lambda bar: send({"bar": [bar.title, bar.total, bar.done, bar.note, bar.finished]})):
            send({"result": function(request)})
    except errors.BakeoffError as error:
        send({"error": [type(error).__name__, str(error)]})
    sys.exit(0)


class _Forward(logging.Handler):
    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send({"log": [record.name, record.levelno, self.format(record)]})


def _follow(messages: Any) -> dict[str, Any] | None:
    """Pass on progress and logs until the result or error comes; None when neither does."""
    with ExitStack() as stack:
        bars: dict[str, Bar] = {}
        for message in messages:
            if "log" in message:
                name, level, text = message["log"]
                logging.getLogger(name).log(level, "%s", text)
            elif "bar" in message:
                _show(stack, bars, *message["bar"])
            else:
                return dict(message)
    return None


def _show(stack: ExitStack, bars: dict[str, Bar], title: str, total: float, done: float, note: str, finished: bool) -> None:
    if title not in bars:
        bars[title] = stack.enter_context(progress(title, total))
    bars[title].move(done, note)
    if finished:
        bars.pop(title)


def _result(outcome: dict[str, Any]) -> Any:
    if "error" in outcome:
        name, text = outcome["error"]
        raise getattr(importlib.import_module("tasks.errors"), name)(text)
    return outcome["result"]


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL: often the system is out of memory)"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _die_with_parent() -> None:
    sys.stdin.read()  # returns when the parent closes the pipe, by will or by death
    os._exit(3)
