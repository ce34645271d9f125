"""The thread that sends what grows beside the products: now and then, and at once where somebody waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

logger = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""A sending that takes longer is in trouble: nobody waits for it any more, until one has worked again."""


class Sender:
    """Sends again and again. All that ask for it meanwhile are served by one sending, so many askers cost few requests."""

    def __init__(self, send: Callable[[], bool], every_s: float) -> None:
        """
        Args:
            send: brings the store up to what is here; whether that worked.
            every_s: between two sendings that nobody asked for.
        """
        self._send, self._every_s = send, every_s
        self._lock, self._wanted, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._waiting: list[Future[None]] = []
        self._began_at: float | None = None
        self._failed = False

    def soon(self) -> "Future[None]":
        """Have sent what is here by now. Done when it is in the store, or when the store is in trouble, which has been logged."""
        one: Future[None] = Future()
        with self._lock:
            if self._ended.is_set() or self._in_trouble():
                one.set_result(None)
                return one
            self._waiting.append(one)
        self._wanted.set()
        return one

    def run(self) -> None:
        """Send until it is ended; the thread's whole work."""
        while not self._ended.is_set():
            self._wanted.wait(self._every_s)
            self._wanted.clear()
            self._once()

    def end(self) -> None:
        """Let the thread end after one more sending; nobody waits from here on."""
        with self._lock:
            self._ended.set()
        self._wanted.set()

    def _once(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._began_at = time.monotonic()
        try:
            self._failed = not self._send()
        except Exception:
            self._failed = True
            logger.exception("what was answered could not be sent, and is tried again")
        finally:
            self._began_at = None
            for one in waiting:
                if one.set_running_or_notify_cancel():  # else its asker has given up waiting
                    one.set_result(None)

    def _in_trouble(self) -> bool:
        return self._failed or (self._began_at is not None and time.monotonic() - self._began_at > PATIENCE_S)
