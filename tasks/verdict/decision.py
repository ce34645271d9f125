"""The gate: from scores and paired answers to a decision. It fails closed: whatever is odd is not enough evidence.

Dev picks one finalist an arm. Who may become champion is settled by dev and by cost, before test is looked at: the candidate, which
is the best on dev of the finalists that are not trivial; and the economical one, the best on dev of those that are cheaper than the
candidate by enough. On test

    without a champion   the candidate must beat every trivial contender. Each at the full level: one that is no better than some of
                         them passes with chance alpha / 2 at most.
    against a champion   the candidate must be better; or, where it is cheaper than the champion by enough, as good within the
                         margin, and better than every trivial contender.
    the economical one   takes the candidate's place where it is as good as that within the margin, beats the trivial contenders,
                         and is better than the champion, or cheaper by enough and as good within the margin.

Two that are tested against the champion at once share the level by Holm; where one is tested only after the other has passed, both
have it whole. Guards on slices and calibration can only take a promotion away. So a contender that is no better than what it
replaces (by the cost route: worse by the margin or more) is promoted with chance alpha / 2 at most. `benchmarks/gate.py` simulates
it: so it is by accuracy and by macro-F1 (with clusters, at the default margin).
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.config import Gate
from tasks.records import Comparison, ContenderVerdict, Decision, Guard, Judgement, Route
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.field import Field, find_odd
from tasks.verdict.reasons import reason_economical, reason_first, reason_same, reason_versus
from tasks.verdict.statistics import holm
from tasks.verdict.wording import champion_label

logger = logging.getLogger(__name__)
NO_ROWS = Rows()
Test = Callable[[float], bool]
"""Whether a contender passes at a level."""


def decide(gate: Gate, contestants: Sequence[Contestant], champion: Contestant | None, rows: Rows = NO_ROWS) -> Judgement:
    """The decision; the same for any order of the contestants.

    Args:
        champion: the contender that is champion now, with its answers to this run's test rows.
        rows: what else is known of the test rows.
    """
    field = Field(gate, sorted(contestants, key=lambda each: each.rank(gate.metric)), champion, rows)
    odd = find_odd(field)
    if odd:
        return _judgement(
            field, Outcome(Decision.NOT_ENOUGH_EVIDENCE, f"Not enough evidence: {odd.words}.", more_rows=odd.more_rows)
        )
    _meet_everybody(field)
    if champion is None:
        return _judgement(field, _first(field))
    if champion.scores.of == field.candidate.scores.of:
        return _judgement(field, _again(field, champion))
    return _judgement(field, _versus(field, champion))


@dataclass(frozen=True)
class Outcome:
    """A decision and what it rests on."""

    decision: Decision
    reason: str
    winner: str | None = None
    route: Route | None = None
    deciding: Comparison | None = None
    more_rows: int | None = None
    guards: tuple[Guard, ...] = ()


def _first(field: Field) -> Outcome:
    """Without a champion: the candidate, or the economical one in its place, must beat every trivial contender."""
    candidate, thrifty = field.candidate, field.economical
    won, hardest = field.beats_trivial(candidate), field.hardest(candidate)
    if won and thrifty and field.is_as_good(thrifty, candidate) and field.beats_trivial(thrifty):
        deciding = field.against(thrifty, field.hardest(thrifty))
        reason = reason_economical(field, thrifty, candidate, deciding)
        return Outcome(Decision.PUBLISH, reason, thrifty.name, Route.FIRST, deciding)
    deciding, more = field.against(candidate, hardest), None if won else field.more_rows(candidate, hardest)
    reason = reason_first(field, won, deciding, more)
    if won:
        return Outcome(Decision.PUBLISH, reason, candidate.name, Route.FIRST, deciding)
    return Outcome(Decision.NOT_ENOUGH_EVIDENCE, reason, None, None, deciding, more.rows if more else None)


def _again(field: Field, champion: Contestant) -> Outcome:
    """The champion is the best on dev again: it stays, unless a finalist is as good and cheaper."""
    candidate, thrifty, guards = field.candidate, field.economical, []
    deciding = field.against(candidate, field.hardest(candidate))
    if thrifty and field.is_as_good(thrifty, champion) and field.beats_trivial(thrifty):
        guards = field.guards(thrifty)
        if _all_held(guards):
            return _won(field, thrifty, champion, Route.COST, guards)
    reason = reason_same(field, deciding, guards)
    return Outcome(Decision.KEEP_CHAMPION, reason, candidate.name, None, deciding, None, tuple(guards))


def _versus(field: Field, champion: Contestant) -> Outcome:
    """Against a champion that is another contender: better by enough (or as good and cheaper), surely not better by enough, or
    neither."""
    candidate, thrifty = field.candidate, field.economical
    if thrifty and thrifty.scores.of == champion.scores.of:
        thrifty = None
    deciding = field.against(candidate, champion)
    guards = {each.name: field.guards(each) for each in (candidate, thrifty) if each}

    def passes(level: float) -> bool:
        return _is_fit(field, champion, level) and _all_held(guards[candidate.name])

    first, second = _share_level(field, passes, thrifty, champion, guards)
    if second and thrifty:
        route = Route.COST if field.is_cheaper(thrifty, champion) else Route.GAIN
        return _won(field, thrifty, champion, route, guards[thrifty.name])
    if first:
        route = Route.GAIN if field.beats(candidate, champion) else Route.COST
        return _won(field, candidate, champion, route, guards[candidate.name])
    return _not_won(field, champion, deciding, guards[candidate.name], thrifty if _at_once(field, thrifty, champion) else None)


def _is_fit(field: Field, champion: Contestant, level: float) -> bool:
    """Whether the candidate may take the champion's place by one of the two routes, guards aside."""
    candidate = field.candidate
    cheaply = field.is_cheaper(candidate, champion) and field.beats_trivial(candidate)
    return field.beats(candidate, champion, level) or (cheaply and field.is_as_good(candidate, champion, level))


def _share_level(
    field: Field, passes: Test, thrifty: Contestant | None, champion: Contestant, guards: dict[str, list[Guard]]
) -> tuple[bool, bool]:
    """Whether the candidate and the economical one pass. What is tested was settled without looking at test, so the level is shared
    only where both are tested at once."""
    alpha = field.gate.alpha
    if thrifty is None:
        return passes(alpha), False
    fit = field.is_as_good(thrifty, field.candidate) and field.beats_trivial(thrifty) and _all_held(guards[thrifty.name])
    if not _at_once(field, thrifty, champion):
        first = passes(alpha)
        return first, first and fit and field.beats(thrifty, champion)
    first, second = passes(alpha / 2), fit and field.is_as_good(thrifty, champion, alpha / 2)
    if first != second:  # Holm: once one of them has passed at half the level, the other has it whole
        first, second = first or passes(alpha), second or (fit and field.is_as_good(thrifty, champion))
    return first, second


def _at_once(field: Field, thrifty: Contestant | None, champion: Contestant) -> bool:
    """Whether the economical one is tested against the champion whatever becomes of the candidate."""
    return thrifty is not None and field.is_cheaper(thrifty, champion)


def _won(field: Field, winner: Contestant, champion: Contestant, route: Route, guards: list[Guard]) -> Outcome:
    deciding = field.against(winner, champion)
    if winner is field.candidate and route is Route.GAIN:
        reason = reason_versus(field, Decision.PUBLISH, deciding, None, guards)
    else:
        reason = reason_economical(field, winner, champion if winner is field.candidate else field.candidate, deciding)
    return Outcome(Decision.PUBLISH, reason, winner.name, route, deciding, None, tuple(guards))


def _not_won(field: Field, champion: Contestant, deciding: Comparison, guards: list[Guard], sharer: Contestant | None) -> Outcome:
    """
    Args:
        sharer: who shares the level with the candidate.
    """
    candidate, level = field.candidate, field.gate.alpha / (2 if sharer else 1)
    cheap = field.is_cheaper(candidate, champion)
    beaten = deciding.p_value < field.gate.alpha and deciding.difference < 0 and not cheap
    no_better = deciding.interval[1] <= (-field.gate.margin if cheap else field.needed(candidate, champion))
    if beaten or no_better or any(guard.held is False for guard in guards):
        reason = reason_versus(field, Decision.KEEP_CHAMPION, deciding, None, guards)
        winner = _champion_name(field, champion)
        return Outcome(Decision.KEEP_CHAMPION, reason, winner, None, deciding, None, tuple(guards))
    fit = _is_fit(field, champion, level)
    more = field.more_rows_to_guard(guards) if fit else field.more_rows(candidate, champion, level)
    reason = reason_versus(field, Decision.NOT_ENOUGH_EVIDENCE, deciding, more, guards, sharer)
    return Outcome(Decision.NOT_ENOUGH_EVIDENCE, reason, None, None, deciding, more.rows if more else None, tuple(guards))


def _champion_name(field: Field, champion: Contestant) -> str:
    """The champion's name, told from a contender of this run that has the same."""
    if any(each.scores.of == champion.scores.of for each in field.ranked):
        return field.label(champion)
    return champion_label(champion.name) if champion.name in {each.name for each in field.ranked} else champion.name


def _meet_everybody(field: Field) -> None:
    """The candidate against the other finalists and the trivial contenders, for the record, whatever decides."""
    for each in field.finalists:
        if not each.trivial and each is not field.candidate:
            field.against(field.candidate, each)
    for each in field.trivial:
        field.against(field.candidate, each)


def _all_held(guards: Sequence[Guard]) -> bool:
    return all(guard.held is True for guard in guards)


def _judgement(field: Field, outcome: Outcome) -> Judgement:
    """The contenders' table is in order of test accuracy; p-values are corrected over all comparisons that were made."""
    logger.info("%s: %s", outcome.decision.value, outcome.reason)
    made = field.comparisons
    corrected = holm([each.p_value for each in made])
    known = {id(each): each.model_copy(update={"p_holm": value}) for each, value in zip(made, corrected, strict=True)}
    ordered = sorted(field.ranked, key=lambda each: -each.scores.test.accuracy if math.isfinite(each.scores.test.accuracy) else 1)
    return Judgement(
        decision=outcome.decision,
        reason=outcome.reason,
        winner=outcome.winner,
        route=outcome.route,
        metric=field.gate.metric.value,
        more_rows=outcome.more_rows,
        contenders=[_line(each, each in field.finalists) for each in ordered],
        comparison=known[id(outcome.deciding)] if outcome.deciding else None,
        comparisons=list(known.values()),
        guards=list(outcome.guards),
    )


def _line(contestant: Contestant, finalist: bool) -> ContenderVerdict:
    scores = contestant.scores
    return ContenderVerdict(
        name=scores.contender,
        arm=scores.arm,
        fingerprint=scores.of,
        dev=scores.dev,
        test=scores.test,
        whole=scores.whole,
        finalist=finalist,
        cost_usd_per_1000=scores.test.cost_usd_per_1000,
        latency_ms=scores.test.latency_ms,
        money=scores.money,
        failures=scores.failures,
    )
