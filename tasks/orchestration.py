"""What the rooms' Prefect tasks share. Only `tasks/*/stage.py` and the flows import this; everything else knows no Prefect."""

import asyncio
import base64
import logging
import math
import os
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from prefect import Task, allow_failure, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.responses import SetStateStatus
from prefect.flow_runs import pause_flow_run
from prefect.futures import PrefectFuture, wait
from prefect.input import RunInput
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from tasks.errors import BadConfig, BakeoffError, ChildDied
from tasks.progress import Bar, listening
from tasks.settings import PREFECT_DEFAULTS, Endpoint

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
UPDATE_EVERY_S = 2.0
PAUSE_POLL_S = 2
PAUSE_GRACE_S = 120
"""The server fails a run whose pause has expired; before that, at the deadline, the run has itself resumed."""
SAVED_S = 2.0
"""So many seconds of an endpoint's limit can be saved up on the server while nobody asks; they count into its minute."""
TAKEN_S = 0.5
"""So many seconds of it are taken at once, so that not every request waits for the server's word."""


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


def show_svg(key: str, picture: Path, text: str) -> None:
    """A picture on the run's page in Prefect, with some Markdown above it. As a data URI: an `<svg>` element would be stripped."""
    from prefect.artifacts import create_markdown_artifact

    uri = f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    create_markdown_artifact(key=artifact_key(key), markdown=f"{text}\n\n![{artifact_key(key)}]({uri})\n")


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


class OwnersAnswer(RunInput):
    """The form in Prefect's UI that resumes a paused run."""

    answer: str = Field("", max_length=20_000, title="Answer", description="Empty where you have nothing to say to this.")


def ask_person(question: str, seconds: float, key: str) -> str | None:
    """Pause the flow run until a person answers a question on its page, or over the API. Works in a flow's own thread alone.

    Args:
        question: shown as it stands.
        seconds: how long the run waits.
        key: names the question within the run.

    Returns: the answer, which may be empty; None where nobody gave one in time, or nobody can, since the run has no page.
    """
    if not (PREFECT_API_URL.value() or deployment.id):
        logger.warning("nobody can be asked: this run has no page to answer on; start a Prefect server and set PREFECT_API_URL")
        return None
    if seconds <= 0:
        return None
    given, late = threading.Event(), threading.Event()
    context, run_id = copy_context(), UUID(str(flow_run.id))
    clock = threading.Thread(target=lambda: context.run(_resume_at, seconds, run_id, given, late), name="deadline", daemon=True)
    clock.start()
    minutes = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    logger.info("a question to the task's owner (resume this run to answer it, within %s): %s", minutes, question)
    shown = textwrap.indent(textwrap.fill(question, 80), "    ")  # a code block, in which Markdown and HTML stay text
    form = OwnersAnswer.with_initial_data(description=f"The model asks about the task:\n\n{shown}")
    try:
        answer = pause_flow_run(
            wait_for_input=form,
            timeout=math.ceil(seconds) + PAUSE_GRACE_S,
            poll_interval=PAUSE_POLL_S,
            key=f"{key}-{flow_run.run_count}",  # a key that was used once does not pause a run again
        )
    finally:
        given.set()
        clock.join(timeout=30)
    if late.is_set():
        logger.warning("nobody answered within %s", minutes)
        return None
    return answer.answer.strip()


def _resume_at(seconds: float, run_id: UUID, given: threading.Event, late: threading.Event) -> None:
    """At the deadline resume a run that is still paused: one whose pause has expired could not go on."""
    given.wait(seconds)
    while not given.is_set():
        try:
            with get_client(sync_client=True) as client:
                resumed = client.resume_flow_run(run_id, run_input={"answer": ""})
        except httpx.HTTPError as error:  # the server may be back before the grace is over
            logger.warning("the run cannot be resumed at the deadline, and is tried again: %s", error)
        else:
            if resumed.status is SetStateStatus.ACCEPT:
                late.set()
                return
        given.wait(PAUSE_POLL_S)


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
    """Resources, not turns: work that occupies the same resource goes one after another; different resources go side by side, and
    work that occupies two waits for both.

    A failure in a lane does not hold up what waits behind it: each future carries its own.
    """

    def __init__(self) -> None:
        self._last: dict[str, PrefectFuture[Any]] = {}
        self._all: list[PrefectFuture[Any]] = []

    def submit(self, resources: set[str], work: Task[P, R], *args: Any) -> PrefectFuture[R]:
        """Start `work` once what was submitted to any of the resources before has ended, well or not."""
        waits = [allow_failure(self._last[each]) for each in sorted(resources) if each in self._last]
        future: PrefectFuture[R] = work.submit(*args, wait_for=waits)  # type: ignore[arg-type]
        self._last |= dict.fromkeys(resources, future)
        self._all.append(future)
        return future

    def finish(self) -> None:
        """Wait for everything, and raise the first failure in the order of submission: the cause itself, since what was to work on
        a failed result was submitted after it and never ran."""
        wait(self._all)
        for future in self._all:
            future.result()


def limits_of_server(endpoint: Endpoint) -> "ServerLimits | None":
    """What keeps an endpoint's limits a minute across all runs on this Prefect server; None where it has none."""
    return ServerLimits(endpoint) if endpoint.requests_per_minute or endpoint.tokens_per_minute else None


class ServerLimits:
    """A `SharedLimit` (`tasks/prompting/limits.py`) by Prefect's global concurrency limits, whose slots decay with time.

    They are made, or brought up to the settings, when something is first asked for, one for an endpoint's host and model.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = artifact_key("bakeoff", urlsplit(endpoint.base_url).netloc, endpoint.model)
        self._per_minute = {"requests": endpoint.requests_per_minute, "tokens": endpoint.tokens_per_minute}
        self._purses: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Purse]] = WeakKeyDictionary()

    async def take(self, requests: int, tokens: int) -> None:
        """Wait until the server grants so much. Each event loop has slots of its own in hand."""
        loop = asyncio.get_running_loop()
        if loop not in self._purses:
            self._purses[loop] = {kind: _Purse(f"{self._name}-{kind}", most) for kind, most in self._per_minute.items() if most}
        for kind, purse in self._purses[loop].items():
            await purse.take(requests if kind == "requests" else tokens)


class _Purse:
    """Slots of one of the server's limits that were taken and not used yet; what is left at the end is lost."""

    def __init__(self, name: str, per_minute: int) -> None:
        self.name, self.in_hand = name, 0
        self.saved = max(1, round(per_minute * SAVED_S / 60))
        self.batch = max(1, min(self.saved, round(per_minute * TAKEN_S / 60)))
        self.per_s = max(per_minute - self.saved, per_minute / 2) / 60  # what was saved up can be used within the same minute
        self._made = False
        self._lock = asyncio.Lock()

    async def take(self, slots: int) -> None:
        from prefect.concurrency.asyncio import rate_limit

        async with self._lock:
            if not self._made:
                await self._make()
            while self.in_hand < slots:
                await rate_limit(self.name, occupy=self.batch, strict=True)
                self.in_hand += self.batch
            self.in_hand -= slots

    async def _make(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectAlreadyExists

        async with get_client() as client:
            try:
                await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
            except ObjectAlreadyExists:  # another run made it just now
                await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
        self._made = True


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
