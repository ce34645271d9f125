"""What the rooms' Prefect tasks share. Only `tasks/*/stage.py` and the flows import this; everything else knows no Prefect."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from prefect import Task, allow_failure, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment

from tasks.errors import BadConfig, BakeoffError, ChildDied
from tasks.progress import Bar, listening
from tasks.settings import PREFECT_DEFAULTS

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
UPDATE_EVERY_S = 2.0


def stage(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task for one stage of the main job.

    Prefect's own cache is off, since the workspace is the one cache; nothing is persisted, since records are in the workspace. A
    child process that was killed is tried once more: it goes on from what it kept.
    """
    return task(
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=1,
        retry_condition_fn=_child_died,
    )


def _child_died(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), ChildDied)


def artifact_key(*parts: str) -> str:
    """A key that Prefect accepts: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table on the run's page in Prefect, where there is anything to show."""
    from prefect.artifacts import create_table_artifact

    if rows:
        create_table_artifact(key=artifact_key(key), table=rows, description=description)


@contextmanager
def progress_on_page() -> Iterator[None]:
    """Show every bar of the run as a progress artifact on its page in Prefect.

    One thread of its own does the talking: a call to Prefect from inside a stage's event loop would not be awaited, and work should
    not wait for the page.
    """
    bars: SimpleQueue[tuple[str, float, bool]] = SimpleQueue()
    done = threading.Event()
    context = copy_context()
    talker = threading.Thread(target=lambda: context.run(_talk, bars, done), name="progress-on-page", daemon=True)
    talker.start()

    def hear(bar: Bar) -> None:
        share = 100.0 if bar.finished and not bar.total else 100 * bar.done / max(bar.total, 1e-9)
        bars.put((bar.title, min(share, 100.0), bar.finished))

    try:
        with listening(hear):
            yield
    finally:
        done.set()
        talker.join(timeout=30)


def _talk(bars: "SimpleQueue[tuple[str, float, bool]]", done: threading.Event) -> None:
    """Send the newest state of each bar every few seconds, and the last one at the end."""
    artifacts: dict[str, Any] = {}
    while not done.is_set() or not bars.empty():
        done.wait(UPDATE_EVERY_S)
        newest: dict[str, float] = {}
        try:
            while True:
                title, share, _ = bars.get_nowait()
                newest[title] = share
        except Empty:
            pass
        for title, share in newest.items():
            _show(artifacts, title, share)


def _show(artifacts: dict[str, Any], title: str, share: float) -> None:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    if title in artifacts:
        update_progress_artifact(artifacts[title], share)
    else:
        artifacts[title] = create_progress_artifact(share, key=artifact_key("progress", title), description=title)


def roots_of_run() -> list[Path]:
    """Whose files this run may read beside the operator's roots: the working folder's for a function call, none for a run of a
    deployment, which anybody who reaches the form may start.

    Raises:
        BadConfig: a worker has no lasting home; in its temporary folder everything would be lost with the run.
    """
    if not deployment.id:
        return [Path.cwd()]
    if not Path(os.environ.get("BAKEOFF_HOME", "")).is_absolute():
        raise BadConfig("this worker has no lasting home: start it with BAKEOFF_HOME set to an absolute path (`make worker` does)")
    return []


class Lanes:
    """Resources, not turns: work that occupies the same resource goes one after another; different resources go side by side.

    A failure in a lane does not hold up what waits behind it: each future carries its own.
    """

    def __init__(self) -> None:
        self._last: dict[str, PrefectFuture[Any]] = {}
        self._all: list[PrefectFuture[Any]] = []

    def submit(self, resource: str, work: Task[P, R], *args: Any) -> PrefectFuture[R]:
        """Start `work` once what was submitted to the resource before has ended, well or not."""
        waits = [allow_failure(self._last[resource])] if resource in self._last else []
        future: PrefectFuture[R] = work.submit(*args, wait_for=waits)  # type: ignore[arg-type]
        self._last[resource] = future
        self._all.append(future)
        return future

    def finish(self) -> None:
        """Wait for everything, and raise the first failure in the order of submission: the cause itself, since what was to work on
        a failed result was submitted after it and never ran."""
        wait(self._all)
        for future in self._all:
            future.result()


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


_hear_libraries()
for name in ("tasks", "services"):
    logging.getLogger(name).setLevel(logging.INFO)
for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(name).addFilter(_NoTraceback())
