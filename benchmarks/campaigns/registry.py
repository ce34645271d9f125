"""A real S3 server for a campaign, behind the proxy that sees every request."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.campaigns.publisher import STORE
from services.s3 import start_s3
from tasks.manifest import ContenderManifest
from tasks.registry.champion import fetch_contender
from tasks.registry.store import StoreClient, connect
from tasks.settings import Settings, Store
from tests.registry.proxy import Proxy, serve_proxy


@dataclass(frozen=True)
class Registry:
    """Where a campaign publishes, and how it looks past the proxy."""

    folder: Path
    settings: Settings
    env: dict[str, str]
    """The server's credentials, for the processes that publish."""
    proxy: Proxy
    client: StoreClient
    """Straight to the server."""

    def fetch(self, sha256: str) -> ContenderManifest:
        """Download and hash a contender. Raises IntegrityError when it is not whole."""
        with TemporaryDirectory() as folder:
            return fetch_contender(self.client, sha256, Path(folder))

    def contenders(self) -> dict[str, set[str]]:
        """The names of the objects of every contender that the store shows."""
        found: dict[str, set[str]] = {}
        depth = len(self.client.key("contenders").split("/"))
        for stored in self.client.listed("contenders"):
            parts = stored.key.split("/")
            found.setdefault(parts[depth], set()).add("/".join(parts[depth + 1 :]))
        return found


@contextmanager
def opened(folder: Path) -> Iterator[Registry]:
    """A registry for the time of a `with`, empty."""
    with start_s3(folder) as s3, serve_proxy(s3.endpoint_url, s3.access_key, s3.secret_key) as proxy:
        env = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
        store = Store(bucket="campaign", prefix="of/publication", endpoint_url=proxy.url, create=True)
        settings = Settings(home=folder / "home", stores={STORE: store})
        keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key, "region_name": "us-east-1"}
        client = connect(STORE, store.model_copy(update={"endpoint_url": s3.endpoint_url}), keys)
        client.check()
        yield Registry(folder, settings, env, proxy, client)
