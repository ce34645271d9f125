"""The programs of `make up`, kept running by supervisord: its configuration, its start and stop, and how they are.

    <home>/up/supervisord.conf, .log, .pid      the supervisor's own
    <home>/up/address                           the server's port, kept from one start to the next
    <home>/up/server.log, services.log, …       what the programs print, 20 MB each at most, and one older file
    <home>/prefect/                             the server's database and leases

The workers are stopped first, then what they use, the server last: each has its time to end well.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from tasks.child import GRACE_S
from tasks.errors import MissingPart

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path that every system takes."""
STOP_S = 120.0
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
        ours = (("PREFECT_API_URL", self.api), home, ("BAKEOFF_HOME", str(self.home)))
        workers = [
            Program(f"worker-{pool}", (*python, "deployments", "worker", pool), 30, int(GRACE_S) + 35, ours) for pool in self.pools
        ]
        return [
            Program("server", (*python, "prefect", "server", "start"), 10, 30, server),
            Program("services", (*python, "deployments.hold"), 20, 30, ours),
            *workers,
        ]

    def start(self) -> None:
        """Start the supervisor, which starts the programs and goes on by itself.

        Raises:
            MissingPart: supervisor is not installed, or it does not start.
        """
        if not find_spec("supervisor"):
            raise MissingPart("`make up` needs supervisor, which is not installed: run `make setup`, or pip install 'bakeoff[up]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        socket_of(self.home).unlink(missing_ok=True)  # of one that was killed
        (self.folder / "supervisord.conf").write_text(configuration(self))
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(self.folder / "supervisord.conf")]
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
        "supervisorctl": {"serverurl": f"unix://{socket}"},
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
    """How each program is (`statename`, `description`, `pid`), by name; empty where no supervisor runs for this home."""
    try:
        return {each["name"]: each for each in _supervisor(home).getAllProcessInfo()}
    except (OSError, Fault):
        return {}


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
    if not states(home):
        return False
    _supervisor(home).shutdown()
    deadline = time.monotonic() + STOP_S
    while (home / "up" / "supervisord.pid").exists() or socket_of(home).exists():
        if time.monotonic() > deadline:
            raise MissingPart(f"the supervisor does not end within {STOP_S:.0f} s; its log: {home / 'up' / 'supervisord.log'}")
        time.sleep(0.1)
    return True


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

    transport = SupervisorTransport(None, None, f"unix://{socket_of(home)}")
    return ServerProxy("http://127.0.0.1", transport=transport).supervisor


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])
