"""The compose file's services as processes on this machine: its commands and variables as they stand, on Debian's Postgres and the
real S3 server, each name on loopback. A bake-off by a worker; then everything is stopped and started again."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import httpx
import yaml
from botocore.exceptions import ClientError

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.site import free_port
from tests.live import BIN, Patient, environment, make_readable, running

ROOT = Path(__file__).parents[2]
HOME = "/var/lib/bakeoff"
CONFIG: dict[str, Any] = {
    "name": "team",
    "dataset": {"source": "rows.csv", "near_duplicates": 0},
    "trivial": ["majority"],
    "prompts": [],
    "tuned": [{"name": "tiny", "base": "tiny-bert", "method": "full", "learning_rate": 0.01, "epochs": 2, "max_tokens": 16}],
}


@dataclass
class Team:
    """The services, each with a folder in place of its volume."""

    folder: Path
    words: dict[str, str] = field(default_factory=lambda: {})
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())["services"]
        self.words = {name: secrets.token_hex(12) for name in ("DATABASE_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")}
        self.ports = {"server:4200": free_port(), "s3:8333": free_port(), "database:5432": free_port()}
        make_readable(made(self.folder / "data"))
        (self.folder / "data" / "team.yaml").write_text(yaml.safe_dump(CONFIG))
        self.words["BAKEOFF_CONFIG"] = str(self.folder / "data" / "team.yaml")

    @property
    def api(self) -> str:
        """The server's API."""
        return f"http://127.0.0.1:{self.ports['server:4200']}/api"

    def told(self, text: str, service: str) -> str:
        """A word of the file as this machine has it: passwords filled in, services on loopback, volumes in folders."""
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: self.words[found[1]], text)
        for place, port in self.ports.items():
            text = text.replace(place, f"127.0.0.1:{port}")
        return text.replace(HOME, str(made(self.folder / service))).replace("0.0.0.0", "127.0.0.1")

    def environment(self, service: str) -> dict[str, str]:
        """What the file gives a service, and the image's own."""
        given = {name: self.told(str(value), service) for name, value in self.services[service].get("environment", {}).items()}
        home = made(self.folder / service)
        own = {"BAKEOFF_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "BAKEOFF_ROOTS": str(self.folder / "data")}
        if service == "server":
            given["PREFECT_SERVER_API_PORT"] = str(self.ports["server:4200"])
        return environment(**own | given, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PREFECT_WORKER_QUERY_SECONDS="1")

    def command(self, service: str) -> list[str]:
        """What a service runs; the image's command where the file gives none."""
        words = self.services[service].get("command") or ["python", "-m", "deployments", "worker", "cpu"]
        told = [self.told(str(word), service) for word in words]
        port = self.ports["s3:8333"]
        told = [f"-s3.port={port}" if word.startswith("-s3.port=") else word for word in told]
        told = ["-ip=127.0.0.1" if word.startswith("-ip=") else word for word in told]
        if service == "s3":  # in a container of its own the other ports are free
            parts = ("master", "volume", "filer", "admin")
            told += [f"-{part}.port{kind}={free_port()}" for part in parts for kind in ("", ".grpc")] + [
                f"-s3.port.grpc={free_port()}"
            ]
        return [str(BIN / told[0]) if told[0] != "python" else sys.executable, *told[1:]]

    @contextmanager
    def up(self) -> Iterator[None]:
        """Every service but the GPU's worker, in the file's order."""
        with ExitStack() as stack:
            stack.enter_context(postgres(self.folder / "database", self.ports["database:5432"], self.words["DATABASE_PASSWORD"]))
            for service in ("s3", "server"):
                stack.enter_context(running(self.command(service), self.environment(service), self.folder, service))
            wait(lambda: answers(f"{self.api}/health"), 180, self.folder / "server.log")
            wait(lambda: connects(self.ports["s3:8333"]), 60, self.folder / "s3.log")
            done = subprocess.run(
                self.command("register"), env=self.environment("register"), cwd=ROOT, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"register ended with status {done.returncode}: {done.stderr[-2000:]}")
            stack.enter_context(running(self.command("worker-cpu"), self.environment("worker-cpu"), self.folder, "worker-cpu"))
            yield

    def bake(self) -> dict[str, Any]:
        """A run of `bakeoff/cpu`: the verdict that it left in the worker's home."""
        with Patient(base_url=self.api, timeout=60) as api:
            deployment = api.get("/deployments/name/bakeoff/cpu").raise_for_status().json()["id"]
            asked = api.post(f"/deployments/{deployment}/create_flow_run", json={})
            run = asked.raise_for_status().json()["id"]
            ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            wait(lambda: api.get(f"/flow_runs/{run}").json()["state_type"] in ended, 300, self.folder / "worker-cpu.log")
            state = api.get(f"/flow_runs/{run}").json()["state"]
        if state["type"] != "COMPLETED":
            raise RuntimeError(f"the run ended in {state}")
        return dict(json.loads((self.folder / "worker-cpu/workspace/runs" / run / "verdict.json").read_text()))


def run(_options: Options) -> list[Figure]:
    """The figures."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        team = Team(Path(name))
        began = time.monotonic()
        with team.up():
            ready = time.monotonic() - began
            first = team.bake()
            refused = wrong_key_is_refused(team)
        with team.up():
            with Patient(base_url=team.api, timeout=60) as api:
                kept = api.post("/flow_runs/count", json={}).json()
                twice = api.post("/deployments/count", json={}).json() - len({*names(api)})
            second = team.bake()
    return [
        Figure("ready_s", ready, note="Postgres, S3, server, registration, worker; from empty folders"),
        Figure("first_run_publishes", first["decision"] == "publish", "== 1"),
        Figure("runs_kept_over_a_restart", kept, ">= 1", "Postgres and every other service were stopped and started again"),
        Figure("deployments_made_twice", twice, "== 0"),
        Figure("second_run_keeps_the_champion", second["decision"] == "keep_champion", "== 1"),
        Figure("products_reused_by_it", len(second["reused"]), ">= 4"),
        Figure("s3_refuses_another_key", refused, "== 1"),
    ]


def names(api: httpx.Client) -> list[tuple[str, str]]:
    """Flow and name of every deployment."""
    found = api.post("/deployments/filter", json={}).raise_for_status().json()
    return [(each["flow_id"], each["name"]) for each in found]


def wrong_key_is_refused(team: Team) -> bool:
    """Whether the S3 asks who comes."""
    address = f"http://127.0.0.1:{team.ports['s3:8333']}"
    keys = {"aws_access_key_id": team.words["S3_ACCESS_KEY"], "aws_secret_access_key": "another", "region_name": "us-east-1"}
    try:
        boto3.session.Session().client("s3", endpoint_url=address, **keys).list_buckets()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


@contextmanager
def postgres(folder: Path, port: int, password: str) -> Iterator[None]:
    """Debian's Postgres with the user and database that the file names; it does not run as root."""
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not tools:
        raise RuntimeError("Postgres is not installed: apt-get install postgresql")
    programs = {name: str(tools[-1] / name) for name in ("initdb", "postgres", "createdb")}
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    fresh = not folder.exists()
    made(folder)
    if as_user:
        subprocess.run(["chown", "postgres", str(folder)], check=True)
    if fresh:
        (folder.parent / "password").write_text(password)
        (folder.parent / "password").chmod(0o644)
        asked = ["--username", "prefect", "--pwfile", str(folder.parent / "password"), "--auth", "scram-sha-256", "--pgdata"]
        subprocess.run([*as_user, programs["initdb"], *asked, str(folder / "data")], check=True, capture_output=True)
    command = [programs["postgres"], "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    user = "postgres" if as_user else None
    with running(command, environment(), folder.parent, "database", signal.SIGINT, user):  # as its image says: at once, in order
        wait(lambda: connects(port), 60, folder.parent / "database.log")
        if fresh:
            env = environment(PGPASSWORD=password)
            asked = ["--host", "127.0.0.1", "--port", str(port), "--username", "prefect", "prefect"]
            subprocess.run([programs["createdb"], *asked], env=env, check=True, capture_output=True)
        yield


def wait(holds: Any, seconds: float, log: Path) -> None:
    """Until it holds. Raises RuntimeError with the log's end."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} s in vain; {log.name} ends: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.3)


def answers(url: str) -> bool:
    """Whether something answers there, well."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def connects(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def made(folder: Path) -> Path:
    """The folder, there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
