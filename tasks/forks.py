"""Children that need not load the heavy libraries anew: one process loads them, once a run, and forks the rest.

Loading torch, transformers and peft takes a processor five seconds or more, and a bake-off starts a child for most of its stages.

    forks = Forks(environment)              starts `python -P -m tasks.forks`, which loads and then waits
    child = forks.start(module, …)          as `python -P -m module`, forked from it

What forks holds libraries and nothing else: no rows, no weights, no thread. On Linux alone, which has all that this takes; and not
where there is an NVIDIA GPU, whose driver does not outlive a fork. It ends with the process that started it.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

LOADED = ("torch", "datasets", "peft", "safetensors.torch", "tasks.tuning.trainer", "tasks.tuning.methods")
"""What nearly every child uses."""
READ_AT_LOADING = (
    *("ATEN_", "CUDA", "DNNL_", "GOMP_", "HF_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_"),
)
"""Variables that libraries read when they are loaded: children for whom one differs are not forked."""
SET_BY_LIBRARIES = {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"}
"""scikit-learn sets them in the parent, for itself."""
STATUS = struct.Struct("i")


def can_fork() -> bool:
    """Whether children can be forked on this machine."""
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


def show_name() -> None:
    """What `ps -e` and `top` call this process, on Linux: `tuning.train`, since all are forked from one command."""
    spec, place = sys.modules["__main__"].__spec__, Path("/proc/self/comm")
    if spec and place.exists():
        place.write_text(spec.name.removeprefix("tasks.")[:15], encoding="utf-8")


def end_quickly() -> None:
    """Have this process end without looking for garbage once more: with the libraries loaded, that takes two seconds."""
    atexit.register(gc.freeze)


class ForkFailed(Exception):
    """The process that forks is gone, or cannot fork; a child can still be started the plain way."""


class Forked:
    """A forked child, as far as `subprocess.Popen` is needed here."""

    def __init__(self, pid: int, handle: int, status: int, stdin: IO[bytes]) -> None:
        """Args:
        handle: the child's pidfd.
        status: where its exit status can be read once it has ended.
        """
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._handle, self._status = handle, status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit status, as `Popen` gives it; None while it runs."""
        return self._ended(0)

    def wait(self) -> int:
        """Wait until it has ended."""
        while (found := self._ended(1_000)) is None:
            pass
        return found

    def terminate(self) -> None:
        """Tell it to stop."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with self._lock:
            if self.returncode is None:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    signal.pidfd_send_signal(self._handle, number)

    def _ended(self, patience_ms: int) -> int | None:
        import select

        waiting = select.poll()
        with self._lock:
            if self.returncode is not None:
                return self.returncode
            waiting.register(self._handle, select.POLLIN)
        if not waiting.poll(patience_ms):
            return None
        with self._lock:
            if self.returncode is None:
                told = os.read(self._status, STATUS.size)  # nothing where the process that forked it was killed too
                self.returncode = STATUS.unpack(told)[0] if told else -signal.SIGKILL
            return self.returncode

    def __del__(self) -> None:
        os.close(self._handle)
        os.close(self._status)


class Forks:
    """The parent's side: starts the process that forks when it is first needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        self._socket = ours
        command = [sys.executable, "-P", "-m", "tasks.forks", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[theirs.fileno()], env=self.environment
        )
        theirs.close()

    def end(self) -> None:
        """End what forks; children that run go on."""
        self._socket.close()
        self.process.wait()

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether what is loaded is what a child of this environment would load."""
        own = self.environment
        differ = {name for name in {*own, *environment} if own.get(name) != environment.get(name)}
        return not any(name.startswith(READ_AT_LOADING) for name in differ - SET_BY_LIBRARIES)

    def start(self, module: str, environment: Mapping[str, str], channel: int) -> Forked:
        """Fork `python -P -m module channel`.

        Raises:
            ForkFailed: there is no child.
        """
        status, write_status = os.pipe()
        read_stdin, stdin = os.pipe()
        try:
            given = [read_stdin, sys.stderr.fileno(), channel, write_status]
            asked = json.dumps({"module": module, "environment": dict(environment), "folder": os.getcwd()}).encode()
            with self._lock:
                pid, handle = self._ask(asked, given)
        except BaseException as error:
            os.close(stdin)
            os.close(status)
            if isinstance(error, OSError | ValueError | IndexError):
                raise ForkFailed(f"{type(error).__name__}: {error}") from error
            raise
        finally:
            os.close(read_stdin)
            os.close(write_status)
        return Forked(pid, handle, status, os.fdopen(stdin, "wb"))

    def _ask(self, asked: bytes, given: list[int]) -> tuple[int, int]:
        """The new child's pid and pidfd."""
        try:
            socket.send_fds(self._socket, [struct.pack("I", len(asked))], given)
            self._socket.sendall(asked)
            told, handles, _, _ = socket.recv_fds(self._socket, STATUS.size, 1)
            return int(STATUS.unpack(told)[0]), handles[0]
        except BaseException:  # an answer that comes later would be taken for the next child's
            self._socket.close()
            raise


class Asked(NamedTuple):
    """A child to fork."""

    module: str
    environment: dict[str, str]
    folder: str
    stdin: int
    stderr: int
    channel: int
    status: int


class _Server:
    """The other side: loads, then forks whatever it is asked for. One thread, so that a fork leaves nothing behind."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.children: dict[int, int] = {}
        """Where the status of each is awaited, by its pid."""

    def serve(self) -> Asked | None:
        """Until the parent is gone: None. In each child it returns what that was forked for."""
        signal.signal(signal.SIGCHLD, self._reap)
        while asked := self._next():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            pid = os.fork()
            if pid == 0:
                self.channel.close()
                for status in (*self.children.values(), asked.status):
                    os.close(status)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
                return asked
            self.children[pid] = asked.status
            handle = os.pidfd_open(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            socket.send_fds(self.channel, [STATUS.pack(pid)], [handle])
            for unneeded in (handle, asked.stdin, asked.stderr, asked.channel):
                os.close(unneeded)
        return None

    def _next(self) -> Asked | None:
        size, handles, _, _ = socket.recv_fds(self.channel, 4, 4)
        if len(handles) < 4:
            return None
        wanted, text = struct.unpack("I", size)[0], b""
        while len(text) < wanted and (more := self.channel.recv(wanted - len(text))):
            text += more
        return Asked(**json.loads(text), stdin=handles[0], stderr=handles[1], channel=handles[2], status=handles[3])

    def _reap(self, *_: object) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            place = self.children.pop(pid)
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(place, STATUS.pack(os.waitstatus_to_exitcode(status)))
            os.close(place)


def _become(asked: Asked) -> None:
    """In a forked child: be `python -P -m module channel`."""
    for source, place in ((asked.stdin, 0), (asked.stderr, 1), (asked.stderr, 2)):
        os.dup2(source, place)
    for source in (asked.stdin, asked.stderr):
        os.close(source)
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, action)
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(asked.folder)
    sys.argv = [asked.module, str(asked.channel)]
    runpy.run_module(asked.module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Load, and fork until the parent is gone."""
    show_name()
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever sends them means the parent, whose end is ours
        signal.signal(number, signal.SIG_IGN)
    for module in LOADED:
        importlib.import_module(module)
    gc.freeze()  # what is loaded stays shared with children
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        asked = _Server(channel).serve()
    if asked:
        _become(asked)


if __name__ == "__main__":
    main()
