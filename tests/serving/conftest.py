"""A real server over a real S3 server, and champions to hand the crown to: a tiny tuned model, trivial contenders and a prompt."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.places import LivePlaces
from tasks.bases import resolve_base
from tasks.config import Prompt, Task, Trivial, Tuned
from tasks.contenders.trivial import build_trivial
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord
from tasks.registry.champion import ChampionVersion
from tasks.settings import load_settings
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.champions import crown
from tests.live import BIN, environment
from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import GOOD, make_base, make_dataset, make_tokens

NAME = "tiny"
PROMPTS = [
    {"name": "zero", "techniques": ["persona"]},
    {"name": "shots", "techniques": ["few_shot", "structured"], "format": "xml"},
    {"name": "steps", "techniques": ["chain_of_thought", "structured"], "format": "json"},
]
CONFIG = {"name": NAME, "dataset": {"source": "rows.csv", "max_characters": 2000}, "prompts": PROMPTS, "tuned": []}


@dataclass
class Court:
    """Where the champions are, and who may be one."""

    folder: Path
    places: LivePlaces
    contenders: dict[str, ContenderRecord]

    def crown(self, who: str) -> ChampionVersion:
        return crown(self.places, "local", NAME, self.contenders[who], config=CONFIG | {"dataset": {"source": "rows.csv"}})


def knowing(request: dict[str, Any], _number: int) -> Say:
    """A model that knows every telling word, and declines one."""
    text = request["messages"][-1]["content"]
    label = "positive" if any(word in text for word in GOOD) else "negative"
    return Say(completion("I'm sorry, no." if "declined" in text else json.dumps({"label": label})))


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    """The endpoint `there`."""
    with Loopback(knowing) as server:
        yield server


@pytest.fixture(scope="session")
def court(tmp_path_factory: pytest.TempPathFactory, loopback: Loopback) -> Iterator[Court]:
    folder = tmp_path_factory.mktemp("court")
    there = {"base_url": loopback.url, "model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1}
    (folder / "task.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "settings.yaml").write_text(yaml.safe_dump({"roots": [str(folder)], "endpoints": {"there": there}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("BAKEOFF_HOME", str(folder / "home"))
        patch.setenv("BAKEOFF_SETTINGS", str(folder / "settings.yaml"))
        settings, workspace = load_settings(), Workspace(folder / "home" / "workspace")
    make_base(folder / "tiny")
    dataset, base = make_dataset(folder / "data"), resolve_base("tiny", "", settings)
    recipe = Tuned(name="lora", base="tiny", learning_rate=0.01, epochs=4, batch_size=8)
    contenders = {kind.value: build_trivial(kind, dataset, workspace) for kind in Trivial}
    contenders["lora"] = tune(recipe, dataset, make_tokens(folder / "tokens", base, dataset), base, workspace)
    with LivePlaces(settings) as places:
        asked = Prompt(name="asked", endpoint="there")
        contenders["asked"] = build_prompt(asked, Task(), dataset, places, Cap(0), workspace)
        court = Court(folder, places, contenders)
        court.crown("lora")
        yield court


@contextmanager
def serving(court: Court, *words: str, **names: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`bakeoff serve` as an operator starts it: its address, and the process. What it says lies in `serve.log`."""
    log = court.folder / f"serve-{time.monotonic_ns()}.log"
    env = environment(BAKEOFF_HOME=str(court.folder / "home"), BAKEOFF_SETTINGS=str(court.folder / "settings.yaml"), **names)
    command = [str(BIN / "bakeoff"), "serve", "task.yaml", "--port", "0", "--poll-seconds", "0.1", *words]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=env | {"OMP_NUM_THREADS": "1"}, cwd=court.folder, stderr=stream, text=True)
    try:
        yield _address(process, log), process
    finally:
        process.terminate()
        process.wait(60)
        print(log.read_text())  # noqa: T201 - pytest shows it where a test fails


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"on (http://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def server(court: Court) -> Iterator[str]:
    """The address of a server that follows this court."""
    with serving(court) as (url, _):
        yield url
