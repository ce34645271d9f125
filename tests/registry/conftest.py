"""One real S3 server for the session, a bucket a test, and a loopback proxy that misbehaves on command."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from services.places import LivePlaces
from tasks.registry.store import StoreClient, connect
from tasks.settings import Settings, Store
from tests.registry.proxy import Proxy, serve_proxy

PORTS = ["master.port", "volume.port", "filer.port", "s3.port"]
PORTS += [f"{port}.grpc" for port in PORTS] + ["s3.port.iceberg", "s3.port.lance"]


@dataclass(frozen=True)
class Server:
    endpoint_url: str
    access_key: str = "tester"
    secret_key: str = "canary-of-a-secret"

    @property
    def extra(self) -> dict[str, str]:
        return {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key, "region_name": "us-east-1"}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """seaweedfs, with buckets made only on request (as on AWS)."""
    folder = tmp_path_factory.mktemp("s3")
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("seaweedfs is not installed: make setup")
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    server = Server(f"http://127.0.0.1:{ports['s3.port']}")
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.autoCreateBucket=false", "-master.telemetry=false"]
    options += ["-master.volumeSizeLimitMB=64", "-volume.max=0", f"-dir={folder}"]
    options += [f"-{name}={port}" for name, port in ports.items()]
    env = {**os.environ, "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([weed, "server", *options], env=env, stdout=log, stderr=log)
    try:
        _wait(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(s3_server: Server) -> str:
    """The name of a bucket that exists and is empty."""
    name = f"test-{uuid4().hex[:12]}"
    _raw(s3_server).client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(s3_server: Server) -> Iterator[Proxy]:
    with serve_proxy(s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key) as proxy:
        yield proxy


@pytest.fixture
def settings(s3_server: Server, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Two names for one bucket: `direct`, and `proxied` through the proxy."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    stores = {
        "direct": Store(bucket=bucket, prefix="team/a", endpoint_url=s3_server.endpoint_url),
        "proxied": Store(bucket=bucket, prefix="team/a", endpoint_url=proxy.url),
    }
    return Settings(home=tmp_path / "home", stores=stores)


@pytest.fixture
def places(settings: Settings) -> Iterator[LivePlaces]:
    with LivePlaces(settings) as places:
        yield places


@pytest.fixture
def client(s3_server: Server, settings: Settings) -> StoreClient:
    return connect("direct", settings.stores["direct"], s3_server.extra)


def _raw(server: Server) -> StoreClient:
    return connect("raw", Store(bucket="raw-bucket", endpoint_url=server.endpoint_url), server.extra)


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    client = _raw(server).client
    for _ in range(300):
        assert process.poll() is None, "weed ended"
        try:
            client.create_bucket(Bucket="raw-bucket")
            client.put_object(Bucket="raw-bucket", Key="ready", Body=b"1")
        except Exception:  # noqa: BLE001 (whatever it says while it starts)
            time.sleep(0.1)
        else:
            return
    raise AssertionError("weed did not become ready")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
