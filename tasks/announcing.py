"""What a bake-off tells the world, as Prefect events: automations turn them into notifications, or into whatever else is wanted.

    bakeoff.champion.new       a winner was published
    bakeoff.gate.refused       the evidence was not enough, or a person said no
    bakeoff.budget.reached     the cap in dollars stopped a run

Each is about the resource `bakeoff.config.<name>`, and holds the reason in words. No event holds rows, answers, addresses or keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.events import emit_event

from tasks.errors import BudgetReached
from tasks.records import Decision, Verdict

NEW_CHAMPION = "bakeoff.champion.new"
GATE_REFUSED = "bakeoff.gate.refused"
BUDGET_REACHED = "bakeoff.budget.reached"
LONGEST = 500
"""Characters of a reason."""


def announce(verdict: Verdict) -> None:
    """Tell of a verdict that is news: a champion that stays is none."""
    unapproved = verdict.approval and not verdict.approval.approved
    refused = verdict.decision is Decision.NOT_ENOUGH_EVIDENCE or unapproved or verdict.doubts
    if verdict.decision is Decision.PUBLISH:
        _tell(NEW_CHAMPION, verdict.name, verdict.reason, winner=verdict.winner or "")
    elif refused:
        _tell(GATE_REFUSED, verdict.name, verdict.reason)


@contextmanager
def budget_watched(name: str) -> Iterator[None]:
    """For the time of a `with`, a cap that is reached is told of, and raised on."""
    try:
        yield
    except BudgetReached as error:
        _tell(BUDGET_REACHED, name, str(error))
        raise


def _tell(event: str, name: str, reason: str, **more: str) -> None:
    resource = {"prefect.resource.id": f"bakeoff.config.{name}", "prefect.resource.name": name}
    emit_event(event, resource=resource, payload={"reason": reason[:LONGEST], **more})  # Prefect adds the run, its flow and tags
