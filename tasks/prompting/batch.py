"""Many requests as one batch, by OpenAI's Batch API: half the price, answers within a day.

A batch is written down in the journal under a name of its own before it is made, carries that name in its metadata, and is
forgotten only when its answers are kept. So a run that is killed at any point finds it again, by its id or by its name, waits on,
and pays for nothing twice. Another run that wants the same answers waits for the same batch; one that wants some of them leaves the
others to whoever asks for them.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from tasks.errors import BakeoffError, EndpointError
from tasks.prompting.budget import most_tokens
from tasks.prompting.completion import Fault, read_completion
from tasks.prompting.endpoint import NO_SUCH_ROUTE, Client, Outcome, build_reply, failure_of, sent_body, wait_as_told
from tasks.prompting.journal import Journal, PlannedBatch
from tasks.prompting.prices import price, worst_price
from tasks.records import Failure

logger = logging.getLogger(__name__)
T = TypeVar("T")
Requests = Mapping[str, Mapping[str, Any]]
"""Bodies of requests by their keys in the journal."""
URL: Final = "/v1/chat/completions"
LABEL = "bakeoff"
"""The key in a batch's metadata that holds its name."""
MOST_REQUESTS = 10_000
"""In one batch; the API takes five times as many, memory would rather not."""
MOST_BYTES = 100_000_000
"""In one batch; the API takes twice as many."""
ENDED = {"completed", "failed", "expired", "cancelled"}
FIRST_POLL_S, LONGEST_POLL_S = 0.5, 60.0
PATIENCE_S = 3600.0
"""How long the endpoint may be out of reach while a batch is waited for: its answers will not go away."""
MADE_WITHIN_S = 5.0
"""So soon after its plan a batch is there, if it ever is."""
TRANSFER_S = 600.0
"""For a file up or down."""


@dataclass(frozen=True)
class Batch:
    """What the endpoint says of a batch."""

    id: str
    status: str
    files: tuple[str, ...]
    """Of answers and of errors, where there are any."""
    completed: int | None
    """Requests that were answered, hence billed; None where not told."""
    took_s: float
    problem: str


@dataclass
class _Job:
    """A batch that is waited for."""

    plan: PlannedBatch
    requests: Requests
    """Those of its requests that are asked for now."""
    reserved_usd: float
    sent: bool = True
    """It may be on its way."""
    took_s: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    answered: int = 0


async def answer_batch(client: Client, journal: Journal, requests: Requests) -> dict[str, Outcome]:
    """Have requests answered in batches; every whole reply is kept in the journal.

    Args:
        requests: those whose answers are not in the journal, by their keys there.

    Returns:
        For each of them a reply or a failure, in the order of `requests`.

    Raises:
        BudgetReached: they could cost more than is left under the cap; nothing of them was sent.
        EndpointError: the endpoint cannot be reached, refuses the requests, or has no Batch API. What was answered is kept, and
            batches under way are found again.
    """
    outcomes: dict[str, Outcome] = {}
    jobs: list[_Job] = []
    try:
        while left := {key: request for key, request in requests.items() if key not in outcomes}:
            async with _alone(journal):
                await _pick_up(client, journal, left, jobs)
                await _hand_in(client, journal, left, jobs)
            while jobs:  # they are worked on side by side, whichever is waited for
                outcomes |= await _see_through(client, journal, jobs[0])
                del jobs[0]
    except Fault as fault:
        problem: BakeoffError = client.stopped or EndpointError(f"endpoint at {client.endpoint.base_url}: {fault.detail}")
    else:
        return {key: outcomes[key] for key in requests}
    finally:
        for job in jobs:  # of a batch that is no longer waited for, all that it may cost counts
            client.cap.settle(job.reserved_usd, job.reserved_usd if job.sent else 0.0)
    raise problem


@asynccontextmanager
async def _alone(journal: Journal) -> AsyncIterator[None]:
    """Let one process at a time look for batches and make new ones, so that no two make the same."""
    if journal.path is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(f"{journal.path}.batch.lock")
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            await asyncio.sleep(0.2)
    try:
        yield
    finally:
        lock.release()


async def _pick_up(client: Client, journal: Journal, requests: Requests, jobs: list[_Job]) -> None:
    """Find the batches under way that were made for some of these requests; forget those that never came to be."""
    for plan in journal.planned_batches():
        mine = {key: requests[key] for key in plan.keys if key in requests}
        if not mine:
            continue
        if plan.batch_id is None:
            found = await _find(client, plan.name)
            if found is None and plan.age_s < MADE_WITHIN_S:  # another machine may be about to make it
                await client.sleep(min(MADE_WITHIN_S, MADE_WITHIN_S - plan.age_s))
                _refuse_stopped(client)
                found = await _find(client, plan.name)
            if found is None:
                journal.end_batch(plan.name)
                continue
            journal.name_batch(plan.name, found.id)
            plan = PlannedBatch(plan.name, found.id, plan.keys)
        logger.info("batch %s is picked up again: %d requests", plan.batch_id, len(mine))
        worst = _worst_of(client, mine)
        held = client.cap.reserve(worst) == "reserved"  # it is on its way even if not: what it costs is told when it ends
        jobs.append(_Job(plan, mine, worst if held else 0.0))


async def _hand_in(client: Client, journal: Journal, requests: Requests, jobs: list[_Job]) -> None:
    """Make batches of the requests that are in none. All are paid for, at worst, under the cap before the first is sent; when what
    was picked up leaves no room for that yet, nothing is made."""
    taken = {key for job in jobs for key in job.requests}
    chunks = list(_chunks(client, {key: request for key, request in requests.items() if key not in taken}))
    new = [_Job(PlannedBatch(uuid.uuid4().hex, None, list(chunk)), chunk, _worst_of(client, chunk), sent=False) for chunk in chunks]
    if not new:
        return
    worst = sum(job.reserved_usd for job in new)
    state = client.cap.reserve(worst)
    if state != "reserved":
        if state == "wait" and jobs:
            return
        await client.reserve(worst)
    jobs += new
    for job in new:
        batch = await _make(client, journal, job)
        journal.name_batch(job.plan.name, batch.id)
        job.plan = PlannedBatch(job.plan.name, batch.id, job.plan.keys)
        client.total.attempts += len(job.requests)
        logger.info("batch %s: %d requests handed in", batch.id, len(job.requests))


def _worst_of(client: Client, requests: Requests) -> float:
    return sum(_worst(client, request) for request in requests.values())


def _worst(client: Client, request: Mapping[str, Any]) -> float:
    return worst_price(client.endpoint, most_tokens(request), request["max_tokens"], batch=True)


def _chunks(client: Client, requests: Requests) -> Iterator[Requests]:
    """The requests in order, cut where a batch would be too large."""
    chunk: dict[str, Mapping[str, Any]] = {}
    size = 0
    for key, request in requests.items():
        more = len(_line(client, key, request))
        if chunk and (len(chunk) >= MOST_REQUESTS or size + more > MOST_BYTES):
            yield chunk
            chunk, size = {}, 0
        chunk[key] = request
        size += more
    if chunk:
        yield chunk


def _line(client: Client, key: str, request: Mapping[str, Any]) -> bytes:
    body = sent_body(client.endpoint, request)
    return json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}).encode() + b"\n"


async def _make(client: Client, journal: Journal, job: _Job) -> Batch:
    """Upload the requests and make a batch of them; one that was made although no reply came is found by its name."""
    lines = b"".join(_line(client, key, request) for key, request in job.requests.items())
    name = job.plan.name
    upload = client.openai.files.with_raw_response.create
    send = partial(upload, file=(f"{name}.jsonl", lines), purpose="batch")
    file_id = await _call(client, send, lambda body: _read(body, "id"), allowed=NO_SUCH_ROUTE)
    if file_id is None:
        raise Fault(Failure.ENDPOINT, "it has no Batch API: set batch to false in the endpoint's settings")
    journal.plan_batch(name, job.plan.keys)
    await journal.sent(insist=True)
    _refuse_stopped(client)
    create = client.openai.batches.with_raw_response.create
    asked = 0

    async def once() -> Batch:
        nonlocal asked
        asked += 1
        found = await _find(client, name) if asked > 1 else None
        if found:
            return found
        call = create(input_file_id=file_id, endpoint=URL, completion_window="24h", metadata={LABEL: name})
        job.sent = True
        try:
            return _read_batch(await client.guarded(call) or "")
        except Fault as fault:
            job.sent = asked > 1 or fault.retry  # what was refused outright was not made
            raise

    made: Batch = await _retrying(client, client.endpoint.deadline_s)(once)
    return made


def _refuse_stopped(client: Client) -> None:
    if client.stopped:
        raise Fault(Failure.STOPPED, "asking was stopped")


async def _find(client: Client, name: str) -> Batch | None:
    """The batch that carries this name."""
    pages, more = client.openai.batches.with_raw_response.list, True
    last: dict[str, Any] = {}
    while more:
        batches, after = await _call(client, partial(pages, limit=100, **last), _read_page) or ([], None)
        for batch in batches:
            if (batch.get("metadata") or {}).get(LABEL) == name:
                return _read_batch(json.dumps(batch))
        more, last = after is not None, {"after": after}
    return None


def _read_page(body: str) -> tuple[list[dict[str, Any]], str | None]:
    """Batches, and after which one the next page begins. Raises Fault when it is no such list."""
    batches, more = _read(body, "data"), _read(body, "has_more", False)
    if not isinstance(batches, list) or not all(isinstance(batch, dict) for batch in batches):
        raise Fault(Failure.PROTOCOL, f"no list of batches: {body[:60]!r}", retry=True)
    return batches, _read(body, "last_id") if more else None


async def _see_through(client: Client, journal: Journal, job: _Job) -> dict[str, Outcome]:
    """Wait for a batch, keep its answers and forget it; what came of each request. Raises Fault when it was refused as a whole."""
    batch = await _wait_for(client, job)
    if batch and batch.status == "failed":  # no request was worked on, so none of them failed
        journal.end_batch(job.plan.name)
        job.sent = False
        raise Fault(Failure.ENDPOINT, client.scrub(f"it refused a batch of {len(job.requests)} requests: {batch.problem}"))
    fetch = client.openai.files.with_raw_response.content
    for file_id in batch.files if batch else ():
        text = await _call(client, partial(fetch, file_id), str, PATIENCE_S, allowed=(404,))
        for line in (text or "").split("\n"):  # not splitlines: JSON may hold other line ends
            if line.strip():
                _take(client, journal, job, line)
    for key, request in job.requests.items():
        if key not in job.outcomes:
            job.outcomes[key] = _missing(client, job, batch, request)
    journal.end_batch(job.plan.name, job.requests)
    spent = sum(outcome.cost_usd for outcome in job.outcomes.values())
    client.cap.settle(job.reserved_usd, spent)
    client.total.usd += spent
    job.reserved_usd = 0.0
    return job.outcomes


async def _wait_for(client: Client, job: _Job) -> Batch | None:
    """The batch once it has ended; None when the endpoint no longer knows it."""
    wait_s, batch_id, retrieve = FIRST_POLL_S, job.plan.batch_id or "", client.openai.batches.with_raw_response.retrieve
    while True:
        batch = await _call(client, partial(retrieve, batch_id), _read_batch, PATIENCE_S, allowed=(404,))
        if batch is None:
            return None
        if batch.status in ENDED:
            job.took_s = batch.took_s
            logger.info("batch %s is %s after %.0f s", batch.id, batch.status, batch.took_s)
            return batch
        await client.sleep(wait_s)
        if client.stopped:
            raise Fault(Failure.STOPPED, "asking was stopped")
        wait_s = min(1.5 * wait_s, LONGEST_POLL_S)


def _take(client: Client, journal: Journal, job: _Job, line: str) -> None:
    """Keep what one line of a file of results says."""
    try:
        result = json.loads(line)
        key, response, problem = str(result["custom_id"]), result.get("response") or {}, result.get("error") or {}
        status, body = response.get("status_code"), response.get("body")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        logger.warning("batch %s: a line of its results cannot be read", job.plan.batch_id)
        return
    if key not in job.requests or key in job.outcomes:
        return
    if status == 200:
        job.answered += 1
        job.outcomes[key] = _keep(client, journal, job, key, json.dumps(body))
        return
    told = (body.get("error") if isinstance(body, dict) else None) or problem
    code, message = (str(told.get(name) or "") for name in ("code", "message")) if isinstance(told, dict) else ("", str(told))
    failure = failure_of(status or 0, code, message) or Failure.ENDPOINT
    job.outcomes[key] = Outcome(None, failure, client.scrub(f"status {status}: {code} {message}"), attempts=1)


def _keep(client: Client, journal: Journal, job: _Job, key: str, body: str) -> Outcome:
    request = job.requests[key]
    kept = journal.find(key)
    if kept:  # another run that waited for the same batch was faster, and counted it
        return Outcome(kept)
    worst = _worst(client, request)
    try:
        completion = read_completion(body, logprobs=bool(request.get("logprobs")))
    except Fault as fault:
        return Outcome(None, fault.failure, fault.detail, 1, worst)
    cost = price(client.endpoint, completion.usage, batch=True) if completion.usage else worst
    reply = build_reply(request, completion, cost, latency_ms=1000 * job.took_s, attempts=1)
    journal.keep(key, client.endpoint.model, reply)
    return Outcome(reply, attempts=1, cost_usd=cost)


def _missing(client: Client, job: _Job, batch: Batch | None, request: Mapping[str, Any]) -> Outcome:
    """A request that the results do not name. It may have been answered, unless the endpoint counts no more answers than came."""
    status = batch.status if batch else "gone from the endpoint"
    all_came = batch is not None and batch.completed is not None and batch.completed <= job.answered
    detail = client.scrub(f"the batch is {status} without an answer to this request {batch.problem if batch else ''}")
    return Outcome(None, Failure.ENDPOINT, detail, 1, 0.0 if all_came else _worst(client, request))


async def _call(
    client: Client,
    call: Callable[[], Awaitable[Any]],
    read: Callable[[str], T],
    patience_s: float | None = None,
    allowed: tuple[int, ...] = (),
) -> T | None:
    """What can be read from the body that a call brings, tried again while the endpoint is out of reach; None for an allowed
    status."""

    async def once() -> T | None:  # a function that merely returns a coroutine is not awaited by tenacity
        body = await client.guarded(call(), allowed, TRANSFER_S)
        return None if body is None else read(body)

    found: T | None = await _retrying(client, patience_s or client.endpoint.deadline_s)(once)
    return found


def _retrying(client: Client, patience_s: float) -> Any:
    from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay

    return AsyncRetrying(
        stop=stop_before_delay(patience_s),
        wait=wait_as_told,
        retry=retry_if_exception(lambda error: isinstance(error, Fault) and error.retry and not client.stopped),
        sleep=client.sleep,
        reraise=True,
    )


def _read(body: str, name: str, *default: Any) -> Any:
    """A field of a JSON object. Raises Fault when there is none."""
    try:
        told = json.loads(body)
        return told.get(name, *default) if default else told[name]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise Fault(Failure.PROTOCOL, f"not as the Batch API answers: {body[:60]!r}", retry=True) from None


def _read_batch(body: str) -> Batch:
    """Raises Fault when it is none."""
    batch_id, status = _read(body, "id"), _read(body, "status")
    if not isinstance(batch_id, str) or not isinstance(status, str):
        raise Fault(Failure.PROTOCOL, f"not a batch: {body[:60]!r}", retry=True)
    counts, errors = _read(body, "request_counts", None), _read(body, "errors", None)
    files = [_read(body, name, None) for name in ("output_file_id", "error_file_id")]
    made, *ends = [_number(_read(body, f"{name}_at", None)) for name in ("created", *sorted(ENDED))]
    ended = next((at for at in ends if at is not None), time.time())
    completed = _number(counts.get("completed")) if isinstance(counts, dict) else None
    return Batch(
        id=batch_id,
        status=status,
        files=tuple(name for name in files if isinstance(name, str)),
        completed=None if completed is None else int(completed),
        took_s=0.0 if made is None else max(0.0, ended - made),
        problem=json.dumps(errors) if errors else "",
    )


def _number(told: Any) -> float | None:
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else None
