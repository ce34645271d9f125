"""Ask an endpoint about many rows: as many at once as it bears, each reply kept in the journal as it comes.

One event loop for the whole; a fixed number of workers take rows in order, so memory does not grow with requests. What is said
about a row is `tasks/prompting/conversation.py`; here its requests are sent, or found in the journal, and its replies paid for.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import BadConfig, EndpointError
from tasks.manifest import ContenderManifest, read_manifest
from tasks.progress import Bar, progress
from tasks.prompting.budget import Cap, count_prompt_tokens, estimate
from tasks.prompting.conversation import Conversation, Request, converse, most_requests
from tasks.prompting.endpoint import Client, Outcome, preflight
from tasks.prompting.journal import Journal, Reply, request_key
from tasks.prompting.messages import PromptSpec, Shot, build_request
from tasks.records import Answer, Example, Failure
from tasks.settings import Endpoint

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


def journal_path(root: Path, endpoint: str) -> Path:
    """The journal of an endpoint in a workspace; it outlives every product, since what was paid for is good for all."""
    return root / "journal" / f"{endpoint}.sqlite"


def read_prompt(folder: Path) -> PromptSpec:
    """The prompt in a contender's folder, its files checked."""
    manifest = read_manifest(folder)
    if manifest.kind != "prompt":
        raise BadConfig(f"{folder} is a {manifest.kind} contender, not a prompt")
    return PromptSpec.model_validate(manifest.spec)


@dataclass(frozen=True)
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
    """
    preflight(spec.endpoint, context.endpoint)
    if context.endpoint.model != spec.model:
        raise BadConfig(
            f"the prompt was made for model {spec.model!r}, but endpoint {spec.endpoint!r} now has {context.endpoint.model!r}: "
            "name the first one in the settings, or build the prompt again"
        )
    title = f"ask {spec.model} ({' + '.join(spec.techniques)})"
    with Journal(context.journal) as kept, progress(title, len(questions)) as bar:
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


class _RowFailed(Exception):
    """A request of a row brought no reply."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure, self.detail = failure, detail


@dataclass
class _Spent:
    """What one row's conversation took, over all its requests; found replies count as when they were paid for."""

    latency_ms: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, reply: Reply) -> None:
        self.latency_ms += reply.latency_ms
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.cost_usd += reply.cost_usd


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
        rows = iter(range(len(self.questions)))
        async with Client(self.context.endpoint, self.context.cap) as client:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self.context.endpoint.concurrency, len(self.questions))):
                        workers.create_task(self._work(client, rows))
            except ExceptionGroup as group:  # such as a full disk under the journal: one worker's error says it
                raise group.exceptions[0] from None
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

    async def _work(self, client: Client, rows: Iterator[int]) -> None:
        for row in rows:
            if client.stopped:
                return
            answer = await self._answer(client, self.questions[row])
            self.answers[row] = answer
            self.asked += answer.failure is not Failure.STOPPED
            self.failed += answer.failure not in (None, Failure.STOPPED)
            self.bar.advance(1, note=f"{self.failed} failed" if self.failed else "")

    async def _answer(self, client: Client, question: Question) -> Answer:
        if self.asked >= FEWEST_ASKED and self.failed > self.context.max_failed * self.asked:
            return self._failed(Failure.STOPPED, f"{self.failed} of {self.asked} rows failed before", _Spent())
        spent = _Spent()
        try:
            answer = await self._talk(client, question, spent)
        except _RowFailed as error:
            return self._failed(error.failure, error.detail, spent)
        return answer.model_copy(update=vars(spent))

    async def _talk(self, client: Client, question: Question, spent: _Spent) -> Answer:
        """Drive a row's conversation to its answer."""
        talk: Conversation = converse(self.spec, question.example.inputs, question.shots, question.hint)
        request, sent = next(talk), False
        while True:
            reply, new = await self._reply(client, question.example, request, spent)
            spent.add(reply)
            sent = sent or new
            try:
                request = talk.send(reply)
            except StopIteration as end:
                self.context.meter.found += not sent
                answer: Answer = end.value
                return answer

    async def _reply(self, client: Client, example: Example, request: Request, spent: _Spent) -> tuple[Reply, bool]:
        """The reply to one request, and whether it had to be sent for it."""
        key = request_key(self.context.endpoint, request)
        found = self.journal.find(key)
        if found:
            return found, False
        if not self._fits(request):
            raise _RowFailed(Failure.TOO_LONG, f"row {example.row} does not fit {self.context.endpoint.context_tokens} tokens")
        outcome: Outcome = await client.ask(request)
        if outcome.reply is None:
            assert outcome.failure
            spent.cost_usd += outcome.cost_usd
            raise _RowFailed(outcome.failure, outcome.detail)
        self.journal.keep(key, self.spec.model, outcome.reply)
        return outcome.reply, True

    def _fits(self, request: Mapping[str, Any]) -> bool:
        """Whether it may fit the context; the estimate can be a fifth too high, and in doubt the server is asked."""
        return 0.8 * count_prompt_tokens(request["messages"]) + request["max_tokens"] <= self.context.endpoint.context_tokens

    def _failed(self, failure: Failure, detail: str, spent: _Spent) -> Answer:
        self.details.setdefault(failure, detail)
        return Answer(answer="", label=None, failure=failure, cost_usd=spent.cost_usd)
