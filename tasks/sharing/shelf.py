"""The shared workspace of one process: what it finds, claims and sends, with threads that keep claims alive and send what grows."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from tasks.errors import BadConfig, LostClaim, StoreError
from tasks.interrupt import interrupt, pause
from tasks.settings import Places, SharedWorkspace
from tasks.sharing import products
from tasks.sharing.claims import Claim
from tasks.sharing.growing import Growing
from tasks.sharing.sending import Sender
from tasks.store import StoreClient, open_store
from tasks.workspace import digest, write_durably

logger = logging.getLogger(__name__)
WAIT_S = 1.0
"""Between two looks at a product that another worker makes."""
LAST_S = 20.0
"""So long a run that ends waits for what is still being sent."""
BEATS = 3
"""So often within a lease a claim is renewed."""


class Part(Protocol):
    """Something else that grows in the workspace."""

    def send(self) -> None:
        """Bring the store up to what is here."""
        ...

    def fetch(self) -> None:
        """Have here what others sent."""
        ...


class Held:
    """A product that this worker makes (`tasks.workspace.Making`)."""

    def __init__(self, client: StoreClient, claim: Claim, growing: Growing, place: str, title: str) -> None:
        self.claim, self.growing = claim, growing
        self._client, self._place, self.title = client, place, title
        self.committed = False
        self.leaving = False
        """Whether it is being sent for the last time; its claim is kept alive until that is done."""

    def commit(self, folder: Path) -> None:
        """Have all workers find the product, if it is still this one's to make."""
        self.committed = True  # from here on nothing that grows is sent
        if not products.commit(self._client, folder, self._place, self.title, self.claim.renew):
            self.claim.lost.set()
        self.claim.check()


class Shelf:
    """The shared workspace (`tasks.workspace.Sharing`). Use it as a context (`opened_shelf`)."""

    def __init__(self, root: Path, client: StoreClient, settings: SharedWorkspace) -> None:
        self.root, self.client, self.settings = root, client, settings
        self.parts: list[Part] = []
        """What else is sent while a stage runs, and fetched before one begins."""
        self.answers = Sender(self.send_parts, settings.every_s)
        store = client.store
        self._identity = digest([store.endpoint_url, store.bucket, store.prefix, settings.prefix])[:16]
        self._held: list[Held] = []
        self._lock = threading.Lock()

    def key(self, *parts: str) -> str:
        """The key of an object of the workspace."""
        return self.client.key(self.settings.prefix, *parts)

    def fetch(self, place: str, folder: Path) -> bool:
        """Have a product here, whole and checked, where a worker made it."""
        stage, _, name = place.partition("/")
        aside = self.root / "inprogress" / stage / f".{name}.{uuid4().hex[:12]}"
        if not products.fetch(self.client, self._product(place), aside, _title(place)):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.rename(folder)
        except OSError:  # another process of this machine was quicker
            if not (folder / "record.json").exists():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._mark(place).touch()
        logger.info("%s: fetched from %s", _title(place), self.client.uri(self._product(place)))
        return True

    @contextmanager
    def claim(self, place: str, folder: Path, inprogress: Path) -> Iterator[Held | None]:
        """Wait until this worker may make a product; None where another one made it."""
        claim = Claim(self.client, self.key("claims", f"{place}.json"), self.settings.lease_s)
        if not self._wait_for(claim, place, folder):
            yield None
            return
        growing = Growing(self.client, inprogress, f"{self.settings.prefix}/inprogress/{place}")
        held = Held(self.client, claim, growing, self._product(place), _title(place))
        with self._lock:
            self._held.append(held)
        try:
            if self.fetch(place, folder):  # it came to be there between the look and the claim
                yield None
            else:
                growing.restore()
                for part in self.parts:
                    part.fetch()
                yield held
        except BaseException as error:
            self._let_go(held, error)
            claim.check()
            raise
        with self._lock:
            self._held.remove(held)
        if held.committed:
            self._mark(place).touch()
            growing.remove()
            logger.info("%s: made and shared", held.title)
        claim.remove()

    def hand_in(self, place: str, folder: Path) -> None:
        """Have the others find a product that was made before the workspace was shared."""
        if self._mark(place).exists():
            return
        if not self.client.exists(self.client.key(self._product(place), products.MANIFEST)):
            products.commit(self.client, folder, self._product(place), _title(place))
        self._mark(place).touch()

    def together(self, name: str) -> None:
        """Have the same small files in a folder of the workspace as all the others."""
        here, there = self.root / name, self.key(name)
        found = {each.key.removeprefix(f"{there}/") for each in self.client.listed(self.settings.prefix, name)}
        ours = {path.relative_to(here).as_posix() for path in here.rglob("*.json") if not path.name.startswith(".")}
        for each in sorted(ours - found):
            self.client.write_once(f"{there}/{each}", (here / each).read_bytes())
        for each in sorted(found - ours):
            body = self.client.read(f"{there}/{each}")
            if body and products.is_plain(each):
                (here / each).parent.mkdir(parents=True, exist_ok=True)
                write_durably(here / each, body[0].decode())

    def keep(self, file: Path) -> str:
        """A copy of a file of this workspace, such as a run's report, in the store; its address."""
        place = file.relative_to(self.root).as_posix()
        self.client.write(self.key(place), file.read_bytes())
        return self.client.uri(self.settings.prefix, place)

    def renew(self) -> None:
        """Keep every claim alive. Where one is lost, everything that the run does is told to stop."""
        with self._lock:
            held = list(self._held)
        for each in held:
            try:
                each.claim.renew()
            except LostClaim as error:
                logger.error("%s", error)
                interrupt()
            except StoreError as error:
                logger.warning("a claim cannot be renewed, and is tried again: %s", error)

    def send_growing(self) -> None:
        """Send checkpoints and the like of what is being made."""
        with self._lock:
            held = [each for each in self._held if not (each.committed or each.leaving or each.claim.lost.is_set())]
        for each in held:
            self._send(each)

    def send_soon(self, insist: bool = False) -> "Future[None]":
        """Have all that was answered by now sent at once; done when that was tried (`Sender.soon`)."""
        return self.answers.soon(insist)

    def send_parts(self) -> bool:
        """Send what else grows; whether all of it is in the store."""
        all_sent = True
        for part in self.parts:
            try:
                part.send()
            except StoreError as error:
                all_sent = False
                logger.warning("what was answered is not in the store yet, and is sent again: %s", error)
        return all_sent

    def wait_for_last(self) -> None:
        """Give those that are being stopped the time to send what they have, and to give their claims back."""
        deadline = time.monotonic() + LAST_S
        while self._held and time.monotonic() < deadline:
            time.sleep(0.05)

    def _send(self, held: Held) -> None:
        try:
            held.growing.send()
        except LostClaim as error:
            logger.error("%s", error)
            held.claim.lost.set()
            interrupt()
        except StoreError as error:
            logger.warning("what was made so far is not in the store yet, and is sent again: %s", error)

    def _let_go(self, held: Held, error: BaseException) -> None:
        """The last of what was made goes up, and the next worker may begin at once."""
        held.leaving = True
        try:
            if held.claim.lost.is_set() or isinstance(error, LostClaim):
                held.claim.lost.set()
                return
            held.growing.send()
            held.claim.give_back()
        except StoreError as fault:  # then the claim ends with its lease
            logger.warning("what was made so far could not be sent: %s", fault)
        finally:
            with self._lock:
                self._held.remove(held)

    def _wait_for(self, claim: Claim, place: str, folder: Path) -> bool:
        """Whether the claim is ours; false where the product is here instead."""
        told = ""
        while holder := claim.take():
            if self.fetch(place, folder):
                return False
            if holder != told:
                logger.info("%s: %s makes it; waiting", _title(place), holder)
                told = holder
            pause(WAIT_S)
        return True

    def _product(self, place: str) -> str:
        return f"{self.settings.prefix}/products/{place}"

    def _mark(self, place: str) -> Path:
        """A file that says that the store has a product, so that finding it here asks nobody."""
        path = self.root / "shared" / self._identity / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def opened_shelf(places: Places, root: Path, *parts: Callable[[Shelf], Part]) -> Iterator[Shelf | None]:
    """The shared workspace for the time of a `with`; None where the operator names no store for it.

    Args:
        root: the workspace here.
        parts: make what else is sent and fetched.

    Raises:
        BadConfig: the store is this machine's own, or takes no conditional writes.
        StoreError: it refuses or is out of reach.
    """
    settings = places.settings.workspace
    if not settings.store:
        yield None
        return
    shelf = Shelf(root, _open(places, settings.store), settings)
    shelf.parts += [make(shelf) for make in parts]
    for part in shelf.parts:
        part.fetch()
    ended = threading.Event()
    turns = [
        threading.Thread(target=_again, args=(act, every_s, ended), name=name, daemon=True)
        for name, act, every_s in (
            ("claims", shelf.renew, settings.lease_s / BEATS),
            ("growing", shelf.send_growing, settings.every_s),
        )
    ]
    turns.append(threading.Thread(target=shelf.answers.run, name="answers", daemon=True))
    for turn in turns:
        turn.start()
    try:
        yield shelf
    finally:
        shelf.wait_for_last()
        ended.set()
        shelf.answers.end()
        for turn in turns:
            turn.join(timeout=30)
        shelf.send_parts()


def _open(places: Places, name: str) -> StoreClient:
    store = places.settings.store(name)
    if store.service:
        raise BadConfig(f"workspace.store is {name!r}, which is this machine's own: name a store that every machine reaches")
    if store.single_writer:
        raise BadConfig(f"workspace.store is {name!r}, a store of a single writer: workers on several machines need another")
    client = open_store(places, name)
    client.check()
    return client


def _again(act: Callable[[], None], every_s: float, ended: threading.Event) -> None:
    while not ended.wait(every_s):
        act()


def _title(place: str) -> str:
    stage, _, name = place.partition("/")
    return f"{stage} {name[:12]}"
