"""Figures and reasons in words; plain text, so whoever shows it escapes it."""

from collections.abc import Sequence

from tasks.config import Gate
from tasks.records import Comparison, Decision, ScoresRecord


def percent(share: float) -> str:
    """A share as `79.2 %`."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares as `8.4 points more`, `1.0 points less`, or `as much`; rounded to what is shown."""
    shown = round(100 * difference, 1)
    return "as much" if shown == 0 else f"{abs(shown):.1f} points {'more' if shown > 0 else 'less'}"


def p_value(value: float) -> str:
    """Such as `p = 0.031`."""
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def gap(comparison: Comparison) -> str:
    """Such as `8.4 points more than tfidf [4.1, 12.6], p = 0.0003`; the interval is in points."""
    difference = points(comparison.difference)
    low, high = (100 * bound for bound in comparison.interval)
    return f"{difference} {'as' if difference == 'as much' else 'than'} {comparison.against} [{low:.1f}, {high:.1f}], " + p_value(
        comparison.p_value
    )


def champion_label(name: str) -> str:
    """What the champion is called beside this run's contenders, one of which may have its name."""
    return f"{name} (champion)"


def reason_first(won: bool, candidate: ScoresRecord, deciding: Comparison, comparisons: Sequence[Comparison], gate: Gate) -> str:
    """Why the candidate became the first champion, or why there is none yet."""
    baseline = deciding.against
    if won:
        return f"{_has(candidate)}, {_gaps(deciding, comparisons)}: published as the first champion."
    figures = f"{candidate.contender}, the best other on dev, has {_figures(candidate)}, {gap(deciding)}"
    if deciding.difference <= 0:
        return f"No contender beats the trivial {baseline}: {figures}."
    return f"Not enough evidence that a contender beats the trivial {baseline}: {figures}{_asked(deciding, gate)}."


def reason_same(candidate: ScoresRecord, deciding: Comparison, significant: bool) -> str:
    """Why the champion stays when it is the candidate itself."""
    doubt = "" if significant else f"; on these rows that is no sure lead over the trivial {deciding.against}"
    again = f"{candidate.contender} is the champion already, and best on dev again"
    return f"{again}: it has {_figures(candidate)}, {gap(deciding)}{doubt}."


def reason_versus(
    decision: Decision, candidate: ScoresRecord, deciding: Comparison, comparisons: Sequence[Comparison], baseline: str, gate: Gate
) -> str:
    """Why the candidate replaced another champion, or did not."""
    figures = f"{candidate.contender}, the best on dev, has {_figures(candidate)}, {gap(deciding)}"
    if decision is Decision.PUBLISH:
        reason = f"{_has(candidate)}, {_gaps(deciding, comparisons)}: published in the place of {deciding.against}."
    elif decision is Decision.KEEP_CHAMPION:
        reason = f"{deciding.against} stays: {figures}."
    else:
        reason = f"Not enough evidence to replace {deciding.against}, which stays: {figures}{_asked(deciding, gate)}."
    trivial = next(comparison for comparison in comparisons if comparison.against == baseline)
    return f"{reason} Mind that the trivial {baseline} does no worse." if trivial.difference <= 0 else reason


def _has(scores: ScoresRecord) -> str:
    return f"{scores.contender} has {_figures(scores)}"


def _figures(scores: ScoresRecord) -> str:
    return f"{percent(scores.test.accuracy)} on {scores.test.n} test rows"


def _gaps(deciding: Comparison, comparisons: Sequence[Comparison]) -> str:
    """The deciding gap, then those to the other finalists."""
    others = [gap(comparison) for comparison in comparisons if comparison is not deciding]
    return "; ".join([gap(deciding), *others])


def _asked(comparison: Comparison, gate: Gate) -> str:
    """What the gate asked for and did not get."""
    if comparison.p_value >= gate.alpha:
        return f" (the gate asks for p < {gate.alpha:g})"
    return f" (the gate asks for a gain of {100 * gate.minimum_gain:.1f} points)" if comparison.difference > 0 else ""
