"""Two names for a bucket of the session's real S3 server, one through a loopback proxy that misbehaves on command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.places import LivePlaces
from services.s3 import LocalS3
from tasks.settings import Settings, Store
from tasks.store import StoreClient, connect
from tests.live import credentials
from tests.registry.proxy import Proxy, serve_proxy


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where contenders and their predictions are made, once for the session; tests publish from workspaces of their own."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def proxy(s3_server: LocalS3) -> Iterator[Proxy]:
    with serve_proxy(s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key) as proxy:
        yield proxy


@pytest.fixture
def settings(s3_server: LocalS3, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
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
def client(s3_server: LocalS3, settings: Settings) -> StoreClient:
    return connect("direct", settings.stores["direct"], credentials(s3_server))
