"""Real processes for tests: an environment without the developer's settings, and what is the same of two verdicts."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.tiny_model import examples, make_base

if TYPE_CHECKING:
    import psutil

    from services.s3 import LocalS3

BIN = Path(sys.executable).parent
PATIENCE_S = 180.0
"""How long a test waits for what comes within seconds on a machine that does nothing else."""
OWN_TO_A_RUN = {"run_id", "created", "reused", "spent_usd", "decision", "reason", "why"}
TIMED = {"latency_ms", "latency_p50_ms", "cost_usd_per_1000", "usd_per_1000", "extra_usd_per_1000", "usd_per_point"}
TIMED |= {"money", "pareto", "break_even", "route", "seconds", "peak_memory_bytes", "publish_bytes"}


def eventually(there: Callable[[], Any], seconds: float = PATIENCE_S, every: float = 0.05) -> Any:
    """What `there` gives once that is something.

    Raises:
        AssertionError: it gives nothing in all that time.
    """
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(every)
    return found


def environment(**names: str) -> dict[str, str]:
    """This process's environment without its Prefect and Bakeoff settings, and with `names`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BAKEOFF_"))}
    return kept | {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | names


def credentials(server: "LocalS3") -> dict[str, str]:
    """Of a local S3, for `boto3.client`."""
    return {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key, "region_name": "us-east-1"}


class Patient(httpx.Client):
    """Asks again, as Prefect's own client does, where the server says 503: SQLite was busy, and nothing was done. What only reads
    is also asked again where no answer comes: behind a long write it may wait for a minute."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        only_reads = request.method == "GET" or request.url.path.endswith(("/filter", "/count"))
        for left in reversed(range(20)):
            try:
                answer = super().send(request, **options)
            except httpx.ReadTimeout:
                if not only_reads or not left:
                    raise
                continue
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)
        return answer


@contextmanager
def running(
    command: list[str], env: dict[str, str], folder: Path, name: str, stop: int = signal.SIGTERM, user: str | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for the time of a `with`, as another user if one is given; its output lies in `folder`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True, user=user)
        try:
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """The API's address of a fresh Prefect server, for the time of a `with`; its database and log lie in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(
        PREFECT_HOME=str(folder),
        PREFECT_UI_API_URL="/api",  # of whatever port
        PREFECT_SERVER_DATABASE_TIMEOUT="60",
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="3",
        PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS="2",
    )
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with running(command, env, folder, "server") as process:
        _wait_for(url, process, folder / "server.log")
        yield url


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not start: {log.read_text()[-2000:]}")


def make_readable(folder: Path) -> None:
    """Labelled rows (`rows.csv`) and a tiny base model (`tiny-bert`), for runs to read."""
    rows = "\n".join(f"{example.inputs['text']},{example.label}" for example in examples("any", 320))
    (folder / "rows.csv").write_text(f"text,label\n{rows}\n")
    make_base(folder / "tiny-bert", kind="bert")


def same(verdict: Any) -> Any:
    """What is the same of a verdict in every run: all but the run's id, its decision, its timings, and the costs that follow from
    them."""
    if isinstance(verdict, dict):
        return {key: same(value) for key, value in verdict.items() if key not in OWN_TO_A_RUN | TIMED}
    return [same(value) for value in verdict] if isinstance(verdict, list) else verdict


def descendants(name: str, of: int | None = None) -> "list[psutil.Process]":
    """The processes of that name which this process, or another one, started, itself or through others."""
    import psutil

    started = psutil.Process(of).children(recursive=True)
    return [each for each in started if each.name() == name or f"tasks.{name}" in each.cmdline()]
