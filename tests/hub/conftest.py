"""The world of `configs/imdb.yaml` on loopback: the Hub, OpenAI and AWS are stand-ins, everything else is real."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.s3 import LocalS3, start_s3
from tests.hub.making import make_data, make_model, tells
from tests.hub.standin import StandInHub
from tests.prompting.loopback import Loopback, Say, completion

BUCKET = "reviews-champions"
KEY = "sk-canary-5f3a9d1c7e2b48068d1f"
TOKEN = "hf_canaryQx7ZkW3mVb9TnRsYp2"  # what a user's HF_TOKEN looks like, not one
DATA, MODEL, OLD_MODEL = (
    "datasets/shawhin/imdb-truncated",
    "models/distilbert/distilbert-base-uncased",
    "models/distilbert-base-uncased",
)


@dataclass(frozen=True)
class World:
    """What one user has: folders of their own, and an environment that names the places."""

    folder: Path
    environment: Mapping[str, str]
    hub: StandInHub
    openai: Loopback
    s3: LocalS3

    @property
    def home(self) -> Path:
        """Bakeoff's home."""
        return self.folder / "home"

    def bakeoff(self, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line as a user would."""
        command = [str(Path(sys.executable).with_name("bakeoff")), *map(str, arguments)]
        known = {**self.environment, **environment}
        return subprocess.run(command, env=known, cwd=self.folder / "here", capture_output=True, text=True, check=False)

    def client(self) -> Any:
        """A client of the bucket's server."""
        import boto3

        keys = {"aws_access_key_id": self.s3.access_key, "aws_secret_access_key": self.s3.secret_key}
        return boto3.client("s3", endpoint_url=self.s3.endpoint_url, region_name="us-east-1", **keys)

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket."""
        client = self.client()
        listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {entry["Key"]: client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read() for entry in listed}


def mostly_right(request: dict[str, Any], _number: int) -> Say:
    """The label that the row's words tell, to seven rows in ten."""
    text = request["messages"][-1]["content"].split("\n\n")[-1]
    right = tells(text)
    wrong = "Negative" if right == "Positive" else "Positive"
    return Say(completion(json.dumps({"label": wrong if zlib.crc32(text.encode()) % 10 < 3 else right})))


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the Hub has, by kind and name."""
    folder = tmp_path_factory.mktemp("repositories")
    return {DATA: make_data(folder / "data"), MODEL: make_model(folder / "model")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, repositories: dict[str, Path]) -> Iterator[World]:
    """A machine that has never seen any of it."""
    folder = tmp_path_factory.mktemp("world")
    hub = StandInHub(repositories, renamed={OLD_MODEL: MODEL})
    with hub.serving() as url, Loopback(mostly_right) as openai, start_s3(tmp_path_factory.mktemp("aws")) as s3:
        made = World(folder, _environment(folder, url, openai, s3), hub, openai, s3)
        made.client().create_bucket(Bucket=BUCKET)
        yield made


def _environment(folder: Path, hub: str, openai: Loopback, s3: LocalS3) -> dict[str, str]:
    """A user's shell: keys in the environment, nothing of the developer's settings, every folder under `folder`."""
    ours = ("HF_", "HUGGINGFACE", "BAKEOFF_", "PREFECT_", "AWS_", "OPENAI_")
    places = {"HOME": "user", "TMPDIR": "tmp", "HF_HOME": "hf", "PREFECT_HOME": "prefect", "BAKEOFF_HOME": "home"}
    for name in ("here", *places.values()):
        (folder / name).mkdir()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        **{name: str(folder / inner) for name, inner in places.items()},
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": hub,
        "HF_TOKEN": TOKEN,
        "OPENAI_API_KEY": KEY,
        "BAKEOFF_ENDPOINTS__OPENAI__BASE_URL": openai.url,
        "BAKEOFF_ENDPOINTS__OPENAI__USD_PER_MILLION_INPUT": "0.15",  # no library knows what a stand-in costs
        "BAKEOFF_ENDPOINTS__OPENAI__USD_PER_MILLION_OUTPUT": "0.60",
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "BAKEOFF_STORES__AWS__BUCKET": BUCKET,
    }


def secrets_in(content: bytes, s3: LocalS3) -> Sequence[str]:
    """Which of the world's secrets stand in these bytes."""
    known = {"OPENAI_API_KEY": KEY, "HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    return [name for name, value in known.items() if value.encode() in content]
