"""What every test shares: no network, one thread, a home of its own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from services.s3 import LocalS3, start_s3
from tasks import child
from tasks.prompting import limits
from tasks.settings import Store
from tasks.store import connect
from tests.live import Patient, credentials, make_readable, prefect_server

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are slower on many threads
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"  # most tests call plain functions, outside of any run


# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's reaches a test, and no test writes into the working folder. What a command sets for its process
    (it ends with it, as a rule) does not reach the next test, nor the fixtures of the next module."""
    for name in _settings():
        monkeypatch.delenv(name)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path_factory.mktemp("home")))
    own = _settings()
    yield
    for name in _settings() - own:
        del os.environ[name]
    child._ending.clear()  # a command that failed lets its process start no child any more


def _settings() -> set[str]:
    return {name for name in os.environ if name.startswith("BAKEOFF_")}


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
    with prefect_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def api(server: str) -> Iterator[httpx.Client]:
    """A plain HTTP client of the server, as a script or the UI would be."""
    with Patient(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the operator lets runs read: labelled rows and a tiny base model."""
    folder = tmp_path_factory.mktemp("readable")
    make_readable(folder)
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: LocalS3) -> str:
    """The name of a bucket that exists and is empty."""
    name = f"test-{uuid4().hex[:12]}"
    store = Store(bucket=name, endpoint_url=s3_server.endpoint_url)
    connect("raw", store, credentials(s3_server)).client.create_bucket(Bucket=name)
    return name
