"""The thread that sends what grows beside the products: now and then, and at once where somebody waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

logger = logging.getLogger(__name__)
PATIENCE_S = 2.5
"""A store that takes longer for a sending is in trouble: only who insists waits for it, until one was quicker again."""


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
        self._in_trouble = False

    def soon(self, insist: bool = False) -> "Future[None]":
        """Have sent what is here by now. Done when that was tried; at once where the store is in trouble, or all is at its end.

        Args:
            insist: have it tried although the store was in trouble the last time.
        """
        one: Future[None] = Future()
        with self._lock:
            late = self._began_at is not None and time.monotonic() - self._began_at > PATIENCE_S
            if self._ended.is_set() or ((late or self._in_trouble) and not insist):
                one.set_result(None)
                return one
            self._waiting.append(one)
        self._wanted.set()
        return one

    def run(self) -> None:
        """Send until it is ended, and once more; the thread's whole work."""
        while not self._ended.is_set():
            self._wanted.wait(self._every_s)
            self._wanted.clear()
            self._once()
        self._once()

    def end(self) -> None:
        """Let the thread end; nobody begins to wait from here on."""
        with self._lock:
            self._ended.set()
        self._wanted.set()

    def _once(self) -> None:
        began = time.monotonic()
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._began_at = began
        sent = False
        try:
            sent = self._send()
        except Exception:
            logger.exception("what was answered could not be sent, and is tried again")
        finally:
            with self._lock:
                self._began_at = None
                self._in_trouble = not sent or time.monotonic() - began > PATIENCE_S
            for one in waiting:
                if one.set_running_or_notify_cancel():  # else its asker has given up waiting
                    one.set_result(None)
