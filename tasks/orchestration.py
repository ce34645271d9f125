"""What the rooms' Prefect tasks share. Only `tasks/*/stage.py` and the flows import this; everything else knows no Prefect."""

import asyncio
import base64
import logging
import math
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import httpx
from prefect import Task, allow_failure, flow_engine, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import SetStateStatus
from prefect.concurrency._leases import maintain_concurrency_lease
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.flow_runs import pause_flow_run
from prefect.futures import PrefectFuture, wait
from prefect.input import RunInput
from prefect.input.actions import read_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from tasks.errors import BadConfig, BakeoffError, ChildDied
from tasks.progress import Bar, listening
from tasks.records import Approval, Verdict
from tasks.settings import PREFECT_DEFAULTS, Endpoint

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
Form = TypeVar("Form", bound=RunInput)
UPDATE_EVERY_S = 2.0
PAUSE_POLL_S = 2
PAUSE_GRACE_S = 120
"""The server fails a run whose pause has expired; before that, at the deadline, the run has itself resumed."""
SAVED_S = 2.0
"""So many seconds of an endpoint's limit can be saved up on the server while nobody asks; they count into its minute."""
TAKEN_S = 1.0
"""So many seconds of it are taken at once, so that not every request waits for the server's word."""
SLOTS = {"requests": 1000, "tokens": 1}
"""How many of a limit's slots are one of these: the server rounds down to whole slots what came free since it last gave some."""
SCATTER_S = 0.3
"""Those who wait for the same slots come back within so many seconds: SQLite sends away who comes at the very same moment."""
SERVER_WAIT_S = 15.0
"""A server that says nothing for so long is out of reach."""
ALONE_S = 60.0
"""So long a process then keeps the limits for itself, before it tries the server again."""

WATCH = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGTERM)"
"""Its standard input ends when the process that holds the other end does."""
_watchers: dict[int, "subprocess.Popen[bytes]"] = {}


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


@contextmanager
def page_may_be_away() -> Iterator[None]:
    """For the time of a `with`: what is shown on the run's page is not worth the run. Where the server is out of reach or fails, it
    is left out, and the log says so."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        said = str(error) or type(error).__name__
        logger.warning("the Prefect server did not take it, so something is missing on the run's page: %s", said)


def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table on the run's page in Prefect, where there is anything to show: figures with the four digits that fit there."""
    from prefect.artifacts import create_table_artifact

    if rows:
        with page_may_be_away():
            create_table_artifact(key=artifact_key(key), table=[_short(row) for row in rows], description=description)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A text on the run's page in Prefect; the description stands on its card there."""
    from prefect.artifacts import create_markdown_artifact

    with page_may_be_away():
        create_markdown_artifact(key=artifact_key(key), markdown=markdown, description=description)


def show_svg(key: str, picture: Path, text: str) -> None:
    """A picture on the run's page in Prefect, with some Markdown above it. As a data URI: an `<svg>` element would be stripped."""
    uri = f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    show_markdown(key, f"{text}\n\n![{artifact_key(key)}]({uri})\n", text.partition("\n")[0])


@contextmanager
def progress_on_page() -> Iterator[None]:
    """Show every bar of the run as a progress artifact on its page in Prefect.

    One thread of its own does the talking: a call to Prefect from inside a stage's event loop would not be awaited, and work should
    not wait for the page.
    """
    bars: SimpleQueue[tuple[str, float, str]] = SimpleQueue()
    done = threading.Event()
    context = copy_context()
    talker = threading.Thread(target=lambda: context.run(_talk, bars, done), name="progress-on-page", daemon=True)
    talker.start()

    def hear(bar: Bar) -> None:
        share = 100.0 if bar.finished and not bar.total else 100 * bar.done / max(bar.total, 1e-9)
        bars.put((bar.title, min(share, 100.0), f"{bar.title}: {bar.note}" if bar.note else bar.title))

    try:
        with listening(hear):
            yield
    finally:
        done.set()
        talker.join(timeout=30)


def _talk(bars: "SimpleQueue[tuple[str, float, str]]", done: threading.Event) -> None:
    """Send the newest state of each bar every few seconds, and the last one at the end."""
    artifacts: dict[str, Any] = {}
    while not done.is_set() or not bars.empty():
        done.wait(UPDATE_EVERY_S)
        newest: dict[str, tuple[float, str]] = {}
        try:
            while True:
                title, share, said = bars.get_nowait()
                newest[title] = share, said
        except Empty:
            pass
        for title, (share, said) in newest.items():
            with page_may_be_away():
                _show(artifacts, title, share, said)


def _show(artifacts: dict[str, Any], title: str, share: float, said: str) -> None:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    if title in artifacts:
        update_progress_artifact(artifacts[title], share, description=said)
    else:
        artifacts[title] = create_progress_artifact(share, key=artifact_key("progress", title), description=said)


def end_server_with_process() -> None:
    """Have Prefect's temporary server, where this process started one, end with it also when it is killed: a watcher sees to that.

    Prefect stops its server only when the process ends by itself.
    """
    module = sys.modules.get("prefect.server.api.server")  # imported by whoever starts a server
    for server in module.SubprocessASGIServer._instances.values() if module else ():
        if server.server_process and server.server_process.pid not in _watchers:
            command = [sys.executable, "-S", "-c", WATCH, str(server.server_process.pid)]
            silent = subprocess.DEVNULL
            watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True)
            _watchers[server.server_process.pid] = watcher


class OwnersAnswer(RunInput):
    """The form in Prefect's UI that resumes a paused run."""

    answer: str = Field("", max_length=20_000, title="Answer", description="Empty where you have nothing to say to this.")


class OwnersWord(RunInput):
    """The form in Prefect's UI by which a person lets a winner become champion, or not."""

    approve: bool = Field(False, title="Publish", description="Whether the winner may become champion.")
    by: str = Field("", max_length=200, title="Your name", description="Kept in the verdict.")
    note: str = Field("", max_length=2_000, title="Note", description="Why, for those who come later.")


def check_page(wanted: bool) -> None:
    """Raises BadConfig, before anything is spent, where a person is to be asked on the run's page and the run has none."""
    if wanted and not _has_page():
        raise BadConfig(
            "gate.approval is on, but this run has no page to answer on: start a Prefect server and set PREFECT_API_URL, or turn "
            "gate.approval off"
        )


def ask_approval(verdict: Verdict, hours: float) -> Approval:
    """Pause the flow run until a person lets the winner become champion or refuses. Works in a flow's own thread alone.

    Returns: without a word in time, or where nobody can be asked, `approved` is None.
    """
    told = _evidence(verdict, hours)
    logger.info("%s waits for a person's word: resume this run within %g hours", verdict.winner, hours)
    form = OwnersWord.with_initial_data(description=_as_text(told))
    given = _pause(form, hours * 3600, "approval", {"approve": False}) if _has_page() else None
    if given is None:
        logger.warning("nobody approved %s within %g hours: it is not published", verdict.winner, hours)
        return Approval(approved=None, hours=hours)
    return Approval(approved=given.approve, by=given.by.strip(), note=given.note.strip(), hours=hours)


def ask_person(question: str, seconds: float, key: str) -> str | None:
    """Pause the flow run until a person answers a question on its page, or over the API. Works in a flow's own thread alone.

    Args:
        question: shown as it stands.
        seconds: how long the run waits.
        key: names the question within the run.

    Returns: the answer, which may be empty; None where nobody gave one in time, or nobody can, since the run has no page.
    """
    if not _has_page():
        logger.warning("nobody can be asked: this run has no page to answer on; start a Prefect server and set PREFECT_API_URL")
        return None
    if seconds <= 0:
        return None
    minutes = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    logger.info("a question to the task's owner (resume this run to answer it, within %s): %s", minutes, question)
    form = OwnersAnswer.with_initial_data(description=f"The model asks about the task:\n\n{_as_text(question)}")
    answer = _pause(form, seconds, key, {"answer": ""})
    if answer is None:
        logger.warning("nobody answered within %s", minutes)
        return None
    return answer.answer.strip()


def _evidence(verdict: Verdict, hours: float) -> str:
    """What a person is to know before a word that publishes."""
    lines = [
        f"{'*' if line.name == verdict.winner else ' '} {line.name}: {100 * line.test.accuracy:.1f} % on {line.test.n} test rows"
        for line in verdict.contenders
    ]
    asked = f"May {verdict.winner} become champion of {verdict.name}? Without a word within {hours:g} hours nothing is published."
    return "\n\n".join(["\n".join(lines), verdict.reason, asked])


def _has_page() -> bool:
    return bool(PREFECT_API_URL.value() or deployment.id)


def _as_text(text: str) -> str:
    """As a code block, in which Markdown and HTML stay text, and as wide as the form in Prefect's UI."""
    return "\n".join(textwrap.indent(textwrap.fill(line, 56), "    ") for line in text.split("\n"))


def _pause(form: type[Form], seconds: float, key: str, silence: dict[str, Any]) -> Form | None:
    """Pause the flow run until the form is sent; None where nobody did so in time.

    Args:
        silence: what the form is filled in with at the deadline, so that the run goes on.
    """
    given, late = threading.Event(), threading.Event()
    context, run_id = copy_context(), UUID(str(flow_run.id))
    waiting = _resume_at, seconds, run_id, given, late, silence
    clock = threading.Thread(target=context.run, args=waiting, name="deadline", daemon=True)
    clock.start()
    try:
        # a key that was used once, by an earlier process of this run, would not pause it again
        answer = _wait_for_form(form, math.ceil(seconds) + PAUSE_GRACE_S, f"{key}-{uuid4()}", run_id)
    finally:
        given.set()
        clock.join(timeout=30)
    _take_slot_again()
    return None if late.is_set() else answer


def _wait_for_form(form: type[Form], timeout: int, key: str, run_id: UUID) -> Form:
    """`pause_flow_run`, which an error of the server does not end: with the same key it pauses the run, or loads what was sent."""
    ends = time.monotonic() + timeout
    while True:
        try:
            return pause_flow_run(wait_for_input=form, timeout=timeout, poll_interval=PAUSE_POLL_S, key=key)
        except httpx.HTTPError as error:
            logger.warning("the Prefect server does not answer, and the run waits on: %s", str(error) or type(error).__name__)
            if not _is_past_pause(form, key, run_id, ends):
                raise


def _is_past_pause(form: type[Form], key: str, run_id: UUID, ends: float) -> bool:
    """Wait until the server answers and the run is paused no more; false where that takes too long."""
    keys = keyset_from_base_key(f"paused-{key}")
    while time.monotonic() < ends:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run_id).state
            if state and state.is_running():
                return True
            if state and state.is_paused() and read_flow_run_input(keys["schema"], run_id) is None:
                form.save(keys, run_id)  # the server went away between the pause and its form
        except httpx.HTTPError as error:
            logger.debug("the Prefect server is asked again: %s", error)
        time.sleep(PAUSE_POLL_S)
    return False


def _take_slot_again() -> None:
    """Have the run occupy its deployment again: the server freed its slot when it paused, and will free one when it ends, if only
    another run's. Nothing waits: where another run has the slot, this one goes on beside it."""
    if not deployment.id:
        return
    try:
        with get_client(sync_client=True) as client:
            client.increment_concurrency_slots([f"deployment:{deployment.id}"], 1, "concurrency")  # a lease would free it once more
    except httpx.HTTPError as error:
        logger.info("this run goes on without a slot of its deployment, so another one may run beside it: %s", error)


def _resume_at(seconds: float, run_id: UUID, given: threading.Event, late: threading.Event, silence: dict[str, Any]) -> None:
    """At the deadline resume a run that is still paused: one whose pause has expired could not go on."""
    given.wait(seconds)
    while not given.is_set():
        try:
            with get_client(sync_client=True) as client:
                resumed = client.resume_flow_run(run_id, run_input=silence)
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


def limits_of_server(name: str, endpoint: Endpoint) -> "ServerLimits | None":
    """What keeps a named endpoint's limits a minute across all runs on this Prefect server.

    Returns: None where the endpoint has no such limit, or no server is there: each process then keeps the limits for itself.
    """
    limited = endpoint.requests_per_minute or endpoint.tokens_per_minute
    return ServerLimits(name, endpoint) if limited and (PREFECT_API_URL.value() or flow_run.id) else None


class ServerLimits:
    """A `SharedLimit` (`tasks/settings.py`) by Prefect's global concurrency limits, whose slots decay with time.

    They are made, or brought up to the settings, when something is first asked for, and are named after the endpoint alone. While
    the server is out of reach nothing waits for it: rows go on at the pace that each process keeps.
    """

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = artifact_key("bakeoff", name)
        self._per_minute = {"requests": endpoint.requests_per_minute, "tokens": endpoint.tokens_per_minute}
        self._hands: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hand] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._alone_until = 0.0

    async def take(self, requests: int, tokens: int) -> None:
        """Wait until the server grants so much; less than 0 gives back."""
        hand, wanted = self._hand(), {"requests": requests, "tokens": tokens}
        if max(requests, tokens) <= 0:
            for kind, purse in hand.purses.items():
                purse.in_hand -= wanted[kind] * SLOTS[kind]
            return
        async with hand.turn:
            if time.monotonic() < self._alone_until:
                return
            try:
                for kind, purse in hand.purses.items():
                    await purse.take(wanted[kind] * SLOTS[kind])
            except (httpx.HTTPError, PrefectException, OSError) as error:
                self._alone_until = time.monotonic() + ALONE_S
                logger.warning(
                    "the Prefect server does not say how fast %s may be asked: this process keeps the limits a minute alone, and "
                    "asks again in %.0f s (%s)",
                    self._name,
                    ALONE_S,
                    str(error) or type(error).__name__,
                )

    def _hand(self) -> "_Hand":
        """What this event loop has taken; loops share nothing that one of them may wait for."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._hands:
                self._hands[loop] = _Hand({kind: _Purse(self._name, kind, most) for kind, most in self._per_minute.items() if most})
            return self._hands[loop]


@dataclass
class _Hand:
    purses: dict[str, "_Purse"]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Purse:
    """Slots of one of the server's limits that were taken and not used yet; what is left at the end is lost."""

    def __init__(self, name: str, kind: str, per_minute: int) -> None:
        self.name, self.in_hand = f"{name}-{kind}", 0
        one = SLOTS[kind]
        self.saved = max(one, round(per_minute * one * SAVED_S / 60))
        self.batch = max(one, round(per_minute * one * TAKEN_S / 60))
        self.per_s = (per_minute * one - (self.saved - one)) / 60  # what was saved up can be used within the same minute
        self._made = False

    async def take(self, slots: int) -> None:
        while self.in_hand < slots:
            await asyncio.sleep(await self._fetch())
        self.in_hand -= slots

    async def _fetch(self) -> float:
        """Take slots from the server if it has so many now; else how many seconds they are away."""
        async with asyncio.timeout(SERVER_WAIT_S), get_client() as client:
            if not self._made:
                await self._make(client)
            try:
                reply = await client.increment_concurrency_slots([self.name], self.batch, "rate_limit")
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.LOCKED:
                    raise
            else:
                self._made = bool(reply.json())  # else somebody deleted it
                self.in_hand += self.batch if self._made else 0
                return 0.0
            # not as its Retry-After says, which is drawn at random: what comes free meanwhile beyond `saved` would be lost
            limit = await client.read_global_concurrency_limit_by_name(self.name)
        missing = limit.active_slots + self.batch - limit.limit
        return max(0.0, missing / self.per_s) + random.uniform(0, SCATTER_S)  # noqa: S311

    async def _make(self, client: PrefectClient) -> None:
        try:
            await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
        except ObjectAlreadyExists:  # another run made it just now
            await client.upsert_global_concurrency_limit_by_name(self.name, self.saved, self.per_s)
        self._made = True


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
