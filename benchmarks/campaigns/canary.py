"""Secrets that stand nowhere: runs whose endpoint repeats its key wherever it can; then everything that was written is searched."""

import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.search import files_with, holds, planted
from benchmarks.scratch import scratch
from services.s3 import LocalS3, start_s3
from tests.flows.test_bakeoff import BAKEOFF, CONFIG, slowly
from tests.live import environment, make_readable, prefect_server
from tests.prompting.loopback import Loopback, Say, error

KEY = "sk-canary-7Hq2vX9dLr4TzB6mWc81"
BUCKET = "canary"
OVERRIDES = {
    "errors": list[str](),
    "batch": ["prompts.0.endpoint=batched"],
    "refused": ["prompts.0.endpoint=refusing"],
    "redirected": ["prompts.0.endpoint=redirecting"],
}
"""Runs by name; the last two must fail."""


@dataclass(frozen=True)
class World:
    """Where the runs live."""

    folder: Path
    api: str
    s3: LocalS3

    def run(self, name: str, overrides: list[str], settings: dict[str, Any]) -> int:
        """`bakeoff run` with all logs on; its exit status. What it says goes into files."""
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        (self.folder / "whole.yaml").write_text(yaml.safe_dump(CONFIG | {"store": "keyed", "samples": ["a superb film"]}))
        env = environment(PREFECT_API_URL=self.api, PREFECT_HOME=str(self.folder / "prefect"), PREFECT_LOGGING_LEVEL="DEBUG")
        env |= {"BAKEOFF_HOME": str(self.folder / "home"), "BAKEOFF_SETTINGS": str(self.folder / "settings.yaml")}
        env |= {"CANARY_KEY": KEY, "AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "AWS_DEFAULT_REGION": "us-east-1"}
        command = [*BAKEOFF, str(self.folder / "whole.yaml"), "--output", "json", *overrides]
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            return subprocess.run(command, env=env, cwd=self.folder / "readable", stdout=out, stderr=err, timeout=600).returncode


class Parrot:
    """An endpoint that repeats the key that it is sent: in errors, in bodies that are no answers, in headers."""

    def __init__(self) -> None:
        self.repeated = 0
        self._tried: set[str] = set()
        self._lock = threading.Lock()

    def says(self, request: dict[str, Any], number: int) -> Say:
        """Now and then trouble at the first try of a row, for some rows at every one; else the answer."""
        if "path" in request:
            return self.repeats(404, "models")
        text = json.dumps(request["messages"])
        chance = zlib.crc32(text.encode()) % 20
        with self._lock:
            again = text in self._tried
            self._tried.add(text)
        if chance in (0, 1):
            return self.repeats(400, "content_filter")
        if chance in (2, 3, 4, 5) and not again:
            return [self.repeats(429), self.repeats(500), Say({"error": {"message": KEY}}), Say(f"<html>{KEY}</html>")][chance - 2]
        if chance == 6:
            return Say({"choices": [{"error": {"message": f"Bearer {KEY}"}, "message": None}], "authorization": KEY})
        return slowly(request, number)

    def repeats(self, status: int, code: str = "trouble", **headers: str) -> Say:
        """An error with the key in its message and its headers. As it was sent: who codes it anew cannot be stopped from here."""
        self.repeated += 1
        return error(status, f"Incorrect API key provided: {KEY}", code, X_Key=KEY, Retry_After="0.05", **headers)


@contextmanager
def endpoints(parrot: Parrot) -> Iterator[dict[str, Any]]:
    """Settings that name the parrot in all its moods."""
    elsewhere = "http://127.0.0.1:9/v1?key=" + KEY
    with (
        Loopback(parrot.says) as trouble,
        Loopback(lambda request, number: parrot.repeats(401, "invalid_api_key")) as refusing,
        Loopback(lambda request, number: parrot.repeats(307, "moved", Location=elsewhere)) as redirecting,
    ):
        common = {
            "model": "m",
            "usd_per_million_input": 1,
            "usd_per_million_output": 1,
            "json_schema": False,
            "key_env": "CANARY_KEY",
        }
        urls = {"loopback": trouble, "batched": trouble, "refusing": refusing, "redirecting": redirecting}
        named = {name: common | {"base_url": server.url, "batch": name == "batched"} for name, server in urls.items()}
        yield named


def run(options: Options) -> list[Figure]:
    """The figures."""
    parrot = Parrot()
    with (
        scratch() as room,
        start_s3(room / "s3-server") as s3,
        prefect_server(made(room / "prefect-server")) as api,
        endpoints(parrot) as named,
    ):
        folder = made(room / "searched")
        world = World(folder, api, s3)
        make_readable(made(folder / "readable"))
        settings = {"endpoints": named, "stores": {"keyed": {"bucket": BUCKET, "endpoint_url": s3.endpoint_url, "create": True}}}
        ended = {name: world.run(name, words, settings) for name, words in OVERRIDES.items()}
        objects = list(objects_of(s3))
        secrets = KEY, s3.secret_key
        found = [path for secret in secrets for place in (folder, room / "prefect-server") for path in files_with(place, secret)]
        shown = [f"s3 {key}" for key, body in objects for secret in secrets if holds(key.encode() + b"\n" + body, secret)]
        looked = sum(path.is_file() for path in folder.rglob("*"))
        proof, ways = planted(room / "planted", KEY)
    for place in [*map(str, found), *shown]:
        sys.stderr.write(f"canary: a secret is in {place}\n")
    return [
        Figure("hits_in_files", len(found), "== 0", f"of {looked} files, and those of the Prefect server with its database"),
        Figure("hits_in_s3", len(shown), "== 0", f"of {len(objects)} objects, their names and metadata"),
        Figure("ways_to_hide_not_found", ways - proof, "== 0", f"of {ways} planted; the search's own test"),
        Figure("times_repeated", parrot.repeated, ">= 20", "errors in which the endpoint repeated the key"),
        Figure(
            "runs_with_another_end", sum((ended[name] == 0) != (name in ("errors", "batch")) for name in ended), "== 0", str(ended)
        ),
    ]


def made(path: Path) -> Path:
    """The folder, made."""
    path.mkdir(parents=True)
    return path


def objects_of(s3: LocalS3) -> Iterator[tuple[str, bytes]]:
    """Everything in the bucket, with what the store tells of it."""
    from boto3.session import Session

    keys = Session(aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key)
    client = keys.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            got = client.get_object(Bucket=BUCKET, Key=entry["Key"])
            yield entry["Key"], str(got["Metadata"]).encode() + got["Body"].read()
