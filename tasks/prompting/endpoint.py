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
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tasks.errors import BadConfig, BakeoffError, BudgetReached, EndpointError
from tasks.prompting.budget import Cap, count_prompt_tokens, most_tokens
from tasks.prompting.completion import Completion, Fault, read_completion
from tasks.prompting.journal import Reply
from tasks.prompting.limits import Gate, Turn, pacer_of
from tasks.prompting.prices import price, price_tag, worst_price
from tasks.records import Failure
from tasks.settings import Endpoint, SharedLimit

if TYPE_CHECKING:
    import openai
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
TOO_LONG = re.compile(r"context[ _-]?(length|size|window)|too long|too many tokens|reduce the length", re.IGNORECASE)
MAY_BE_BILLED = {408, 502, 504, 524}
"""Statuses of gateways that gave up waiting: the work may have been done."""
CROWDED = {429, 503}
"""Statuses of endpoints that have too much to do."""
NO_SUCH_ROUTE = (404, 405, 501)
ENDINGS = ("shutdown_date", "deprecation_date", "deprecated_at", "deprecation")
"""What servers call the day on which a model ends; OpenAI the first."""


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
    price_tag(endpoint)
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


@dataclass(frozen=True)
class ModelFacts:
    """What an endpoint says of its model."""

    exists: bool | None = None
    """Whether it is on the endpoint's list; None where there is no list. An alias need not be on it."""
    shutdown_date: date | None = None
    """The day on which it ends, if announced."""


async def reach(endpoint: Endpoint) -> None:
    """Ask the endpoint for its models: a cheap sign that address and key are right, before money or training is spent.

    Raises:
        EndpointError: it cannot be reached, redirects, or refuses the key. A server without the list (404) is fine.
    """
    await look_up(endpoint)


async def look_up(endpoint: Endpoint) -> ModelFacts:
    """What the endpoint's list of models says of its model. Raises as `reach` does."""
    async with Client(endpoint, Cap(0)) as client:
        try:
            return read_models(await client.list_models(), endpoint.model)
        except Fault as fault:
            problem: Exception = client.stopped or EndpointError(f"endpoint at {endpoint.base_url}: {fault.detail}")
    raise problem


def read_models(body: str, model: str) -> ModelFacts:
    """Find a model in the body of a list of models; what is no such list says nothing."""
    try:
        models = {each["id"]: each for each in json.loads(body)["data"]}
    except (ValueError, RecursionError, LookupError, TypeError):
        return ModelFacts()
    if model not in models:
        return ModelFacts(exists=False)
    told = next((models[model][name] for name in ENDINGS if models[model].get(name)), None)
    return ModelFacts(True, _read_day(told) if told else None)


def _read_day(told: Any) -> date | None:
    """A day as a date, a time or seconds since 1970."""
    try:
        if isinstance(told, bool):
            raise TypeError("no day")
        return datetime.fromtimestamp(told, UTC).date() if isinstance(told, int | float) else datetime.fromisoformat(told).date()
    except (ValueError, TypeError, OverflowError, OSError):
        logger.warning("the endpoint announces the end of its model in a way that cannot be read: %r", str(told)[:60])
        return None


def sent_body(endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as this endpoint wants it; its key in the journal goes by the request alone."""
    body = dict(request)
    if endpoint.answer_limit != "max_tokens":
        body[endpoint.answer_limit] = body.pop("max_tokens")
    if not endpoint.temperature:
        body.pop("temperature", None)
    return body


class Client:
    """Asks one endpoint within one event loop."""

    def __init__(self, endpoint: Endpoint, cap: Cap, shared: SharedLimit | None = None) -> None:
        self.endpoint, self.cap, self.shared = endpoint, cap, shared
        self.total = Tally()
        self.stopped: BakeoffError | None = None
        """Set when no further row can be asked: the cap, a used-up quota, a refused key."""
        self.pacer = pacer_of(endpoint)
        self.gate = Gate(endpoint.concurrency, self.pacer)
        self._stop = asyncio.Event()
        self._key = read_key(endpoint)
        self.openai = _open_client(endpoint, self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.openai.close()

    async def ask(self, request: Mapping[str, Any]) -> Outcome:
        """Ask until there is a reply, attempts are used up or the row's deadline passes. Waiting for its turn is not yet asking."""
        tally, turn = Tally(), self.gate.turn()
        try:
            await self._admit(request, turn)
            async with asyncio.timeout(self.endpoint.deadline_s):
                reply = await self._retrying(turn)(self._attempt, request, tally, turn)
            return Outcome(reply, None, "", tally.attempts, tally.usd)
        except TimeoutError:
            failure, detail = Failure.DEADLINE, f"no answer within {self.endpoint.deadline_s:g} s"
        except Fault as fault:
            gave_up_early = fault.retry and tally.attempts < self.endpoint.attempts and not self.stopped
            failure, detail = (Failure.DEADLINE if gave_up_early else fault.failure), fault.detail
        finally:
            turn.leave()
        logger.debug("a row failed (%s) after %d attempts: %s", failure, tally.attempts, detail)
        return Outcome(None, failure, detail, tally.attempts, tally.usd)

    async def list_models(self) -> str:
        """The body of the endpoint's list of models; empty where it has none. Raises Fault when it cannot be reached or refuses."""
        return await self.guarded(self.openai.models.with_raw_response.list(), allowed=NO_SUCH_ROUTE) or ""

    def _retrying(self, turn: Turn) -> Any:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay

        return AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts) | stop_before_delay(self.endpoint.deadline_s),
            wait=wait_as_told,
            retry=retry_if_exception(lambda error: isinstance(error, Fault) and error.retry and not self.stopped),
            sleep=partial(self._back_off, turn),
            reraise=True,
        )

    async def _back_off(self, turn: Turn, seconds: float) -> None:
        turn.leave()
        await self.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until somebody stops all."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something, but no longer than until somebody stops all."""
        both = [asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in both:
                each.cancel()

    async def _admit(self, request: Mapping[str, Any], turn: Turn) -> None:
        """Wait until the endpoint's limits, pauses and load let one more request be sent."""
        await turn.enter()
        tokens = _booked_tokens(request)
        if self.shared:
            await self._unless_stopped(self.shared.take(1, tokens))
        wait_s = self.pacer.book(tokens)
        while wait_s > 0 and not self.stopped:
            if (pause_s := self.pacer.pause_left()) > self.endpoint.deadline_s:
                raise Fault(Failure.DEADLINE, f"the endpoint asked for no requests for another {pause_s:.0f} s")
            await self.sleep(wait_s)
            wait_s = self.pacer.pause_left()  # asked for meanwhile
        if self.stopped:
            raise Fault(Failure.STOPPED, "asking was stopped")

    async def _attempt(self, request: Mapping[str, Any], tally: Tally, turn: Turn) -> Reply:
        if not turn.held:
            await self._admit(request, turn)
        at = datetime.now(UTC)
        worst = worst_price(self.endpoint, most_tokens(request), request["max_tokens"], at=at)
        await self.reserve(worst)
        tally.attempts += 1
        self.total.attempts += 1
        cost, started = worst, time.monotonic()
        try:
            call = self.openai.chat.completions.with_raw_response.create(**sent_body(self.endpoint, request))
            completion = read_completion(await self.guarded(call) or "", logprobs=bool(request.get("logprobs")))
            latency_ms = (time.monotonic() - started) * 1000
            self.gate.answered()
            if completion.usage:
                cost = price(self.endpoint, completion.usage, at=at)
            await self._give_back(request, completion)
            return build_reply(request, completion, tally.usd + cost, latency_ms, tally.attempts)
        except Fault as fault:
            cost = worst if fault.billed else 0.0
            self._slow_down(fault, started)
            raise
        finally:  # a cancelled attempt passes here too, at its worst case
            self.cap.settle(worst, cost)
            tally.usd += cost
            self.total.usd += cost

    def _slow_down(self, fault: Fault, sent_at: float) -> None:
        """Have all of the endpoint's requests heed what one of them was told."""
        if fault.crowded:
            self.gate.refused(sent_at)
            self.pacer.pause(fault.wait_s or 0.0)

    async def _give_back(self, request: Mapping[str, Any], completion: Completion) -> None:
        """Providers count at least the answer's limit against the tokens a minute, however short the answer was."""
        if completion.usage:
            counted = max(completion.usage.input_tokens + completion.usage.output_tokens, request["max_tokens"])
            unused = _booked_tokens(request) - counted
            self.pacer.give_back(unused)
            if self.shared and unused > 0:
                await self.shared.take(0, -unused)

    async def reserve(self, usd: float) -> None:
        """Set dollars aside under the cap, waiting for what is under way. Raises Fault, and stops all, when they would pass it."""
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

    async def guarded(self, call: Any, allowed: tuple[int, ...] = (), timeout_s: float | None = None) -> str | None:
        """The body that a call brings, None for an allowed status; what goes wrong becomes a Fault, raised outside the handler so
        that nothing hangs on it."""
        import openai

        limit_s = timeout_s or self.endpoint.timeout_s
        try:
            async with asyncio.timeout(limit_s):  # the client's own limits each read, not the whole
                return self._without_key(str((await call).text))
        except TimeoutError:
            fault = Fault(Failure.ENDPOINT, f"no reply within {limit_s:g} s", retry=True, billed=True)
        except openai.APIStatusError as error:
            if error.status_code in allowed:
                return None
            fault = self._from_status(error)
        except openai.APIConnectionError as error:
            fault = _from_connection(error)
        raise fault

    def _from_status(self, error: "openai.APIStatusError") -> Fault:
        status, said = error.status_code, self.scrub(error.message)
        used_up = status == 402 or "insufficient_quota" in (error.code, error.type)
        if 300 <= status < 400 or status in (401, 403, 404) or used_up:
            self.stop(EndpointError(_why_stopped(self.endpoint, status, used_up, said)))
            return Fault(Failure.ENDPOINT, said)
        if failure := failure_of(status, error.code, error.message):
            return Fault(failure, said)
        again = status in (408, 409, 425, 429) or status >= 500
        wait_s = read_retry_after(error.response.headers.get("retry-after-ms"), error.response.headers.get("retry-after"))
        billed, crowded = status in MAY_BE_BILLED, status in CROWDED
        return Fault(Failure.ENDPOINT, f"status {status}: {said}", again, billed, wait_s, crowded)

    def scrub(self, text: str) -> str:
        """What an endpoint said, without the key, should it repeat it."""
        return " ".join(self._without_key(text).split())[:200]

    def _without_key(self, text: str) -> str:
        """Before anything is cut from it: half a key would no longer be recognised."""
        return text.replace(self._key, "***") if self.endpoint.key_env else text


def failure_of(status: int, code: Any, message: str) -> Failure | None:
    """What an error says of the row that it answers; None where it says something of the endpoint."""
    if status == 413 or (status in (400, 422) and (code == "context_length_exceeded" or TOO_LONG.search(message))):
        return Failure.TOO_LONG
    return Failure.REFUSED if status == 400 and code == "content_filter" else None


def build_reply(request: Mapping[str, Any], completion: Completion, cost_usd: float, latency_ms: float, attempts: int) -> Reply:
    """What the journal keeps of a completion; tokens that were not told count as in the worst case."""
    usage = completion.usage
    return Reply(
        text=completion.text,
        finish_reason=completion.finish_reason,
        refusal=completion.refusal,
        input_tokens=usage.input_tokens if usage else count_prompt_tokens(request["messages"]),
        output_tokens=usage.output_tokens if usage else request["max_tokens"],
        cost_usd=cost_usd,
        latency_ms=latency_ms,
        attempts=attempts,
        logprobs=completion.logprobs,
        cached_tokens=usage.cached_tokens if usage else 0,
        reasoning_tokens=usage.reasoning_tokens if usage else 0,
    )


def _booked_tokens(request: Mapping[str, Any]) -> int:
    """What a request is expected to count for against the tokens a minute."""
    return int(count_prompt_tokens(request["messages"]) + request["max_tokens"])


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


def wait_as_told(state: "RetryCallState") -> float:
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
