"""Children that need not load the heavy libraries anew: one process loads them, once a run, and forks the rest.

Loading torch, transformers and peft takes a processor five seconds or more, and a bake-off starts a child for most of its stages.

    forks = Forks(environment)              starts `python -P -m tasks.forks`, which loads and then waits
    child = forks.start(module, …)          as `python -P -m module`, forked from it

What forks holds libraries and nothing else: no rows and no weights. On Linux alone, which has all that this takes; and not where
there is a GPU, whose driver does not outlive a fork. It ends with the process that started it.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

LOADED = ("torch", "datasets", "peft", "safetensors.torch", "tasks.tuning.trainer", "tasks.tuning.methods")
"""What nearly every child uses."""
READ_AT_LOADING = (
    *("ATEN_", "CUDA", "DNNL_", "GOMP_", "HF_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_"),
    *("ACCELERATE_", "ARROW_", "HOME", "JE_ARROW_", "TMPDIR", "TRITON_", "USE_", "XDG_"),
)
"""Variables that libraries read when they are loaded: children for whom one differs are not forked."""
SET_BY_LIBRARIES = {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"}
"""scikit-learn sets them in the parent, for itself."""
STATUS = struct.Struct("i")
LOST = 255
"""The status of a child of which nobody can tell it: what forked it ended first."""
GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
PATIENCE_S = 120.0
"""So long a child may take to be forked, all loading included."""


@cache
def can_fork() -> bool:
    """Whether children can be forked on this machine: some Pythons and kernels have no pidfds."""
    if sys.platform != "linux" or any(Path(device).exists() for device in GPUS):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return hasattr(signal, "pidfd_send_signal")


def show_name() -> None:
    """What `ps -e` and `top` call this process, on Linux: `tuning.train`, since all are forked from one command."""
    spec, place = sys.modules["__main__"].__spec__, Path("/proc/self/comm")
    if spec and place.exists():
        with suppress(OSError):  # some systems let nobody write it
            place.write_text(spec.name.removeprefix("tasks.")[:15], encoding="utf-8")


def end_quickly() -> None:
    """Have this process end without looking for garbage once more: with the libraries loaded, that takes two seconds."""
    atexit.register(gc.freeze)


class ForkFailed(Exception):
    """The process that forks is gone, or cannot fork; a child can still be started the plain way."""


class Forked:
    """A forked child, as far as `subprocess.Popen` is needed here."""

    def __init__(self, pid: int, pidfd: int, status: int, stdin: IO[bytes]) -> None:
        """Args:
        pidfd: tells when it has ended, and takes signals, whoever has its number by then.
        status: where its exit status can be read once it has ended.
        """
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._pidfd, self._status = pidfd, status
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
                    signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self, patience_ms: int) -> int | None:
        waiting = select.poll()
        with self._lock:
            if self.returncode is not None:
                return self.returncode
            waiting.register(self._pidfd, select.POLLIN)
        if not waiting.poll(patience_ms):
            return None
        with self._lock:
            if self.returncode is None:
                told = os.read(self._status, STATUS.size)  # nothing where the process that forked it was killed too
                self.returncode = STATUS.unpack(told)[0] if told else LOST
            return self.returncode

    def __del__(self) -> None:
        os.close(self._pidfd)
        os.close(self._status)


class Forks:
    """The parent's side: starts the process that forks when it is first needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Raises ForkFailed where no process can be started."""
        self.environment = dict(environment)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE_S)
        command = [sys.executable, "-P", "-m", "tasks.forks", str(theirs.fileno())]
        own = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # pyarrow's; a fork copies one thread alone
        with theirs:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    pass_fds=[theirs.fileno()],
                    env=self.environment | own,
                )
            except OSError as error:
                self._socket.close()
                raise ForkFailed(str(error)) from error

    def end(self) -> None:
        """End what forks; children that run go on."""
        self._socket.close()
        self.process.wait()

    @property
    def gone(self) -> bool:
        """Whether it has failed, and forks no more."""
        return self._socket.fileno() < 0

    def differs(self, environment: Mapping[str, str]) -> list[str]:
        """Variables because of which a child of this environment would load something else than what is loaded."""
        own = self.environment
        differ = {name for name in {*own, *environment} if own.get(name) != environment.get(name)}
        return sorted(name for name in differ - SET_BY_LIBRARIES if name.startswith(READ_AT_LOADING))

    def start(self, module: str, environment: Mapping[str, str], channel: int) -> Forked:
        """Fork `python -P -m module channel`.

        Raises:
            ForkFailed: there is no child.
        """
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            status, write_status, read_stdin, stdin = opened
            wanted = json.dumps({"module": module, "environment": dict(environment), "folder": os.getcwd()}).encode()
            with self._lock:
                pid, pidfd = self._ask(wanted, [read_stdin, sys.stderr.fileno(), channel, write_status])
        except BaseException as error:
            for descriptor in opened:
                os.close(descriptor)
            if isinstance(error, OSError | ValueError):
                raise ForkFailed(f"{type(error).__name__}: {error}") from error
            raise
        os.close(read_stdin)
        os.close(write_status)
        return Forked(pid, pidfd, status, os.fdopen(stdin, "wb"))

    def _ask(self, wanted: bytes, given: list[int]) -> tuple[int, int]:
        """The new child's pid and pidfd."""
        try:
            socket.send_fds(self._socket, [struct.pack("I", len(wanted))], given)
            self._socket.sendall(wanted)
            told, pidfds, _, _ = socket.recv_fds(self._socket, STATUS.size, 1)
            if len(told) < STATUS.size:
                raise ConnectionError("what forks children is gone")
        except BaseException:  # an answer that comes later would be taken for the next child's
            self._socket.close()
            raise
        number = int(STATUS.unpack(told)[0])
        if not pidfds:
            raise OSError(-number, os.strerror(-number))
        return number, pidfds[0]


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
    """The other side: loads, then forks whatever it is asked for. It starts no thread, so that a fork leaves nothing behind."""

    HELD = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)
    """Signals that wait while it forks: a child that is told to stop at once must not ignore it, as this process does."""

    def __init__(self, parent: socket.socket) -> None:
        self.parent = parent
        self.own = os.getpid()
        self.children: dict[int, int] = {}
        """Where the status of each is awaited, by its pid."""

    def load(self) -> bool:
        """Load the libraries; false where the parent ends meanwhile."""
        for module in LOADED:
            if self._is_alone():
                return False
            importlib.import_module(module)
        gc.freeze()  # what is loaded stays shared with children
        return True

    def serve(self) -> Asked | None:
        """Until the parent is gone: None. In each child it returns what that was forked for, with signals held."""
        signal.signal(signal.SIGCHLD, self._reap)
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # by libraries that allow for it
        while (asked := self._next()) and not self._is_alone():
            signal.pthread_sigmask(signal.SIG_BLOCK, self.HELD)
            pid = 0
            try:
                pid = os.fork()
                if pid == 0:
                    self.parent.close()
                    for status in (*self.children.values(), asked.status):
                        os.close(status)
                    return asked
                self.children[pid] = asked.status
                pidfd = os.pidfd_open(pid)
            except OSError as error:  # no memory, or too many processes or files
                if pid:
                    os.kill(pid, signal.SIGKILL)  # its end closes the status
                else:
                    os.close(asked.status)
                with suppress(BrokenPipeError):
                    self.parent.sendall(STATUS.pack(-(error.errno or 1)))
            else:
                with suppress(BrokenPipeError):  # the parent is gone, and the child will see it too
                    socket.send_fds(self.parent, [STATUS.pack(pid)], [pidfd])
                os.close(pidfd)
            finally:
                if os.getpid() == self.own:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, self.HELD)
            for unneeded in (asked.stdin, asked.stderr, asked.channel):
                os.close(unneeded)
        return None

    def _is_alone(self) -> bool:
        """Whether the parent has ended."""
        waiting = select.poll()
        waiting.register(self.parent, select.POLLRDHUP)
        return bool(waiting.poll(0))

    def _next(self) -> Asked | None:
        size, descriptors, _, _ = socket.recv_fds(self.parent, 4, 4)
        if len(descriptors) < 4:
            return None
        wanted, text = struct.unpack("I", size)[0], b""
        while len(text) < wanted and (more := self.parent.recv(wanted - len(text))):
            text += more
        if len(text) < wanted:
            return None
        stdin, stderr, channel, status = descriptors
        return Asked(**json.loads(text), stdin=stdin, stderr=stderr, channel=channel, status=status)

    def _reap(self, *_: object) -> None:
        while self.children:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # another such call, which this one interrupted, has it
                return
            if pid == 0:
                return
            awaited = self.children.pop(pid)
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(awaited, STATUS.pack(os.waitstatus_to_exitcode(ended)))
            os.close(awaited)


def _become(asked: Asked) -> None:
    """In a forked child: be `python -P -m module channel`."""
    import numpy

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _Server.HELD)
    for source, place in ((asked.stdin, 0), (asked.stderr, 1), (asked.stderr, 2)):
        os.dup2(source, place)
    for source in (asked.stdin, asked.stderr):
        os.close(source)
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(asked.folder)
    numpy.random.seed()
    sys.argv = [asked.module, str(asked.channel)]
    runpy.run_module(asked.module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Load, and fork until the parent is gone."""
    show_name()
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever sends them means the parent, whose end is ours
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        server = _Server(parent)
        asked = server.serve() if server.load() else None
    if asked:
        _become(asked)


if __name__ == "__main__":
    main()
