"""Work in a child process: its memory, signals and threads are its own, and a kill of it is an error here, not the end of the run.

    result = run_child("tasks.tuning.train", {"job": …})        in the parent
    if __name__ == "__main__": serve_child(train)               in the module: `train(request) -> result`, both JSON

The child talks in JSON lines on a pipe of its own (what libraries print goes to standard error): progress, logs, then one result or
error. It ends when its parent does. One that is `graceful` is first told to stop, and has `GRACE_S` to write down where it is.

Several processes of a module can work as one (`processes`): each finds in its environment what `torchrun` would put there, the
first one speaks for all, and when one dies all end. By hand: `torchrun --nproc-per-node 2 -m MODULE request.json`.
"""

import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from tasks import errors
from tasks.forks import LOST, Forked, ForkFailed, Forks, can_fork, end_quickly, show_name
from tasks.interrupt import when_interrupted
from tasks.progress import Bar, listening, progress

logger = logging.getLogger(__name__)
GENTLE = {
    "GOMP_SPINCOUNT": "3000",
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
}
"""What Apple's Metal lacks runs on the CPU. And torch's threads spin for microseconds when they wait for each other, then sleep: on
cores that others use too, spinning on made training ten times slower; sleeping at once costs a quarter on idle ones. glibc keeps
the memory of tensors for the next step instead of giving it back each time: 3 % of a training on a CPU."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What children need from the Hub is on this machine before they start."""
GRACE_S = 25.0
"""So long a graceful child has once it is told to stop; whoever stops machines gives 30 s as a rule."""
POLL_S = 0.1

told_to_stop = threading.Event()
"""In a graceful child: whether it was told to stop, or its parent is gone."""
_was_asked = threading.Event()
_turn: "ContextVar[Callable[[], AbstractContextManager[None]]]" = ContextVar("turn", default=nullcontext)
Child = Forked | subprocess.Popen[bytes]
_running: set[Child] = set()
_ending = threading.Event()
_forks: list[Forks] = []
"""What forks this process's children, once the first was started."""
_forks_lock = threading.Lock()

APART = ("transformers", "huggingface_hub")
"""Libraries whose logs do not reach the root logger."""


@contextmanager
def children_end() -> Iterator[None]:
    """For the time of a `with`: when it is left by an exception (a signal, Ctrl-C), children that still run are told to stop, and
    are waited for while they write down where they are. Then no child starts any more, until another such `with` begins."""
    _ending.clear()
    try:
        yield
    except BaseException:
        _ending.set()
        _end(list(_running))
        raise


@contextmanager
def taking_turns(turn: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """For the time of a `with`, every child that this thread starts runs within a `with turn()` of its own."""
    before = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(before)


def run_child(
    module: str, request: Mapping[str, Any], env: Mapping[str, str] | None = None, processes: int = 1, light: bool = False
) -> Any:
    """Run `python -m module` on a request and return its result.

    Args:
        module: has `serve_child(function)` under its `__main__` guard.
        request: anything JSON; it travels on standard input, so it shows in no process list.
        env: added to the environment.
        processes: so many of them work as one; the result is the first one's.
        light: it loads no torch, and so is not worth forking from a process that has.

    Raises:
        BakeoffError: of the type that the child raised, with its message.
        Stopped: the run is being ended.
        ChildDied: the child ended without a result (killed, out of memory).
    """
    with _turn.get()():
        return _run(module, request, env, processes, light)


def _run(module: str, request: Mapping[str, Any], env: Mapping[str, str] | None, processes: int, light: bool) -> Any:
    if _ending.is_set():
        raise errors.Stopped(f"{module} was not started, since the run is being ended; run again to go on where it was")
    reader, writer = os.pipe()
    environment = {**GENTLE, **os.environ, **OFFLINE, **(env or {})}
    forked = _fork(module, environment, writer) if processes == 1 and not light and can_fork() else None
    team = [forked] if forked else [_start(module, environment | own, writer) for own in _memberships(processes, environment)]
    os.close(writer)
    died: list[int] = []
    threading.Thread(target=_watch, args=(team, died), daemon=True).start()
    try:
        with when_interrupted(lambda: _tell_to_stop(team)):
            outcome = _ask(team, request, reader)
            if outcome is None or "error" in outcome:
                _wait(team, 2.0)
                _kill(team)  # one of several may wait for one that is gone
            for child in team:
                child.wait()
            if outcome is None:
                status = died[0] if died else team[0].wait()
                raise errors.ChildDied(f"{module} {_ended(status)} before it had a result; run again to go on where it was")
            return _result(outcome)
    finally:
        _end(team)
        _running.difference_update(team)


def prepare_children() -> None:
    """Begin to load what children need, so that it is there when the first one starts. Returns at once."""
    if can_fork():
        with suppress(ForkFailed):
            _prepared()


def _prepared() -> Forks:
    with _forks_lock:
        if not _forks:
            _forks.append(Forks({**GENTLE, **os.environ, **OFFLINE}))
        return _forks[0]


def _start(module: str, environment: Mapping[str, str], writer: int) -> Child:
    command = [sys.executable, "-P", "-m", module, str(writer)]  # -P: no module of the working folder
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, pass_fds=[writer], env=environment)
    _running.add(child)
    return child


def _fork(module: str, environment: Mapping[str, str], writer: int) -> Child | None:
    """The same, forked from a process that has loaded the libraries; None where that cannot be had."""
    try:
        forks = _prepared()
        differs = forks.differs(environment)
        if differs:
            logger.debug("%s is started the plain way: what is loaded was loaded with another %s", module, differs[0])
            return None
        child = forks.start(module, environment, writer)
    except ForkFailed as error:
        logger.info("%s is started the plain way, since it could not be forked: %s", module, error)
        with _forks_lock:
            _forks[:] = [each for each in _forks if not each.gone]
        return None
    _running.add(child)
    return child


def _memberships(processes: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What each process finds in its environment, by torchrun's names; nothing where there is one."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = environment.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    shared |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return [{name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()} for rank in range(processes)]


def _ask(team: Sequence[Child], request: Mapping[str, Any], reader: int) -> dict[str, Any] | None:
    """Hand over the request and hear what comes back until the end; None where nothing does."""
    with os.fdopen(reader, encoding="utf-8") as lines:
        try:
            for child in team:
                assert child.stdin
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()  # left open: its end tells the child that the parent is gone
        except BrokenPipeError:
            return None
        return _follow(map(json.loads, lines))


def _watch(team: Sequence[Child], died: list[int]) -> None:
    """When one of several dies, the others would wait for it for ever: they are killed, and its status is noted."""
    while any(child.poll() is None for child in team):
        died += [child.returncode for child in team if child.returncode][: 1 - len(died)]
        if died:
            _kill(team)
        time.sleep(POLL_S)


def _end(team: Sequence[Child]) -> None:
    """Tell children to stop, wait while they do, and kill those that do not."""
    _tell_to_stop(team)
    _wait(team, GRACE_S + 5)
    _kill(team)
    for child in team:
        child.wait()
        if child.stdin and not child.stdin.closed:
            child.stdin.close()


def _tell_to_stop(team: Sequence[Child]) -> None:
    for child in team:
        if child.poll() is None:
            child.terminate()


def _wait(team: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(child.poll() is None for child in team) and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def _kill(team: Sequence[Child]) -> None:
    for child in team:
        if child.poll() is None:
            child.kill()


def serve_child(function: Callable[[Any], Any], graceful: bool = False) -> NoReturn:
    """The child's side of `run_child`: read the request, tell progress and logs, send the result, exit.

    Args:
        graceful: `function` looks at `told_to_stop`, and raises once it has written down where it is. Others end at once.
    """
    show_name()
    end_quickly()
    by_hand = not sys.argv[1].isdigit()
    channel = sys.stdout.fileno() if by_hand else int(sys.argv[1])
    lock = threading.Lock()
    speaks = os.environ.get("RANK", "0") == "0"

    def send(message: dict[str, Any]) -> None:
        if not speaks and "error" not in message:
            return
        try:
            with lock:
                _write(channel, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the parent is gone
            _stop_soon() if graceful else os._exit(3)

    forward = _Forward(send)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[forward], force=True)
    for name in APART:
        logging.getLogger(name).addHandler(forward)
    logging.getLogger("tasks.progress").setLevel(logging.WARNING)  # the parent logs the bars that it is told of
    _heed_signals(graceful)
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8") if by_hand else sys.stdin.readline())
    _was_asked.set()
    if not by_hand:
        threading.Thread(target=_end_with_parent, args=(graceful,), daemon=True).start()
    try:
        with listening(lambda bar: send({"bar": [bar.title, bar.total, bar.done, bar.note, bar.finished]})):
            send({"result": function(request)})
    except errors.BakeoffError as error:
        send({"error": [type(error).__name__, str(error)]})
    sys.exit(0)


def _write(channel: int, line: bytes) -> None:
    while line:
        line = line[os.write(channel, line) :]


def _heed_signals(graceful: bool) -> None:
    """Ctrl-C in a terminal reaches children too: it is their parent's to say what becomes of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if graceful:
        signal.signal(signal.SIGTERM, lambda *_: _stop_soon())


def _stop_soon() -> None:
    """Tell this process to stop; it ends all the same when the grace is over, and at once where there is nothing to write down."""
    if not _was_asked.is_set():
        os._exit(3)
    if not told_to_stop.is_set():
        told_to_stop.set()
        clock = threading.Timer(GRACE_S, os._exit, [3])
        clock.daemon = True
        clock.start()


class _Forward(logging.Handler):
    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "forwarded"):  # passed on to the root logger as well: transformers does where CI is set
            return
        record.forwarded = True
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
    bars[title].total = total  # a child may learn of it when it has begun
    bars[title].move(done, note)
    if finished:
        bars.pop(title)


def _result(outcome: dict[str, Any]) -> Any:
    if "error" in outcome:
        name, text = outcome["error"]
        raise getattr(importlib.import_module("tasks.errors"), name)(text)
    return outcome["result"]


def _ended(status: int) -> str:
    if status == LOST:
        return "ended, and nobody can tell how,"
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL: often the system is out of memory)"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _end_with_parent(graceful: bool) -> None:
    sys.stdin.read()  # returns when the parent closes the pipe, by will or by death
    _stop_soon() if graceful else os._exit(3)
