"""One bucket, and as many machines as a test wants: each a workspace in a home of its own."""

from pathlib import Path

import pytest

from services.s3 import LocalS3
from tasks.settings import Settings, SharedWorkspace, Store
from tasks.store import StoreClient, connect
from tests.live import credentials


@pytest.fixture
def shared(s3_server: LocalS3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of machines that share a workspace; their credentials are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = Store(bucket=bucket, prefix="team", endpoint_url=s3_server.endpoint_url)
    workspace = SharedWorkspace(store="ours", lease_s=2, every_s=0.2)
    return Settings(home=tmp_path / "home", stores={"ours": store}, workspace=workspace)


@pytest.fixture
def client(s3_server: LocalS3, shared: Settings) -> StoreClient:
    """A look into the bucket that no machine has a part in."""
    return connect("ours", shared.stores["ours"], credentials(s3_server))
