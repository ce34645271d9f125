"""What differs from Prefect's own engine and logs. In force once any module of this package is imported."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import flow_engine
from prefect.concurrency._leases import maintain_concurrency_lease
from prefect.logging.handlers import APILogHandler

from tasks.errors import BakeoffError
from tasks.settings import PREFECT_DEFAULTS


@contextmanager
def _renew_lease(lease_id: UUID, lease_duration: float, *_: Any, **__: Any) -> Iterator[None]:
    """Prefect's own, but that a run goes on when its deployment's slot is lost. Prefect would end it, though its server takes the
    slot from every run that pauses, and renews none while it is away. Another run may then begin beside this one: what two must not
    do at once has locks of its own."""
    with maintain_concurrency_lease(lease_id, lease_duration, raise_on_lease_renewal_failure=False, suppress_warnings=True):
        yield


class _NoTraceback(logging.Filter):
    """An error that Bakeoff raises on purpose is told by its message; a traceback would only hide it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], BakeoffError):
            record.exc_info = None
        return True


def _hear_libraries() -> None:
    """Send the project's and the libraries' logs to the run's log. Prefect sees to that itself only where its settings were made
    before it was imported; a worker's process imports it first."""
    prefects, setting = logging.getLogger("prefect.extra"), "PREFECT_LOGGING_EXTRA_LOGGERS"
    for name in filter(None, os.environ.get(setting, PREFECT_DEFAULTS[setting]).split(",")):
        library = logging.getLogger(name.strip())
        if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
            for handler in prefects.handlers:
                library.addHandler(handler)
            library.setLevel(library.level or prefects.level)


flow_engine.maintain_concurrency_lease = _renew_lease  # type: ignore[attr-defined]  # there is no setting for it
_hear_libraries()
for name in ("tasks", "services"):
    logging.getLogger(name).setLevel(logging.INFO)
for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(name).addFilter(_NoTraceback())
