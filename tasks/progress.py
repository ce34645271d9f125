"""Progress of long work: plain functions report it here; whoever shows it (terminal, Prefect, a parent process) listens. A line in
the log tells of it now and then as well.

with progress("train lora", total=300) as bar:
    bar.advance(1, note="loss 0.41")
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
LOG_EVERY_S = 10.0


@dataclass
class Bar:
    """One piece of long work. `done` never passes `total`."""

    title: str
    total: float
    done: float = 0.0
    note: str = ""
    finished: bool = False
    _logged: float = field(default_factory=time.monotonic)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add to what is done."""
        self.move(self.done + amount, note)

    def move(self, done: float, note: str = "") -> None:
        """Say how much is done in all."""
        self.done, self.note = min(done, self.total), note or self.note
        _tell(self)


Listener = Callable[[Bar], None]
_listeners: list[Listener] = []
_lock = threading.Lock()


@contextmanager
def progress(title: str, total: float) -> Iterator[Bar]:
    """A bar for the time of a `with`; listeners hear of its start, each step and its end."""
    bar = Bar(title, max(total, 0))
    _tell(bar)
    try:
        yield bar
    finally:
        bar.finished = True
        _tell(bar)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have every bar of this process told to `listener` (from whichever thread works) for the time of a `with`."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def _tell(bar: Bar) -> None:
    with _lock:
        listeners = list(_listeners)
    for listener in listeners:
        listener(bar)
    now = time.monotonic()
    if now - bar._logged >= LOG_EVERY_S:
        bar._logged = now
        logger.info("%s: %d of %d %s", bar.title, bar.done, bar.total, bar.note)
