"""Claims: one worker at a time makes a product.

    claims/<stage>/<fingerprint>.json     who makes it; the holder writes it anew while it lives

A claim is taken, renewed and given back by conditional writes alone, so of several workers that try at once one has it. It is old
when the store's clock says so: no machine's clock counts. One that was not renewed for its lease is taken over.
"""

import json
import logging
import os
import platform
from dataclasses import dataclass, field
from threading import Event, Lock
from uuid import uuid4

from tasks.errors import LostClaim
from tasks.store import Seen, StoreClient

logger = logging.getLogger(__name__)
COARSE_S = 1.0
"""Stores tell times in whole seconds."""


def worker_name() -> str:
    """This process, as others are told of it."""
    return f"{platform.node()}, process {os.getpid()}"


@dataclass
class Claim:
    """One product, claimed or not yet."""

    client: StoreClient
    key: str
    lease_s: float
    holder: str = field(default_factory=lambda: uuid4().hex)
    lost: Event = field(default_factory=Event)
    """Set once another worker has it."""
    _beat: int = 0
    _etag: str | None = None
    _lock: Lock = field(default_factory=Lock)

    def take(self) -> str:
        """Take it where it is free, given back or old. Returns: empty where it is ours now, else who has it."""
        with self._lock:
            there = self.client.look(self.key)
            if there and (name := _held_by(there)):
                return name
            if there:
                logger.info("%s was left by a worker that is gone, or gave it back: it is taken over", self.key)
            self._etag = self.client.put_if(self.key, self._body(), there.etag if there else None)
            return "" if self._etag else "another worker, which was quicker"

    def renew(self) -> None:
        """Say that this worker lives.

        Raises:
            LostClaim: another one has taken over.
        """
        with self._lock:
            if self._etag is not None:
                self._etag = self._over_own(self._etag)
                if self._etag is None:
                    self.lost.set()
        self.check()

    def check(self) -> None:
        """Raises LostClaim where it is known that another worker has taken over."""
        if self.lost.is_set():
            raise LostClaim(
                f"another worker took {self.key} over, since this one was not heard of for {self.lease_s:g} s (the machine slept, "
                "or the store was out of reach): what this one made of it is not kept; run again to go on with what the other makes"
            )

    def give_back(self) -> None:
        """Let the next worker have it at once."""
        with self._lock:
            if self._etag is not None:
                self._over_own(self._etag, free=True)
                self._etag = None

    def remove(self) -> None:
        """It is not needed any more: the product is there for all."""
        with self._lock:
            if self._etag is not None:
                self.client.remove(self.key)
                self._etag = None

    def _over_own(self, etag: str, free: bool = False) -> str | None:
        """Write it over what this worker wrote last, which may be more than it heard of: where the answer to a write was lost.

        Returns: its new ETag; None where another worker has it."""
        written = self.client.put_if(self.key, self._body(free), etag)
        if written is None and (there := self.client.look(self.key)) and _holder(there) == self.holder:
            written = self.client.put_if(self.key, self._body(free), there.etag)
        return written

    def _body(self, free: bool = False) -> bytes:
        """Never twice the same, so that every write has an ETag of its own."""
        self._beat += 1
        said = {"holder": self.holder, "worker": worker_name(), "lease_s": self.lease_s, "beat": self._beat, "free": free}
        return json.dumps(said).encode()


def _holder(there: Seen) -> str:
    """Who wrote a claim; empty where what stands there is none."""
    try:
        return str(json.loads(there.body)["holder"])
    except (ValueError, KeyError, TypeError):
        return ""


def _held_by(there: Seen) -> str:
    """Who holds a claim; empty where nobody does any more, be it that what stands there is no claim at all."""
    try:
        said = json.loads(there.body)
        held = not said["free"] and there.age_s <= float(said["lease_s"]) + COARSE_S
        return str(said["worker"]) if held else ""
    except (ValueError, KeyError, TypeError):
        return ""
