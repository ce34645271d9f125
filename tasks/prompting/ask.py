"""Ask an endpoint about many rows: as many at once as it bears, each reply kept in the journal as it comes.

One event loop for the whole; a fixed number of workers take rows in order, so memory does not grow with requests. An endpoint that
is asked in batches gets the next request of every row together, turn by turn. What is said about a row is
`tasks/prompting/conversation.py`; here its requests are sent, or found in the journal, and its replies paid for.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tasks.errors import BadConfig, EndpointError, Stopped
from tasks.interrupt import INTERRUPTED, when_interrupted
from tasks.manifest import ContenderManifest, read_manifest
from tasks.progress import Bar, progress
from tasks.prompting.batch import answer_batch
from tasks.prompting.budget import Cap, count_prompt_tokens, estimate
from tasks.prompting.conversation import Request, converse, most_requests
from tasks.prompting.endpoint import Client, Outcome, preflight
from tasks.prompting.journal import Journal, Reply, request_key
from tasks.prompting.messages import PromptSpec, Shot, build_request
from tasks.records import Answer, Example, Failure
from tasks.settings import Endpoint, Places, SharedLimit
from tasks.workspace import Sharing, Workspace

logger = logging.getLogger(__name__)
FEWEST_ASKED = 20
"""A contender is not stopped for its failures before so many rows were asked."""
UNREACHED = (Failure.ENDPOINT, Failure.DEADLINE)
"""Failures of the way to the model, not of its answer."""


@dataclass
class Meter:
    """What asking took this time; answers found in the journal cost nothing again."""

    usd: float = 0.0
    requests: int = 0
    found: int = 0
    """Rows whose answer was in the journal."""


@dataclass(frozen=True)
class AskContext:
    """With what a prompt contender's rows are asked."""

    endpoint: Endpoint
    """Its `base_url` filled in and listening."""
    cap: Cap
    """Shared by all prompted contenders of a run."""
    journal: Path | None = None
    """Where answers are kept (`journal_path`); None asks every row anew."""
    max_failed: float = 1.0
    """Stop asking once more than this share failed."""
    meter: Meter = field(default_factory=Meter)
    """Filled while asking."""
    limits: SharedLimit | None = None
    """The endpoint's limits a minute that all runs keep together; None keeps them within this process."""
    sharing: Sharing | None = None
    """Where the journal is shared: each answer is sent there before the next one is asked for."""

    @classmethod
    def of(cls, name: str, places: Places, cap: Cap, workspace: Workspace | None, max_failed: float = 1.0) -> Self:
        """With what a named endpoint is asked; it listens from here on.

        Args:
            workspace: where answers are kept; None asks every row anew.

        Raises:
            BadConfig: no endpoint has this name.
        """
        endpoint, limits = places.endpoint(name), places.limits(name)
        if workspace is None:
            return cls(endpoint, cap, None, max_failed, limits=limits)
        return cls(endpoint, cap, journal_path(workspace.root, name), max_failed, limits=limits, sharing=workspace.sharing)


def journal_path(root: Path, endpoint: str) -> Path:
    """The journal of an endpoint in a workspace; it outlives every product, since what was paid for is good for all."""
    return root / "journal" / f"{endpoint}.sqlite"


def read_prompt(folder: Path) -> PromptSpec:
    """The prompt in a contender's folder, its files checked."""
    manifest = read_manifest(folder)
    if manifest.kind != "prompt":
        raise BadConfig(f"{folder} is a {manifest.kind} contender, not a prompt")
    return PromptSpec.model_validate(manifest.spec)


@dataclass(frozen=True, slots=True)
class Question:
    """One row that is to be asked about."""

    example: Example
    shots: Sequence[Shot] | None = None
    """The labelled examples to show with it; None shows those of the prompt."""
    hint: str = ""
    """What another contender thinks of it."""


def answer_all(
    spec: PromptSpec,
    examples: Sequence[Example],
    endpoint: Endpoint,
    cap: Cap,
    journal: Path | None = None,
    max_failed: float = 1.0,
    meter: Meter | None = None,
) -> list[Answer]:
    """One answer an example, in order; rows that failed say why. Raises as `answer_questions` does."""
    context = AskContext(endpoint, cap, journal, max_failed, meter or Meter())
    return answer_questions(spec, [Question(example) for example in examples], context)


def answer_questions(spec: PromptSpec, questions: Sequence[Question], context: AskContext) -> list[Answer]:
    """One answer a question, in order; rows that failed say why.

    Raises:
        BadConfig: the endpoint's settings are incomplete, or it has another model than the prompt was made for.
        BudgetReached: the cap would have been passed; what was paid for is in the journal.
        EndpointError: no row can be asked: key refused, quota used up, no such model, a redirect.
        Stopped: the run is to end; what was answered is in the journal.
    """
    preflight(spec.endpoint, context.endpoint)
    if context.endpoint.model != spec.model:
        raise BadConfig(
            f"the prompt was made for model {spec.model!r}, but endpoint {spec.endpoint!r} now has {context.endpoint.model!r}: "
            "name the first one in the settings, or build the prompt again"
        )
    title = f"ask {spec.model} ({' + '.join(spec.techniques)})"
    with Journal(context.journal, context.sharing) as kept, progress(title, len(questions)) as bar:
        round_ = _Round(spec, questions, context, kept, bar)
        round_.announce()
        asyncio.run(round_.run())
    return [answer for answer in round_.answers if answer is not None]


class PromptPredictor:
    """Answers for a prompt contender (`tasks/contenders/loader.py`)."""

    def __init__(self, folder: Path, manifest: ContenderManifest, ask: AskContext) -> None:
        self.folder, self.spec, self.ask = folder, PromptSpec.model_validate(manifest.spec), ask

    def predict(self, examples: Sequence[Example], hints: Sequence[str] = ()) -> list[Answer]:
        """One answer an example, in order. Raises as `answer_questions` does.

        Args:
            hints: what another contender thinks of each row; none shows none.
        """
        return answer_questions(self.spec, questions_of(self.folder, self.spec, examples, hints), self.ask)


def questions_of(folder: Path, spec: PromptSpec, examples: Sequence[Example], hints: Sequence[str] = ()) -> list[Question]:
    """What a contender's folder asks about each of these rows, labelled examples that go by row included."""
    from tasks.prompting.techniques.pool import shots_by_row

    shots = shots_by_row(folder, spec, examples) if spec.pool else [None] * len(examples)
    return [Question(*each) for each in zip(examples, shots, hints or [""] * len(examples), strict=True)]


class _Talk:
    """One row's conversation, and what it took so far. Found replies count as when they were paid for."""

    def __init__(self, spec: PromptSpec, question: Question) -> None:
        self.question = question
        self.answer: Answer | None = None
        self.sent = False
        """Whether any of its requests had to be sent this time."""
        self.told: tuple[Failure, str] | None = None
        """Where a request brought no reply: why."""
        self._talk = converse(spec, question.example.inputs, question.shots, question.hint)
        self.request: Request = next(self._talk)
        self._spent = {"latency_ms": 0.0, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}

    def hear(self, outcome: Outcome) -> None:
        """What came of sending its request."""
        self.sent = True
        if outcome.reply:
            self.take(outcome.reply)
        else:
            assert outcome.failure
            self._spent["cost_usd"] += outcome.cost_usd
            self.fail(outcome.failure, outcome.detail)

    def take(self, reply: Reply) -> None:
        """Go on with the reply to its request."""
        for name in self._spent:
            self._spent[name] += getattr(reply, name)
        try:
            self.request = self._talk.send(reply)
        except StopIteration as end:
            answer: Answer = end.value
            self.answer = answer.model_copy(update=self._spent)

    def fail(self, failure: Failure, detail: str) -> None:
        """End without an answer."""
        self.told = failure, detail
        self.answer = Answer(answer="", label=None, failure=failure, cost_usd=self._spent["cost_usd"])


class _Round:
    """One call of `answer_questions`."""

    def __init__(self, spec: PromptSpec, questions: Sequence[Question], context: AskContext, journal: Journal, bar: Bar) -> None:
        self.spec, self.questions, self.context, self.journal, self.bar = spec, questions, context, journal, bar
        self.answers: list[Answer | None] = [None] * len(questions)
        self.asked = self.failed = 0
        self.details: dict[Failure, str] = {}
        """For each kind of failure, what the first such row heard."""

    def announce(self) -> None:
        """Say what asking will cost, before it does."""
        firsts = (build_request(self.spec, each.example.inputs, each.shots, each.hint) for each in self.questions)
        new = (request for request in firsts if not self.journal.find(request_key(self.context.endpoint, request)))
        expected = estimate((request for request in new for _ in range(most_requests(self.spec))), self.context.endpoint)
        left = self.context.cap.usd - self.context.cap.spent_usd
        logger.info("%s: %s to ask, $%.4f left under the cap", self.spec.model, expected, left)
        if expected.usd > left:
            logger.warning("%s: the estimate is more than what is left under the cap; asking will stop there", self.spec.model)

    async def run(self) -> None:
        """Ask all rows, then raise what stopped the asking, if anything did."""
        loop = asyncio.get_running_loop()
        async with Client(self.context.endpoint, self.context.cap, self.context.limits) as client:
            try:
                with when_interrupted(lambda: loop.call_soon_threadsafe(client.stop, Stopped(INTERRUPTED))):
                    await (self._in_batches(client) if self.context.endpoint.batch else self._at_once(client))
            finally:
                self.context.meter.usd += client.total.usd
                self.context.meter.requests += client.total.attempts
                for failure, detail in self.details.items():
                    logger.warning("%s: rows failed (%s); the first one: %s", self.spec.model, failure, detail)
            if client.stopped:
                raise client.stopped
            self._refuse_outage()

    def _refuse_outage(self) -> None:
        """An arm that was stopped because its endpoint was out of reach says nothing of the contender: no product is made of it."""
        unreached = sum(answer.failure in UNREACHED for answer in self.answers if answer)
        if Failure.STOPPED in self.details and unreached > self.failed / 2:
            kind = next(failure for failure in UNREACHED if failure in self.details)
            raise EndpointError(
                f"{self.spec.model} could not be asked: {unreached} of {self.asked} rows had no reply; the first one: "
                f"{self.details[kind]}. What was answered is kept: run again when the endpoint {self.spec.endpoint!r} answers"
            )

    async def _at_once(self, client: Client) -> None:
        """Each row is talked to until it is answered, several rows side by side."""
        rows = iter(range(len(self.questions)))
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.context.endpoint.concurrency, len(self.questions))):
                    workers.create_task(self._work(client, rows))
        except ExceptionGroup as group:  # such as a full disk under the journal: one worker's error says it
            raise group.exceptions[0] from None

    async def _work(self, client: Client, rows: Iterator[int]) -> None:
        for row in rows:
            if client.stopped:
                return
            if self._too_many_failed():
                self._stop_row(row)
                continue
            talk = _Talk(self.spec, self.questions[row])
            while talk.answer is None:
                await self._next_reply(client, talk)
            self._close(row, talk)

    async def _next_reply(self, client: Client, talk: "_Talk") -> None:
        """Take a row one turn further: by the journal, else by the endpoint."""
        key = self._look_up(talk)
        if key is None:
            return
        outcome: Outcome = await client.ask(talk.request)
        if outcome.reply:
            self.journal.keep(key, self.spec.model, outcome.reply)
            await self.journal.sent()
        talk.hear(outcome)

    async def _in_batches(self, client: Client) -> None:
        """Every row is taken one turn further with each batch. In each, requests that are the same are asked once."""
        talks = {row: _Talk(self.spec, question) for row, question in enumerate(self.questions)}
        while talks:
            waiting = {row: self._through_journal(talk) for row, talk in talks.items()}
            for row in [row for row, key in waiting.items() if key is None]:
                self._close(row, talks.pop(row))
            if self._too_many_failed():
                for row in talks:
                    self._stop_row(row)
                return
            asked = {key: talks[row].request for row, key in waiting.items() if key is not None}
            outcomes = await answer_batch(client, self.journal, asked) if asked else {}
            for row, talk in talks.items():
                talk.hear(outcomes[str(waiting[row])])

    def _through_journal(self, talk: "_Talk") -> str | None:
        """Take a row as far as the journal knows it; the key of the request to send next, None where it needs none any more."""
        while talk.answer is None:
            key = self._look_up(talk)
            if key is not None:
                return key
        return None

    def _look_up(self, talk: "_Talk") -> str | None:
        """Answer a row's request from the journal, or fail one that cannot fit; else the key under which to keep its reply."""
        key = request_key(self.context.endpoint, talk.request)
        found = self.journal.find(key)
        if found:
            talk.take(found)
        elif not self._fits(talk.request):
            row, most = talk.question.example.row, self.context.endpoint.context_tokens
            talk.fail(Failure.TOO_LONG, f"row {row} does not fit {most} tokens")
        else:
            return key
        return None

    def _too_many_failed(self) -> bool:
        return self.asked >= FEWEST_ASKED and self.failed > self.context.max_failed * self.asked

    def _close(self, row: int, talk: "_Talk") -> None:
        """Write down a row's answer."""
        assert talk.answer
        self.answers[row] = talk.answer
        self.asked += talk.answer.failure is not Failure.STOPPED
        self.failed += talk.answer.failure not in (None, Failure.STOPPED)
        self.context.meter.found += not talk.sent and talk.told is None
        if talk.told is not None:
            self.details.setdefault(*talk.told)
        self.bar.advance(1, note=f"{self.failed} failed" if self.failed else "")

    def _stop_row(self, row: int) -> None:
        """Leave a row unasked, since too many before it failed."""
        self.details.setdefault(Failure.STOPPED, f"{self.failed} of {self.asked} rows failed before")
        self.answers[row] = Answer(answer="", label=None, failure=Failure.STOPPED)
        self.bar.advance(1, note=f"{self.failed} failed")

    def _fits(self, request: Mapping[str, Any]) -> bool:
        """Whether it may fit the context; the estimate can be a fifth too high, and in doubt the server is asked."""
        return 0.8 * count_prompt_tokens(request["messages"]) + request["max_tokens"] <= self.context.endpoint.context_tokens
