"""A run waits for a person's word, in its process."""

import logging
import math
import textwrap
import threading
import time
from contextvars import copy_context
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.input.actions import read_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from tasks.errors import BadConfig
from tasks.records import Approval, Verdict

logger = logging.getLogger(__name__)
Form = TypeVar("Form", bound=RunInput)
PAUSE_POLL_S = 2
PAUSE_GRACE_S = 120
"""The server fails a run whose pause has expired; before that, at the deadline, the run has itself resumed."""


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
        f"{'*' if line.name == verdict.winner else ' '} {line.name}: {line.test.told(verdict.metric)} on {line.test.n} test rows"
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
