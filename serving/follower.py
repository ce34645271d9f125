"""Follows the champion's pointer: the next champion is loaded aside, takes over between two requests, and the old one ends when its
last request has.

Whatever is wrong with the next one (bytes, base model, an endpoint that is not there), this one goes on, and says so.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from services.bench import Bench
from serving.batching import Batcher
from serving.meters import Meters
from serving.options import Options
from tasks.config import BakeoffConfig
from tasks.contenders.loader import Predictor, load_contender
from tasks.errors import BadConfig, BakeoffError, IntegrityError
from tasks.manifest import ContenderManifest, read_manifest
from tasks.predicting.rows import answer_rows
from tasks.prompting.reverse import Reader, reader_of
from tasks.records import Failure
from tasks.registry.champion import ChampionVersion, current_champion, fetch_champion, read_champion
from tasks.registry.verify import example_request
from tasks.store import StoreClient, open_store

logger = logging.getLogger(__name__)
ASKING_WORKERS = 8
"""Batches under way at once for a champion that asks an endpoint; the endpoint's own limits hold beside."""


@dataclass
class Loaded:
    """A champion that can answer."""

    version: ChampionVersion
    manifest: ContenderManifest
    predictor: Predictor
    reader: Reader
    """Finds the row in a chat's messages."""


@dataclass(eq=False)
class Served:
    """A champion that answers."""

    champion: Loaded
    batcher: Batcher
    pending: int = 0
    """Requests that hold it."""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is no longer current and nobody holds it."""
    retired: bool = False


class Follower:
    """Holds the champion that answers."""

    def __init__(self, config: BakeoffConfig, bench: Bench, options: Options, meters: Meters) -> None:
        self.config, self.bench, self.options, self.meters = config, bench, options, meters
        self.current: Served | None = None
        self.trouble = ""
        """Why the champion that answers may not be the one that the pointer names; empty when all is well."""
        self.read_at = 0.0
        """When the pointer was read last (`time.time`)."""
        self._client: StoreClient | None = None
        self._failed: tuple[str, float] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load the champion that there is.

        Raises:
            BadConfig: there is none yet.
            BakeoffError: it cannot be loaded.
        """
        version = await asyncio.to_thread(self._read)
        if version is None:
            raise BadConfig(f"{self.config.name} has no champion yet: `bakeoff run` publishes one when the evidence is there")
        self._swap(await asyncio.to_thread(self._load, version))

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.options.poll_s)
            await self.look()

    async def look(self) -> None:
        """Read the pointer; where it has moved, load what it names and let it take over."""
        try:
            version = await asyncio.to_thread(self._read)
            if version is None:
                raise IntegrityError(f"the pointer of {self.config.name} is gone")
        except Exception as error:  # noqa: BLE001 - whatever it is, what is loaded goes on
            self.meters.pointer_failures.inc()
            self._say("the pointer cannot be read", error)
            return
        if self.current and self.current.champion.version == version:
            self._say("", None)
        elif not self._failed or self._failed[0] != version.model_dump_json() or time.monotonic() >= self._failed[1]:
            await self._take_over(version)

    async def stop(self) -> None:
        """End the champion that answers; its requests have ended before."""
        if self.current:
            await self.current.batcher.close()
        for task in list(self._ending):
            task.cancel()

    @contextmanager
    def holding(self) -> Iterator[Served]:
        """The champion that answers, kept for the time of a `with` though another take over meanwhile."""
        served = self.current
        assert served, "the server starts with a champion"
        served.pending += 1
        try:
            yield served
        finally:
            served.pending -= 1
            if served.retired and not served.pending:
                served.free.set()

    def _read(self) -> ChampionVersion | None:
        places, store = self.bench.places, self.config.store
        if self.bench.settings.store(store).service:  # only this machine writes there, and what it remembers is enough
            return current_champion(places, store, self.config.name)
        self._client = self._client or open_store(places, store)
        return read_champion(self.bench.settings, self._client, self.config.name)

    def _load(self, version: ChampionVersion) -> Loaded:
        """Fetch a version, check every byte, load it, and see that it answers."""
        started = time.monotonic()
        contender = fetch_champion(self.bench.places, self.config.store, version, self.bench.workspace)
        manifest = read_manifest(contender.folder)
        predictor = load_contender(contender.folder, self.bench.asking(contender), self.bench.settings)
        if manifest.kind in ("prompt", "hybrid"):
            _check_endpoint(manifest, self.bench)
            example_request(contender.folder)  # its messages can be rendered; nobody is asked
        else:
            check_answers(predictor, manifest)
        reader = reader_of(version.config, manifest.labels, manifest.inputs, self.bench.settings)
        logger.info(
            "%s version %d, %s, is loaded after %.1f s", version.name, version.version, manifest.name, time.monotonic() - started
        )
        return Loaded(version, manifest, predictor, reader)

    async def _take_over(self, version: ChampionVersion) -> None:
        self.meters.pointed.set(version.version)
        try:
            loaded = await asyncio.to_thread(self._load, version)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the next one, this one goes on
            self._failed = version.model_dump_json(), time.monotonic() + self.options.retry_s
            self.meters.load_failures.inc()
            self._say(f"version {version.version} ({version.contender}) cannot be loaded", error)
            return
        self._failed = None
        self._say("", None)
        self._swap(loaded)

    def _swap(self, loaded: Loaded) -> None:
        """Between two turns of the event loop: no request sees half of it."""
        manifest = loaded.manifest
        workers = ASKING_WORKERS if manifest.kind in ("prompt", "hybrid") else 1
        batcher = Batcher(lambda rows: answer_rows(loaded.predictor, rows, manifest.labels), self.options, self.meters, workers)
        old, self.current = self.current, Served(loaded, batcher)
        self.read_at = time.time()
        self.meters.pointed.set(loaded.version.version)
        self.meters.serves(loaded.version)
        if old:
            self.meters.swaps.inc()
            logger.info("version %d took over from version %d", loaded.version.version, old.champion.version.version)
            task = asyncio.create_task(_retire(old))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _say(self, what: str, error: Exception | None) -> None:
        """Keep what is wrong for /health; an error that is not ours may quote anything, so only its type is shown."""
        self.read_at = time.time() if error is None else self.read_at
        self.meters.degraded.set(int(error is not None))
        if error is None:
            self.trouble = ""
            return
        told = str(error) if isinstance(error, BakeoffError) else type(error).__name__
        if f"{what}: {told}" != self.trouble:
            logger.warning(
                "%s, and the champion that is loaded goes on: %s", what, told, exc_info=not isinstance(error, BakeoffError)
            )
        self.trouble = f"{what}: {told}"


def check_answers(predictor: Predictor, manifest: ContenderManifest) -> None:
    """Raises IntegrityError for a champion on this machine that gives no usable answer about a text. One that writes may have more
    to say about it than it may: that it is cut is no fault."""
    (answer,) = answer_rows(predictor, [dict.fromkeys(manifest.inputs, "a text")], manifest.labels)
    if answer.failure not in (None, Failure.CUT):
        raise IntegrityError(f"{manifest.name} gives no usable answer ({answer.failure}): publish it again")


def _check_endpoint(manifest: ContenderManifest, bench: Bench) -> None:
    from tasks.prompting.endpoint import preflight

    name = manifest.occupies.removeprefix("endpoint:")
    preflight(name, bench.settings.endpoint(name))


async def _retire(served: Served) -> None:
    """End a champion when the last request that holds it has its answer."""
    served.retired = True
    if served.pending:
        await served.free.wait()
    with suppress(asyncio.CancelledError):
        await served.batcher.close()
