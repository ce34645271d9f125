"""What a run may read, and what ends with its process."""

import os
import subprocess
import sys
from pathlib import Path

from prefect.runtime import deployment

from tasks.errors import BadConfig
from tasks.forks import end_quickly

WATCH = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGTERM)"
"""Its standard input ends when the process that holds the other end does."""
_watchers: dict[int, "subprocess.Popen[bytes]"] = {}


def arrange_end() -> None:
    """Have a worker's process end quickly; and Prefect's temporary server, where this process started one, end with it.

    Prefect stops its server only when the process ends by itself: a watcher sees to it when that is killed.
    """
    if deployment.id:
        end_quickly()
    module = sys.modules.get("prefect.server.api.server")  # imported by whoever starts a server
    for server in module.SubprocessASGIServer._instances.values() if module else ():
        if server.server_process and server.server_process.pid not in _watchers:
            command = [sys.executable, "-S", "-c", WATCH, str(server.server_process.pid)]
            silent = subprocess.DEVNULL
            watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True)
            _watchers[server.server_process.pid] = watcher


def roots_of_run() -> list[Path]:
    """Whose files this run may read beside the operator's roots: the working folder's for a function call, none for a run of a
    deployment, which anybody who reaches the form may start.

    Raises:
        BadConfig: a worker has no lasting home; in its temporary folder everything would be lost with the run.
    """
    if not deployment.id:
        return [Path.cwd()]
    if not Path(os.environ.get("BAKEOFF_HOME", "")).is_absolute():
        raise BadConfig("this worker has no lasting home: start it with BAKEOFF_HOME set to an absolute path (`make worker` does)")
    return []
