"""Why the gate decided as it did, in a sentence or two with the figures; plain text, so whoever shows it escapes it."""

from collections.abc import Sequence

from tasks.records import Comparison, Decision, Guard
from tasks.verdict.contestants import Contestant
from tasks.verdict.field import BOOTSTRAP, Field, MoreRows
from tasks.verdict.text import counted, in_dollars
from tasks.verdict.wording import gap, size


def reason_first(field: Field, won: bool, deciding: Comparison, more: MoreRows | None) -> str:
    """Why the candidate became the first champion, or why there is none yet."""
    candidate, baseline = field.candidate, deciding.against
    if won:
        return f"{_has(field, candidate)}, {_gaps(field, deciding)}: published as the first champion.{_thrifty(field)}"
    figures = f"{candidate.name}, the best other on dev, has {_figures(field, candidate)}, {gap(deciding)}"
    if deciding.difference <= 0:
        return f"No contender beats the trivial {baseline}: {figures}.{_more(more)}"
    start = f"Not enough evidence that a contender beats the trivial {baseline}"
    return f"{start}: {figures}{_asked(field, deciding)}.{_more(more)}"


def reason_same(field: Field, deciding: Comparison, guards: Sequence[Guard]) -> str:
    """Why the champion stays when it is the candidate itself."""
    candidate = field.candidate
    sure = field.beats_trivial(candidate)
    doubt = "" if sure else f"; on these rows that is no sure lead over the trivial {deciding.against}"
    again = f"{candidate.name} is the champion already, and best on dev again"
    return f"{again}: it has {_figures(field, candidate)}, {gap(deciding)}{doubt}.{_thrifty(field)}{_guarded(guards)}"


def reason_versus(
    field: Field,
    decision: Decision,
    deciding: Comparison,
    more: MoreRows | None,
    guards: Sequence[Guard],
    sharer: Contestant | None = None,
) -> str:
    """Why the candidate replaced another champion by being better, or did not.

    Args:
        sharer: who shares the level with the candidate, where somebody does.
    """
    candidate = field.candidate
    figures = f"{candidate.name}, the best on dev, has {_figures(field, candidate)}, {gap(deciding)}"
    if decision is Decision.PUBLISH:
        reason = f"{_has(field, candidate)}, {_gaps(field, deciding)}: published in the place of {deciding.against}."
    elif decision is Decision.KEEP_CHAMPION:
        reason = f"{deciding.against} stays: {figures}.{_guarded(guards)}"
    else:
        start = f"Not enough evidence to replace {deciding.against}, which stays"
        reason = f"{start}: {figures}{_asked(field, deciding, sharer)}.{_more(more)}{_guarded(guards)}"
    hardest = field.hardest(candidate)
    warned = field.against(candidate, hardest).difference <= 0
    return f"{reason} Mind that the trivial {hardest.name} does no worse." if warned else reason


def reason_economical(field: Field, winner: Contestant, other: Contestant, deciding: Comparison) -> str:
    """Why a cheaper contender was published where another is as good or a little better.

    Args:
        other: whose place it takes: the candidate's, or the champion's.
    """
    between = field.against(winner, other)
    place = f"in the place of {field.label(field.champion)}" if field.champion else "as the first champion"
    also = "" if deciding is between else f"; {gap(deciding)}"
    margin = counted(100 * field.gate.margin, "point")
    costs = f"{_usd(winner)} against {_usd(other)} for 1,000 predictions"
    return f"{_has(field, winner)}, {gap(between)}: as good within {margin}, at {costs}{also}: published {place}."


def _thrifty(field: Field) -> str:
    """What is missing for a finalist that is cheaper by enough than the candidate, where there is one."""
    thrifty = field.economical
    if thrifty is None:
        return ""
    found, margin = field.against(thrifty, field.candidate), counted(100 * field.gate.margin, "point")
    start = f" {thrifty.name} costs {_usd(thrifty)} for 1,000 predictions, not {_usd(field.candidate)}"
    if field.is_as_good(thrifty, field.candidate):
        return f"{start}, and is as good within {margin}, but beats not every trivial contender surely."
    return f"{start}, but is not shown to be as good within {margin}: {gap(found)}."


def _guarded(guards: Sequence[Guard]) -> str:
    """Which guards did not hold."""
    lost = [guard for guard in guards if guard.held is not True]
    if not lost:
        return ""
    shown = "; ".join(_guard(guard) for guard in lost[:3])
    return f" {lost[0].contender} is not shown to be no worse everywhere: {shown}{'; …' if len(lost) > 3 else ''}."


def _guard(guard: Guard) -> str:
    asked = f"may be worse by {size(guard, guard.margin)}"
    if guard.difference is None:
        return f"{guard.what} cannot be measured"
    more = f"; about {guard.more_rows:,} more such rows would tell" if guard.more_rows else ""
    if guard.interval is None:
        return f"{guard.what} on {guard.n} rows, {size(guard, guard.difference, '+')} without an interval ({asked}{more})"
    low, high = (size(guard, bound, "+") for bound in guard.interval)
    return f"{guard.what} on {guard.n} rows, {size(guard, guard.difference, '+')} [{low}, {high}] ({asked}{more})"


def _has(field: Field, each: Contestant) -> str:
    return f"{each.name} has {_figures(field, each)}"


def _figures(field: Field, each: Contestant) -> str:
    return f"{each.scores.test.told(field.gate.metric)} on {each.scores.test.n} test rows"


def _gaps(field: Field, deciding: Comparison) -> str:
    """The deciding gap, then those to the other finalists."""
    candidate = field.candidate.name
    others = [gap(each) for each in field.comparisons if each is not deciding and each.contender == candidate]
    return "; ".join([gap(deciding), *others])


def _usd(each: Contestant) -> str:
    return in_dollars(each.cost) if each.cost is not None else "an unknown cost"


def _asked(field: Field, comparison: Comparison, sharer: Contestant | None = None) -> str:
    """What the gate asked for and did not get; empty where it got that."""
    gate, candidate, champion = field.gate, field.candidate, field.champion
    level, margin = gate.alpha / (2 if sharer else 1), counted(100 * gate.margin, "point")
    if champion and field.beats(candidate, champion, level):
        return ""
    if champion and field.is_cheaper(candidate, champion):
        if not field.is_as_good(candidate, champion, level):
            return f" (as the cheaper one it must surely be less than {margin} worse{_shared(sharer, level)})"
        if field.beats_trivial(candidate):
            return ""
        return f" (as good within {margin}, and cheaper; but it has no sure lead over the trivial {field.hardest(candidate).name})"
    if comparison.p_value >= level:
        return f" (the gate asks for p < {level:g}{_shared(sharer, level)})"
    if comparison.difference <= 0:
        return ""
    found = field.against(candidate, champion, level) if champion else comparison
    if found.test == BOOTSTRAP and found.interval[0] <= 0:
        return " (the gate asks that the whole interval lie above 0)"
    needed = field.needed(candidate, champion or field.hardest(candidate))
    return f" (the gate asks for a gain of {100 * needed:.1f} points)"


def _shared(sharer: Contestant | None, level: float) -> str:
    """Why the level is not alpha."""
    return f", since {sharer.name} is tested at once: each at {level:g}" if sharer else ""


def _more(more: MoreRows | None) -> str:
    """How many more rows would tell."""
    if more is None:
        return ""
    if more.rows is None:
        return f" These rows would most likely have told, {more.on}: more of them would tell little."
    return f" About {more.rows:,} more labelled test rows would tell, {more.on}."
