"""What a search may spend, and what it has tried so far.

The books count what the search needs, whether it has to be sent or was found in the journal: so a search that was killed goes on to
the same end as one that was not, and both together stay within the budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from tasks.errors import BudgetReached, EndpointError
from tasks.prompting.ask import UNREACHED, AskContext, answer_questions, questions_of
from tasks.prompting.budget import Cap, most_tokens
from tasks.prompting.conversation import Request, most_requests
from tasks.prompting.messages import PromptSpec, build_request
from tasks.prompting.prices import worst_price
from tasks.prompting.techniques.examples import MAX_UNREACHED
from tasks.prompting.techniques.free_text import say, turn_request
from tasks.records import Answer, Example
from tasks.workspace import digest

R = TypeVar("R")


class Exhausted(Exception):
    """What is to be tried next does not fit the search's budget."""


@dataclass
class Allowance(Cap):
    """A cap within a cap, in dollars and in requests."""

    calls: int = 0
    """Requests at most, repeated ones included."""
    within: Cap = field(default_factory=lambda: Cap(0.0))
    """The run's cap, which pays too."""
    sent: int = 0
    outer_reached: bool = False
    """Whether it was the run's cap that had no more room."""

    def reserve(self, usd: float) -> Literal["reserved", "wait", "reached"]:
        if self.sent >= self.calls:
            return "reached"
        state = super().reserve(usd)
        if state != "reserved":
            return state
        state = self.within.reserve(usd)
        if state == "reserved":
            self.sent += 1
        else:
            super().settle(usd, 0.0)
            self.outer_reached = self.outer_reached or state == "reached"
        return state

    def settle(self, reserved: float, actual: float) -> None:
        super().settle(reserved, actual)
        self.within.settle(reserved, actual)


class Trials:
    """Asks for a search, each row once a prompt, within its budget."""

    def __init__(self, folder: Path, context: AskContext, calls: int, usd: float) -> None:
        self.folder = folder
        self.allowance = Allowance(usd, calls=calls, within=context.cap)
        endpoint = context.endpoint.model_copy(update={"batch": False})  # one step needs the answers of the one before
        self.context = replace(context, cap=self.allowance, endpoint=endpoint)
        self.most_calls, self.most_usd = calls, usd
        self.calls, self.usd = 0, 0.0
        self._answers: dict[tuple[str, str], Answer] = {}
        self._said: dict[str, Answer] = {}

    def limit(self, share: float) -> None:
        """From now on, spend at most this share of the whole budget."""
        self.most_calls, self.most_usd = int(share * self.allowance.calls), share * self.allowance.usd

    def answers(self, spec: PromptSpec, rows: Sequence[Example]) -> list[Answer]:
        """One answer a row, in order.

        Raises:
            Exhausted: these rows do not fit the budget.
            BudgetReached: the run's cap has no more room.
            EndpointError: too many rows had no reply, so that nothing can be compared.
        """
        key = digest(spec)
        new = [row for row in rows if (key, row.example) not in self._answers]
        questions = questions_of(self.folder, spec, new)
        while questions:
            firsts = [build_request(spec, each.example.inputs, each.shots) for each in questions]
            some = questions[: self._affordable(firsts, most_requests(spec))]
            answers = self._paid(partial(answer_questions, spec, some, self.context))
            self._count(len(some) * most_requests(spec), answers)
            self._refuse_outage(spec, answers)
            self._answers.update({(key, each.example.example): answer for each, answer in zip(some, answers, strict=True)})
            questions = questions[len(some) :]
        return [self._answers[key, row.example] for row in rows]

    def right(self, spec: PromptSpec, rows: Sequence[Example]) -> list[bool]:
        """Which rows the prompt gets right. Raises as `answers`."""
        return [answer.label == row.label for answer, row in zip(self.answers(spec, rows), rows, strict=True)]

    def known(self, spec: PromptSpec, rows: Sequence[Example]) -> bool:
        """Whether all of these rows were answered with this prompt."""
        key = digest(spec)
        return all((key, row.example) in self._answers for row in rows)

    def say(self, text: str, max_tokens: int, spec: PromptSpec, temperature: float) -> Answer:
        """What the model says to a text (`free_text.say`). Raises as `answers`."""
        if text not in self._said:
            self._affordable([turn_request(text, max_tokens, spec, temperature)], 1)
            answer = self._paid(partial(say, text, max_tokens, spec, self.context, temperature))
            self._count(1, [answer])
            self._said[text] = answer
        return self._said[text]

    def _affordable(self, firsts: Sequence[Request], requests: int) -> int:
        """How many of the rows with these first requests, each of so many in all, can be asked now: in dollars as many as fit at
        their worst, and as most cost less, there may be room for others then.

        Raises:
            Exhausted: all together are too many requests, or there is not even room for the first.
        """
        if self.calls + len(firsts) * requests > self.most_calls:
            raise Exhausted
        endpoint, count, usd = self.context.endpoint, 0, self.usd
        for first in firsts:
            worst = requests * worst_price(endpoint, most_tokens(first), first["max_tokens"])
            if worst > 0 and usd + worst > self.most_usd:
                break
            count, usd = count + 1, usd + worst
        if not count:
            raise Exhausted
        self.allowance.sent = max(self.allowance.sent, self.calls)
        self.allowance.spent_usd = max(self.allowance.spent_usd, self.usd)
        return count

    def _paid(self, ask: Callable[[], R]) -> R:
        try:
            return ask()
        except BudgetReached:
            if not self.allowance.outer_reached:
                raise Exhausted from None
            cap = self.allowance.within
            raise BudgetReached(
                f"the cap of ${cap.usd:g} would be passed while a prompt is optimised (${cap.spent_usd:.4f} is spent): raise "
                "budget.usd and run again; the answers paid for are kept"
            ) from None

    def _count(self, calls: int, answers: Sequence[Answer]) -> None:
        self.calls += calls
        self.usd += sum(answer.cost_usd for answer in answers)

    def _refuse_outage(self, spec: PromptSpec, answers: Sequence[Answer]) -> None:
        unreached = sum(answer.failure in UNREACHED for answer in answers)
        if unreached > MAX_UNREACHED * len(answers):
            raise EndpointError(
                f"{spec.model} gave no reply to {unreached} of {len(answers)} rows, so prompts cannot be compared; what was "
                f"answered is kept: run again when the endpoint {spec.endpoint!r} answers"
            )
