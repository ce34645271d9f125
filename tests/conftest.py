"""What every test shares: no network, one thread, a home of its own."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.prompting import limits
from tests.live import BIN, environment, running
from tests.tiny_model import examples, make_base

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are slower on many threads
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"  # most tests call plain functions, outside of any run


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the developer's reaches a test, and no test writes into the working folder."""
    for name in list(os.environ):
        if name.startswith("BAKEOFF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _new_endpoints() -> None:
    """What an endpoint asked for, such as an hour without requests, does not reach the next one on the same port."""
    limits._pacers.clear()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parent.parent


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
