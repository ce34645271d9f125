"""A real worker on the real server, with a folder of its own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live import BIN, environment, running
from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import GOOD

ENDPOINT = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1}


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
