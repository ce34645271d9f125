"""What methods and objectives add: a tuned contender beside one that differs in that alone, on the same test rows.

In small models most of what LoRA trains may be the head, so a contender that trains more than the head is measured against one on
the same base that trains the head alone; one with an objective of its own against the same recipe, supervised alone. Nothing here
takes part in the decision.
"""

from collections.abc import Sequence
from typing import Literal

from tasks.config import OBJECTIVES_OWN, Method, Objective, Tuned
from tasks.records import Comparison, Lift
from tasks.verdict.contestants import Contestant
from tasks.verdict.statistics import Clusters, compare, holm

Of = Literal["method", "objective"]


def find_lifts(tuned: Sequence[Tuned], contestants: Sequence[Contestant], alpha: float, clusters: Clusters = None) -> list[Lift]:
    """The lift of every tuned contender that has another to be measured against, in the config's order.

    Args:
        alpha: a difference counts as found where its p-value, corrected by Holm over all lifts, is below it.
        clusters: what the test rows belong to, as of `compare`; None where each stands alone.
    """
    by_name = {each.name: each for each in contestants}
    known = [each for each in tuned if each.name in by_name]
    pairs = [(each, against, of) for each in known for against, of in _references(each, known)]
    same_rows = [pair for pair in pairs if by_name[pair[0].name].examples == by_name[pair[1].name].examples]
    found = [_compare(by_name[each.name], by_name[against.name], alpha, clusters) for each, against, _ in same_rows]
    adjusted = holm([comparison.p_value for comparison in found])
    return [
        Lift(
            contender=each.name,
            against=against.name,
            of=of,
            comparison=comparison,
            p_holm=p_holm,
            finding="none" if p_holm >= alpha else "gain" if comparison.difference > 0 else "loss",
        )
        for (each, against, of), comparison, p_holm in zip(same_rows, found, adjusted, strict=True)
    ]


def _references(tuned: Tuned, known: Sequence[Tuned]) -> list[tuple[Tuned, Of]]:
    """Whom a contender is measured against, and what differs."""
    if tuned.objective is not Objective.SUPERVISED:
        plain = [each for each in known if each.objective is Objective.SUPERVISED and _supervised(each) == _supervised(tuned)]
        return [(plain[0], "objective")] if plain else []
    if tuned.method is Method.HEAD:
        return []
    heads = [
        each
        for each in known
        if each.method is Method.HEAD and each.objective is tuned.objective and _ground(each) == _ground(tuned)
    ]
    return [(heads[0], "method")] if heads else []


def _supervised(tuned: Tuned) -> Tuned:
    """The recipe of the supervised step alone."""
    own = Tuned(name="any").model_dump(include=set(OBJECTIVES_OWN))
    return tuned.model_copy(update={"name": "", **own})


def _ground(tuned: Tuned) -> tuple[str, str, int, str]:
    """What two contenders must share for their methods to be compared; recipes differ, as each method wants its own."""
    return tuned.base, tuned.revision, tuned.max_tokens, tuned.truncation_side


def _compare(first: Contestant, second: Contestant, alpha: float, clusters: Clusters) -> Comparison:
    return compare(first.name, first.right, second.name, second.right, alpha, clusters)
