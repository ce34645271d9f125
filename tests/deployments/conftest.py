"""A real Prefect server and a real worker, each a process of its own, with folders of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import GOOD, examples, make_base

BIN = Path(sys.executable).parent
ENDPOINT = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1}


def environment(**names: str) -> dict[str, str]:
    """This process's environment without its Prefect and Bakeoff settings, and with `names`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BAKEOFF_"))}
    return kept | {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | names


@contextmanager
def running(command: list[str], env: dict[str, str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of a `with`; its output lies in `folder`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's address of a fresh Prefect server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(
        PREFECT_HOME=str(folder),
        PREFECT_UI_ENABLED="false",
        PREFECT_SERVER_DATABASE_TIMEOUT="60",
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="3",
    )
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with running(command, env, folder, "server") as process:
        _wait_for(url, process, folder / "server.log")
        yield url


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def api(server: str) -> Iterator[httpx.Client]:
    """A plain HTTP client of the server, as a script or the UI would be."""
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the operator lets runs read: labelled rows and a tiny base model."""
    folder = tmp_path_factory.mktemp("readable")
    rows = "\n".join(f"{example.inputs['text']},{example.label}" for example in examples("any", 320))
    (folder / "rows.csv").write_text(f"text,label\n{rows}\n")
    make_base(folder / "tiny-bert", kind="bert")
    return folder


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator's settings: what the endpoint `loopback` is."""
    path = tmp_path_factory.mktemp("operator") / "settings.yaml"
    with Loopback(_sees_most) as loopback:
        path.write_text(yaml.safe_dump({"endpoints": {"loopback": {**ENDPOINT, "base_url": loopback.url, "json_schema": False}}}))
        yield path


def _sees_most(request: dict[str, Any], _number: int) -> Say:
    """A model that knows all telling words but one."""
    text = request["messages"][-1]["content"]
    return Say(completion("positive" if any(word in text for word in GOOD[:-1]) else "negative"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's home."""
    return tmp_path_factory.mktemp("worker") / "home"


@pytest.fixture(scope="session")
def worker(server: str, home: Path, readable: Path, settings_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool `cpu`, started as an operator would, with the operator's environment."""
    folder = home.parent
    env = environment(
        PREFECT_API_URL=server,
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_WORKER_QUERY_SECONDS="1",
        BAKEOFF_HOME=str(home),
        BAKEOFF_ROOTS=str(readable),
        BAKEOFF_SETTINGS=str(settings_file),
    )
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "cpu", "--type", "process"]
    with running(command, env, folder, "worker") as process:
        yield process
