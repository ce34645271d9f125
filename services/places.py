"""Where names lead while a run lasts. An embedded service starts when it is first asked for, and stops with the `with`."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tasks.settings import Endpoint, Settings, SharedLimit, Store

Limiter = Callable[[str, Endpoint], SharedLimit | None]
"""Gives what keeps a named endpoint's limits a minute across runs."""


class LivePlaces:
    """The places of one run (`tasks.settings.Places`); safe to share between threads."""

    def __init__(self, settings: Settings, limiter: Limiter | None = None) -> None:
        self.settings = settings
        self._limiter = limiter
        self._limits: dict[str, SharedLimit | None] = {}
        self._open = ExitStack()
        self._lock = threading.RLock()
        self._started: dict[str, tuple[str, dict[str, str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._started.clear()
        self._open.close()

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint with a `base_url` that listens. Raises BadConfig for an unknown name."""
        endpoint = self.settings.endpoint(name)
        if not endpoint.service:
            return endpoint
        base_url, _ = self._start("llm")
        return endpoint.model_copy(update={"base_url": base_url})

    def limits(self, name: str) -> SharedLimit | None:
        """The endpoint's limits a minute that all runs keep together. Raises BadConfig as above."""
        with self._lock:
            if name not in self._limits:
                self._limits[name] = self._limiter(name, self.settings.endpoint(name)) if self._limiter else None
            return self._limits[name]

    def store(self, name: str) -> tuple[Store, dict[str, str]]:
        """The store with an `endpoint_url` that listens, and the embedded server's credentials. Raises BadConfig as above."""
        store = self.settings.store(name)
        if not store.service:
            return store, {}
        endpoint_url, credentials = self._start("s3")
        return store.model_copy(update={"endpoint_url": endpoint_url, "region": store.region or "us-east-1"}), credentials

    def _start(self, service: str) -> tuple[str, dict[str, str]]:
        with self._lock:  # the second to ask waits for the first one's server
            if service not in self._started:
                self._started[service] = self._start_llm() if service == "llm" else self._start_s3()
            return self._started[service]

    def _start_llm(self) -> tuple[str, dict[str, str]]:
        from services.llm import start_llm

        llm = self._open.enter_context(start_llm(self.settings.home))
        return llm.base_url, {}

    def _start_s3(self) -> tuple[str, dict[str, str]]:
        from services.s3 import start_s3

        s3 = self._open.enter_context(start_s3(self.settings.home))
        return s3.endpoint_url, {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key}
