"""A real S3 server for a campaign, behind the proxy that sees every request."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.campaigns.publisher import STORE
from services.s3 import start_s3
from tasks.manifest import ContenderManifest
from tasks.registry.champion import fetch_contender
from tasks.settings import Settings, Store
from tasks.store import StoreClient, connect
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
def opened(folder: Path, lanes: int = 1) -> Iterator[list[Registry]]:
    """Registries for the time of a `with`, empty, each with a proxy and a prefix of its own on one server."""
    with start_s3(folder) as s3, ExitStack() as stack:
        env = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
        keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key, "region_name": "us-east-1"}
        found = []
        for number in range(lanes):
            proxy = stack.enter_context(serve_proxy(s3.endpoint_url, s3.access_key, s3.secret_key))
            store = Store(bucket="campaign", prefix=f"lane-{number}/of", endpoint_url=proxy.url, create=True)
            lane = folder / f"lane-{number}"
            lane.mkdir()
            settings = Settings(home=lane / "home", stores={STORE: store})
            client = connect(STORE, store.model_copy(update={"endpoint_url": s3.endpoint_url}), keys)
            client.check()
            found.append(Registry(lane, settings, env, proxy, client))
        yield found


def side_by_side(work: Callable[[int], None], lanes: int) -> None:
    """Run `work(lane)` in a thread a lane; the first error ends it all."""
    with ThreadPoolExecutor(lanes) as pool:
        for done in as_completed([pool.submit(work, lane) for lane in range(lanes)]):
            done.result()
