"""One background server for any number of user processes of this machine, shared through a folder.

    with shared(service) as state: …          a user: the first one starts the server, the last one's end stops it
    if __name__ == "__main__": keep(serving)  the server's own process, which `service.command` starts

Who lives is told by locks (`flock`) that the kernel drops when their holder dies, however it dies: no process id is reused, no
clock matters, nothing has to be cleaned up. In the folder:

    lock          held while a user joins, or while the server decides to stop
    keeper.lock   held by the keeper, the process that runs `keep`; contains its process id
    server.lock   held by the server's own process where it has one (`spawn`); contains its process id
    users/        one locked file a user
    state.json    where the server listens, readable by its owner alone; there while it answers
    log           what keeper and server print
"""

import ctypes
import fcntl
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn

from tasks.errors import BakeoffError

logger = logging.getLogger(__name__)

State = dict[str, Any]
Serving = Callable[[Path], AbstractContextManager[tuple[State, Callable[[], bool]]]]

PAUSE_S = 0.3
STOP_S = 15.0


class _Lock:
    """A lock file, held until `release` or the end of this process. A forked child holds no copy, unless `inherited`."""

    held: "ClassVar[set[_Lock]]" = set()

    def __init__(self, path: Path, inherited: bool = False) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not inherited:
            self.held.add(self)
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def write(self, number: int) -> None:
        _write_pid(self.file, number)

    def release(self) -> bool:
        """Whether this process held it."""
        self.held.discard(self)
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)  # what a child has inherited keeps its lock
        return file >= 0

    @classmethod
    def forget(cls) -> None:
        """In a forked child: a copy kept here would outlive the parent."""
        for lock in list(cls.held):
            lock.release()


os.register_at_fork(after_in_child=_Lock.forget)


@dataclass(frozen=True)
class Service:
    """A server that can be shared."""

    name: str
    folder: Path
    command: tuple[str, ...]
    """Its keeper: a module that calls `keep`. Started with two more arguments, the folder and a lock to inherit."""
    healthy: Callable[[State], bool]
    """Whether the server of this state answers; asked again until it does."""
    failure: type[BakeoffError]
    """Raised when the server cannot be started."""
    start_s: float = 90.0


@contextmanager
def shared(service: Service) -> Iterator[State]:
    """The state of the running server, started when nobody has yet. It runs at least until the `with` ends.

    Raises:
        BakeoffError: of the type `service.failure`: it did not start; the message ends with the last lines of its log.
    """
    (service.folder / "users").mkdir(parents=True, exist_ok=True)
    service.folder.chmod(0o700)
    with ExitStack() as stack:
        with _locked(service.folder / "lock"):
            stack.enter_context(_registered(service.folder))
            state = _answering(service) or _start(service)
        yield state


def keep(serving: Serving) -> NoReturn:
    """Run a server until its last user is gone, its process has died or a SIGTERM comes. Called in a process of its own.

    Args:
        serving: given the folder, starts the server and gives its state and whether it still lives; the `with` ends by stopping it.
    """
    folder, lock = Path(sys.argv[-2]), int(sys.argv[-1])
    if os.fork():  # the starter waits for this process, and is not to be the parent of the one that stays
        os._exit(0)
    _write_pid(lock, os.getpid())
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with serving(folder) as (state, alive):
        _write_state(folder, state)
        try:
            while alive() and not _retired(folder):
                time.sleep(PAUSE_S)
        finally:
            (folder / "state.json").unlink(missing_ok=True)
    sys.exit(0)


@contextmanager
def spawn(folder: Path, command: Sequence[str], env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server's own process, ended with the `with`. It holds `server.lock`, and on Linux it does not outlive its keeper."""
    with _locked(folder / "server.lock", inherited=True) as lock:
        process = subprocess.Popen(command, env=env, cwd=cwd, pass_fds=[lock.file], preexec_fn=_die_with(os.getpid()))
        lock.write(process.pid)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                logger.warning("process %d did not stop within %.0f s: killed", process.pid, STOP_S)
                process.kill()
                process.wait()


def wait_until_stopped(folder: Path, seconds: float) -> bool:
    """Whether the server of this folder has ended, given so many seconds: its folder can then be deleted."""
    deadline = time.monotonic() + seconds
    while not (stopped := _free(folder / "keeper.lock")) and time.monotonic() < deadline:
        time.sleep(PAUSE_S / 3)
    return stopped


def wait_until_all_stopped(folder: Path, seconds: float) -> bool:
    """Whether every server whose folder lies anywhere under this one has ended, given so many seconds each."""
    places = [Path(place) for place, _, files in os.walk(folder) if "keeper.lock" in files]
    ended = [wait_until_stopped(place, seconds) for place in places]
    return all(ended)


def environment() -> dict[str, str]:
    """What a background process is given of this one's environment: no keys, no tokens, no proxies."""
    names = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def _answering(service: Service) -> State | None:
    """The state of the server that runs; None when none does, what was left of one being cleared away."""
    deadline = time.monotonic() + service.start_s
    while not _free(service.folder / "keeper.lock") and time.monotonic() < deadline:
        state = _read_state(service.folder)  # none yet while it starts, none any more while it stops
        if state and service.healthy(state):
            return state
        time.sleep(0.1)
    _clear(service)
    return None


def _start(service: Service) -> State:
    logger.info("starting the %s", service.name)
    began = time.monotonic()
    with _locked(service.folder / "keeper.lock", inherited=True) as lock, _private(service.folder / "log") as log:
        command = [*service.command, str(service.folder), str(lock.file)]
        starter = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            cwd=service.folder,
            pass_fds=[lock.file],
            start_new_session=True,  # Ctrl-C in the terminal stops its users first
        )
        starter.wait(service.start_s)
    while not _free(service.folder / "keeper.lock"):
        state = _read_state(service.folder)
        if state and service.healthy(state):
            logger.info("the %s answers after %.1f s", service.name, time.monotonic() - began)
            return state
        if time.monotonic() - began > service.start_s:
            _clear(service)
            break
        time.sleep(0.03)
    path = service.folder / "log"
    tail = path.read_text(errors="replace").strip().splitlines()[-5:]
    raise service.failure(f"the {service.name} did not start; its log, {path}, ends: {' | '.join(tail) or '(empty)'}")


def _clear(service: Service) -> None:
    """End what still runs here without answering, and forget its state."""
    locks = [service.folder / "keeper.lock", service.folder / "server.lock"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for lock in locks:
            if not _free(lock):
                logger.warning("the %s of process %s does not answer: stopped", service.name, lock.read_text())
                with suppress(ProcessLookupError, ValueError):
                    os.kill(int(lock.read_text()), number)
        deadline = time.monotonic() + STOP_S
        while not all(map(_free, locks)) and time.monotonic() < deadline:
            time.sleep(0.05)
    if not all(map(_free, locks)):
        raise service.failure(f"the {service.name} of {service.folder} neither answers nor can be stopped: end its processes")
    (service.folder / "state.json").unlink(missing_ok=True)


def _retired(folder: Path) -> bool:
    """Whether nobody uses the server any more; then its state is gone, so that whoever comes next starts another."""
    if _in_use(folder):
        return False
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return True  # somebody deleted the folder
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # somebody is joining
    else:
        return not _in_use(folder) and _forget(folder)
    finally:
        os.close(lock)


def _forget(folder: Path) -> bool:
    for user in (folder / "users").glob("*"):
        user.unlink(missing_ok=True)  # of those that were killed
    (folder / "state.json").unlink(missing_ok=True)
    return True


def _in_use(folder: Path) -> bool:
    return any(not _free(user) for user in (folder / "users").glob("*"))


def _free(path: Path) -> bool:
    """Whether nobody holds this lock."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


@contextmanager
def _locked(path: Path, inherited: bool = False) -> Iterator[_Lock]:
    lock = _Lock(path, inherited)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def _registered(folder: Path) -> Iterator[None]:
    user = folder / "users" / f"{os.getpid()}-{secrets.token_hex(4)}"
    lock = _Lock(user)
    try:
        yield
    finally:
        if lock.release():  # else this is a forked child, and the user goes on in its parent
            user.unlink(missing_ok=True)


def _write_pid(file: int, number: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, str(number).encode(), 0)


def _private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _write_state(folder: Path, state: State) -> None:
    aside = folder / "state.json.new"
    with _private(aside) as file:
        file.write(json.dumps(state).encode())
    aside.replace(folder / "state.json")


def _read_state(folder: Path) -> State | None:
    try:
        return dict(json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _die_with(parent: int) -> Callable[[], None] | None:
    """What makes a child die with its parent: Linux has it; elsewhere the next user ends what was left."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    set_death_signal = 1

    def bind() -> None:
        prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return bind
