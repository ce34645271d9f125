"""One row's request to an OpenAI-compatible endpoint: attempts, waits, the deadline, and what it costs.

This is the only layer that retries (the client's own retries are off: it hides attempts and repeats used-up quotas). Each attempt
is counted and reserved against the cap before it is sent. An attempt that may have been worked on although no reply came is counted
at its worst case. Replies are read whole, not streamed: an answer is a few tokens, and a body that ends early is then an error
rather than a short answer.

The library's exceptions carry the request's headers, hence the key: none of them leaves this module, nor hangs on one that does.
"""

import asyncio
import email.utils
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tasks.errors import BadConfig, BakeoffError, BudgetReached, EndpointError
from tasks.prompting.budget import Cap, count_prompt_tokens, most_tokens, price
from tasks.prompting.journal import Reply
from tasks.records import Failure
from tasks.settings import Endpoint

if TYPE_CHECKING:
    import openai
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
TOO_LONG = re.compile(r"context[ _-]?(length|size|window)|too long|too many tokens|reduce the length", re.IGNORECASE)
MAY_BE_BILLED = {408, 502, 504, 524}
"""Statuses of gateways that gave up waiting: the work may have been done."""


class Fault(Exception):
    """An attempt that brought no reply."""

    def __init__(
        self, failure: Failure, detail: str, retry: bool = False, billed: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.failure, self.detail, self.retry, self.billed, self.wait_s = failure, detail, retry, billed, wait_s


@dataclass(frozen=True)
class Outcome:
    """What asking one row came to: a reply, or why there is none."""

    reply: Reply | None
    failure: Failure | None = None
    detail: str = ""
    attempts: int = 0
    cost_usd: float = 0.0


@dataclass
class Tally:
    """Attempts and dollars, of one row or of many."""

    attempts: int = 0
    usd: float = 0.0


def preflight(name: str, endpoint: Endpoint) -> None:
    """Check what the settings say of an endpoint, before anything is started or spent.

    Raises:
        BadConfig: it has no address, price or key; the address holds a password; the key cannot stand in a header.
    """
    if not endpoint.service and not endpoint.base_url:
        raise BadConfig(f"endpoint {name!r} has no address: set endpoints.{name}.base_url in the settings")
    if "@" in urlsplit(endpoint.base_url).netloc:
        raise BadConfig(f"the base_url of endpoint {name!r} holds a user or password: name the key's variable in key_env instead")
    price(endpoint, 0, 0)
    read_key(endpoint)


def read_key(endpoint: Endpoint) -> str:
    """The endpoint's key from the environment; a placeholder where none is needed.

    Raises:
        BadConfig: the variable is not set, or holds what no header can.
    """
    if not endpoint.key_env:
        return "none"
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise BadConfig(f"environment variable {endpoint.key_env} is not set: put the key for model {endpoint.model!r} in it")
    if not re.fullmatch(r"[!-~]+", key):
        raise BadConfig(f"environment variable {endpoint.key_env} holds white space or characters that no key has: set it again")
    return key


async def reach(endpoint: Endpoint) -> None:
    """Ask the endpoint for its models: a cheap sign that address and key are right, before money or training is spent.

    Raises:
        EndpointError: it cannot be reached, redirects, or refuses the key. A server without the list (404) is fine.
    """
    async with Client(endpoint, Cap(0)) as client:
        try:
            await client.list_models()
        except Fault as fault:
            problem: Exception | None = client.stopped or EndpointError(f"endpoint at {endpoint.base_url}: {fault.detail}")
        else:
            return
    assert problem
    raise problem


class Client:
    """Asks one endpoint within one event loop."""

    def __init__(self, endpoint: Endpoint, cap: Cap) -> None:
        self.endpoint, self.cap = endpoint, cap
        self.total = Tally()
        self.stopped: BakeoffError | None = None
        """Set when no further row can be asked: the cap, a used-up quota, a refused key."""
        self._stop = asyncio.Event()
        self._key = read_key(endpoint)
        self._openai = _open_client(endpoint, self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._openai.close()

    async def ask(self, request: Mapping[str, Any]) -> Outcome:
        """Ask until there is a reply, attempts are used up or the row's deadline passes."""
        tally = Tally()
        try:
            async with asyncio.timeout(self.endpoint.deadline_s):
                return Outcome(await self._retrying()(self._attempt, request, tally), None, "", tally.attempts, tally.usd)
        except TimeoutError:
            failure, detail = Failure.DEADLINE, f"no answer within {self.endpoint.deadline_s:g} s"
        except Fault as fault:
            gave_up_early = fault.retry and tally.attempts < self.endpoint.attempts and not self.stopped
            failure, detail = (Failure.DEADLINE if gave_up_early else fault.failure), fault.detail
        logger.debug("a row failed (%s) after %d attempts: %s", failure, tally.attempts, detail)
        return Outcome(None, failure, detail, tally.attempts, tally.usd)

    async def list_models(self) -> None:
        """Raises Fault when the endpoint cannot be reached or refuses; a server without the list is fine."""
        await self._guarded(self._openai.models.with_raw_response.list(), allowed=(404, 405, 501))

    def _retrying(self) -> Any:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay

        return AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts) | stop_before_delay(self.endpoint.deadline_s),
            wait=_wait,
            retry=retry_if_exception(lambda error: isinstance(error, Fault) and error.retry and not self.stopped),
            sleep=self._sleep,
            reraise=True,
        )

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than until somebody stops all."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _attempt(self, request: Mapping[str, Any], tally: Tally) -> Reply:
        worst = price(self.endpoint, most_tokens(request), request["max_tokens"])
        await self._reserve(worst)
        tally.attempts += 1
        self.total.attempts += 1
        cost, started = worst, time.monotonic()
        try:
            body = await self._guarded(self._openai.chat.completions.with_raw_response.create(**request))
            latency_ms = (time.monotonic() - started) * 1000
            text, finish_reason, refusal, usage = read_completion(body)
            if usage:
                cost = price(self.endpoint, *usage)
            read, written = usage or (count_prompt_tokens(request["messages"]), request["max_tokens"])
            return Reply(text, finish_reason, refusal, read, written, tally.usd + cost, latency_ms, tally.attempts)
        except Fault as fault:
            cost = worst if fault.billed else 0.0
            raise
        finally:  # a cancelled attempt passes here too, at its worst case
            self.cap.settle(worst, cost)
            tally.usd += cost
            self.total.usd += cost

    async def _reserve(self, usd: float) -> None:
        while (state := self.cap.reserve(usd)) == "wait" and not self.stopped:
            await asyncio.sleep(0.02)
        if state == "reached":
            self.stop(
                BudgetReached(
                    f"the cap of ${self.cap.usd:g} would be passed (${self.cap.spent_usd:.4f} is spent): raise budget.usd and run "
                    "again; the answers paid for are kept"
                )
            )
        if state != "reserved":
            raise Fault(Failure.BUDGET, "the cap would be passed")

    def stop(self, error: BakeoffError) -> None:
        """Have no further request sent; those under way may end."""
        self.stopped = self.stopped or error
        self._stop.set()

    async def _guarded(self, call: Any, allowed: tuple[int, ...] = ()) -> str:
        """The body that a call brings; what goes wrong becomes a Fault, raised outside the handler so that nothing hangs on it."""
        import openai

        try:
            async with asyncio.timeout(self.endpoint.timeout_s):  # the client's own limits each read, not the whole
                return str((await call).text)
        except TimeoutError:
            fault = Fault(Failure.ENDPOINT, f"no reply within {self.endpoint.timeout_s:g} s", retry=True, billed=True)
        except openai.APIStatusError as error:
            if error.status_code in allowed:
                return ""
            fault = self._from_status(error)
        except openai.APIConnectionError as error:
            fault = _from_connection(error)
        raise fault

    def _from_status(self, error: "openai.APIStatusError") -> Fault:
        status, said = error.status_code, self._scrub(error.message)
        used_up = status == 402 or "insufficient_quota" in (error.code, error.type)
        if 300 <= status < 400 or status in (401, 403, 404) or used_up:
            self.stop(EndpointError(_why_stopped(self.endpoint, status, used_up, said)))
            return Fault(Failure.ENDPOINT, said)
        if status == 413 or (status in (400, 422) and (error.code == "context_length_exceeded" or TOO_LONG.search(error.message))):
            return Fault(Failure.TOO_LONG, said)
        if status == 400 and error.code == "content_filter":
            return Fault(Failure.REFUSED, said)
        again = status in (408, 409, 425, 429) or status >= 500
        wait_s = read_retry_after(error.response.headers.get("retry-after-ms"), error.response.headers.get("retry-after"))
        return Fault(Failure.ENDPOINT, f"status {status}: {said}", again, status in MAY_BE_BILLED, wait_s)

    def _scrub(self, text: str) -> str:
        """What an endpoint said, without the key, should it repeat it."""
        return " ".join(text.replace(self._key, "***").split())[:200] if self.endpoint.key_env else " ".join(text.split())[:200]


def read_completion(body: str) -> tuple[str, str | None, str | None, tuple[int, int] | None]:
    """Text, finish reason, refusal and usage (prompt and answer tokens; None when not told) of a chat completion.

    Raises:
        Fault: it is none: HTML, broken JSON, no choices. It may have been billed.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal, finish_reason = message.get("content") or "", message.get("refusal"), choice.get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise Fault(Failure.PROTOCOL, f"not a chat completion: {body[:60]!r}", retry=True, billed=True) from None
    if not all(isinstance(value, str | None) for value in (text, refusal, finish_reason)):
        raise Fault(Failure.PROTOCOL, "a chat completion without text", retry=True, billed=True)
    clean = text.encode("utf-8", "replace").decode()  # half a surrogate pair fits no file
    return clean, finish_reason, refusal or None, _read_usage(reply.get("usage"))


def read_retry_after(milliseconds: str | None, seconds_or_date: str | None) -> float | None:
    """Seconds to wait by the headers `retry-after-ms` and `Retry-After` (seconds or a date); None where they say nothing usable."""
    for text, unit in ((milliseconds, 1000.0), (seconds_or_date, 1.0)):
        try:
            wait_s = float(text or "nan") / unit
        except ValueError:
            continue
        if wait_s >= 0:
            return wait_s
    try:
        return max(0.0, email.utils.parsedate_to_datetime(seconds_or_date or "").timestamp() - time.time())
    except ValueError:
        return None


def _read_usage(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    told = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    return (counts[0], counts[1]) if told else None  # type: ignore[return-value]


def _open_client(endpoint: Endpoint, key: str) -> "openai.AsyncOpenAI":
    """The client with everything off that would act behind our back."""
    import openai

    host = urlsplit(endpoint.base_url).hostname or ""
    transport = openai.DefaultAsyncHttpxClient(
        follow_redirects=False,  # a redirect would take key and rows to another host
        timeout=endpoint.timeout_s,
        trust_env=host not in LOOPBACK,  # a proxy for the world is none for this machine
    )
    client = openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, http_client=transport)
    if not host.endswith("openai.com"):  # read from OPENAI_ORG_ID and OPENAI_PROJECT_ID, which are nobody else's business
        client.organization = client.project = None
    return client


def _wait(state: "RetryCallState") -> float:
    """As long as the endpoint asks for, else longer each time, at random so that rows do not return together."""
    from tenacity import wait_random_exponential

    fault = state.outcome.exception() if state.outcome else None
    asked = fault.wait_s if isinstance(fault, Fault) else None
    return asked if asked is not None else wait_random_exponential(multiplier=0.5, max=20)(state)


def _from_connection(error: "openai.APIConnectionError") -> Fault:
    import httpx2

    cause = error.__cause__
    never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    cut = isinstance(cause, httpx2.RemoteProtocolError) and "complete message body" in str(cause)
    detail = f"the connection failed ({type(cause).__name__})"  # its text may hold the key, when a header was refused
    return Fault(Failure.CUT if cut else Failure.ENDPOINT, detail, retry=True, billed=not never_sent)


def _why_stopped(endpoint: Endpoint, status: int, used_up: bool, said: str) -> str:
    where = f"the endpoint at {endpoint.base_url} (model {endpoint.model!r})"
    if used_up:
        return f"the quota of {where} is used up; answers so far are kept: add credit and run again ({said})"
    if status in (401, 403):
        return f"{where} refused the key with status {status}: check {endpoint.key_env or 'key_env'} ({said})"
    if status == 404:
        return f"{where} knows no such model or path (404): check base_url and model in the settings ({said})"
    return f"{where} redirects elsewhere (status {status}), which is not followed: set base_url to the final address"
