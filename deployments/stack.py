"""The programs of `make up`, kept running by supervisord: its configuration, its start and stop, and how they are.

    <home>/up/supervisord.conf, .log, .pid      the supervisor's own
    <home>/up/address                           the server's port, kept from one start to the next
    <home>/up/wish.json                         what was registered last, and what runs may read (`deployments/wish.py`)
    <home>/up/server.log, services.log, …       what the programs print, 20 MB each at most, and one older file
    <home>/prefect/                             the server's database and leases

The workers are stopped first, then what they use, the server last: each has its time to end well. A supervisor that is stopping is
waited for, and what one left running that was killed is ended, before another one starts: two servers would share one database.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from configparser import RawConfigParser
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil

from tasks.child import GRACE_S
from tasks.errors import MissingPart
from tasks.settings import PREFIX

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path that every system takes."""
SLACK_S = 30.0
"""What stopping may take beyond the times that the programs have, which are stopped one after another."""
DEAD = ("FATAL", "EXITED", "STOPPED", "UNKNOWN")
"""What supervisor calls programs that it does not start by itself."""
SERVER = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # else SQLite locks up under bursts
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",  # slots outlive a restart
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_UI_API_URL": "/api",  # else the UI looks for the API on the default port
}
"""What the server is told, beside its home and its address."""


@dataclass(frozen=True)
class Program:
    """One of the programs."""

    name: str
    command: tuple[str, ...]
    order: int
    """The lower start first and stop last."""
    stop_s: int
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stack:
    """The programs of one home."""

    home: Path
    port: int
    pools: tuple[str, ...]
    settings: Path | None = None
    """The file of the operator's settings, absolute: the programs have a working folder of their own."""
    roots: tuple[Path, ...] = ()
    """The folders whose files runs may read, absolute."""

    @property
    def folder(self) -> Path:
        """Where everything of `make up` lies."""
        return self.home / "up"

    @property
    def ui(self) -> str:
        """The address of Prefect's UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """What PREFECT_API_URL is to be."""
        return f"{self.ui}/api"

    def programs(self) -> list[Program]:
        """All of them."""
        python = (sys.executable, "-P", "-m")  # -P: no module of the working folder
        home = ("PREFECT_HOME", str(self.home / "prefect"))
        server = (*SERVER.items(), home, ("PREFECT_SERVER_API_HOST", "127.0.0.1"), ("PREFECT_SERVER_API_PORT", str(self.port)))
        ours = (("PREFECT_API_URL", self.api), home, *self._told())
        workers = [
            Program(f"worker-{pool}", (*python, "deployments", "worker", pool), 30, int(GRACE_S) + 35, ours) for pool in self.pools
        ]
        return [
            Program("server", (*python, "prefect", "server", "start"), 10, 30, server),
            Program("services", (*python, "deployments.hold"), 20, 30, ours),
            *workers,
        ]

    def environment(self) -> dict[str, str]:
        """Bakeoff's variables, as the programs would have them if they were started now."""
        return _bakeoffs(os.environ) | dict(self._told())

    def _told(self) -> list[tuple[str, str]]:
        """Bakeoff's variables that the programs are given, over those that they inherit."""
        told = [("BAKEOFF_HOME", str(self.home))]
        told += [("BAKEOFF_SETTINGS", str(self.settings))] if self.settings else []
        told += [("BAKEOFF_ROOTS", os.pathsep.join(map(str, self.roots)))] if self.roots else []
        return told

    def start(self) -> None:
        """Start the supervisor, which starts the programs and goes on by itself.

        Raises:
            MissingPart: supervisor is not installed, or it does not start, or an earlier one or its programs live (`settle` first).
        """
        if not find_spec("supervisor"):
            raise MissingPart(
                "`make up` needs supervisor, which is missing: run `make setup`, or `pip install '.[up]'` in the project's folder"
            )
        supervisor = supervisor_of(self.home)
        living = [supervisor.pid] if supervisor else [process.pid for _, process in left_over(self.home)]
        if living:
            raise MissingPart(
                f"what was started for this home is still stopping or was left over (processes {', '.join(map(str, living))}):"
                " `make down`, then try again"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        socket_of(self.home).unlink(missing_ok=True)  # of one that was killed
        conf_of(self.home).write_text(configuration(self))
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(conf_of(self.home))]
        started = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        deadline = time.monotonic() + 10
        while started.returncode == 0 and not states(self.home) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not states(self.home):
            raise MissingPart(f"supervisord did not start ({started.stderr.strip()}); its log: {self.folder / 'supervisord.log'}")


def configuration(stack: Stack) -> str:
    """The text of supervisord.conf. No key stands in it: the programs have the environment of whoever called `make up`."""
    folder, socket = stack.folder, socket_of(stack.home)
    parts: dict[str, dict[str, Any]] = {
        "supervisord": {"logfile": folder / "supervisord.log", "pidfile": folder / "supervisord.pid", "directory": folder},
        "unix_http_server": {"file": socket, "chmod": "0700"},
        "rpcinterface:supervisor": {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        "supervisorctl": {"serverurl": _url(stack.home)},
    }
    for program in stack.programs():
        parts[f"program:{program.name}"] = {
            "command": shlex.join(program.command),
            "environment": ",".join(f'{name}="{value}"' for name, value in program.environment),
            "directory": folder,
            "priority": program.order,
            "autorestart": "true",
            "startsecs": 3,
            "startretries": 5,
            "stopwaitsecs": program.stop_s,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": folder / f"{program.name}.log",
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 1,
        }
    return "\n".join(_section(name, values) for name, values in parts.items())


def states(home: Path) -> dict[str, dict[str, Any]]:
    """How each program is (`statename`, `description`, `pid`), by name; empty where no supervisor runs for this home, and where one
    is stopping, which tells nothing more."""
    try:
        return {each["name"]: each for each in _supervisor(home).getAllProcessInfo()}
    except (OSError, Fault):
        return {}


def environment_of(home: Path) -> dict[str, str]:
    """Bakeoff's variables, as the programs that run for this home have them, those that are started again too: what the supervisor
    was started with, and over it what stands in its configuration."""
    inherited: Mapping[str, str] = {}
    with suppress(psutil.Error):  # it is ending
        supervisor = supervisor_of(home)
        inherited = supervisor.environ() if supervisor else {}
    told = _written(home).get("services", {}).get("environment", "")
    return _bakeoffs(inherited) | _bakeoffs(dict(re.findall(r'(\w+)="([^"]*)"', told)))


def _bakeoffs(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are set to something."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}


def start_dead(home: Path) -> list[str]:
    """Start the programs again that the supervisor has given up; their names."""
    dead = [name for name, each in states(home).items() if each["statename"] in DEAD]
    for name in dead:
        _supervisor(home).startProcess(name, False)
    return dead


def stop(home: Path) -> bool:
    """Stop everything, in order, and wait until it has ended; whether anything ran.

    Raises:
        MissingPart: the supervisor does not end.
    """
    ran = bool(states(home))
    if ran:
        with suppress(OSError, Fault):  # somebody else has just stopped it
            _supervisor(home).shutdown()
    return settle(home) or ran


def settle(home: Path) -> bool:
    """Wait for a supervisor that is stopping, and end the programs of one that was killed; whether there was either.

    Raises:
        MissingPart: the supervisor does not end.
    """
    stopping, deadline = None, time.monotonic() + _stop_s(home)
    while (alive := supervisor_of(home)) and not states(home):
        stopping = alive
        if time.monotonic() > deadline:
            log = home / "up" / "supervisord.log"
            raise MissingPart(f"the supervisor (process {alive.pid}) does not end within {_stop_s(home):.0f} s; its log: {log}")
        time.sleep(0.1)
    left = [] if alive else left_over(home)
    _end(home, left)
    return bool(stopping or left)


def supervisor_of(home: Path) -> psutil.Process | None:
    """The supervisor of this home, as long as its process lives, also while it stops."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((home / "up" / "supervisord.pid").read_text()))
        if str(conf_of(home)) in process.cmdline():  # else the number is another one's by now
            return process
    return None


def left_over(home: Path) -> list[tuple[str, psutil.Process]]:
    """The programs that outlived the supervisor of this home, which was killed, with their names; the first to stop first."""
    if supervisor_of(home):
        return []
    programs, found = _written(home), []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ() if process.uids().real == os.getuid() else {}
            name = environment.get("SUPERVISOR_PROCESS_NAME", "")
            ours = environment.get("SUPERVISOR_SERVER_URL") == _url(home) and name in programs
            if ours and process.cmdline()[1:] == shlex.split(programs[name]["command"])[1:]:  # what they started, they end
                found.append((name, process))
    return sorted(found, key=lambda each: -int(programs[each[0]]["priority"]))


def _end(home: Path, left: Iterable[tuple[str, psutil.Process]]) -> None:
    """End programs one after another, each in its time."""
    for name, process in left:
        with suppress(psutil.Error, ProcessLookupError):
            process.terminate()
            deadline = time.monotonic() + int(_written(home)[name]["stopwaitsecs"])
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    os.killpg(process.pid, signal.SIGKILL)  # as the supervisor does, which gave each a group of its own
                time.sleep(0.1)


def conf_of(home: Path) -> Path:
    """The supervisor's configuration."""
    return home / "up" / "supervisord.conf"


def _written(home: Path) -> dict[str, Mapping[str, str]]:
    """The programs that the last supervisor of this home was started with, by name."""
    read = RawConfigParser()
    read.read(conf_of(home))
    sections = {name.removeprefix("program:"): dict(read[name]) for name in read.sections() if name.startswith("program:")}
    return {name: {key: value.replace("%%", "%") for key, value in values.items()} for name, values in sections.items()}


def _stop_s(home: Path) -> float:
    """So long a supervisor may take to stop."""
    return sum(int(program["stopwaitsecs"]) for program in _written(home).values()) + SLACK_S


def log_end(home: Path, program: str, lines: int = 5) -> str:
    """The last lines that a program printed."""
    path = home / "up" / f"{program}.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    return " | ".join(text.strip().splitlines()[-lines:]) or "(empty)"


def socket_of(home: Path) -> Path:
    """The supervisor's socket: in the home, or where its path would be too long for one, in the temporary folder."""
    path = home / "up" / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return path
    return Path(gettempdir()) / f"bakeoff-{os.getuid()}-{sha256(os.fsencode(home)).hexdigest()[:16]}.sock"


def _supervisor(home: Path) -> Any:
    from supervisor.xmlrpc import SupervisorTransport

    return ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, _url(home))).supervisor


def _url(home: Path) -> str:
    """The supervisor's address, which its programs have in their environment."""
    return f"unix://{socket_of(home)}"


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])
