"""The gate: from scores and paired answers to a decision. It fails closed: whatever is odd is not enough evidence.

Dev picks one finalist an arm. The candidate is the finalist that is best on dev among the arms that are not trivial. Only then is
test looked at: the candidate against the champion, or while there is no champion against the trivial contenders. It must beat each
of these at the full level. That needs no correction: one that is no better than some of them passes with chance alpha at most.
"""

import logging
import math
from collections.abc import Sequence

from tasks.config import Gate, Prompt, Tuned
from tasks.evaluation.scores import Evaluation
from tasks.records import (
    Arm,
    Comparison,
    ContenderVerdict,
    Decision,
    Judgement,
    Scores,
)
from tasks.verdict.contestants import Contestant, contestant
from tasks.verdict.effects import find_best_prompts, find_effects, find_format_spread, read_prompted
from tasks.verdict.lifts import find_lifts
from tasks.verdict.statistics import compare
from tasks.verdict.wording import champion_label, reason_first, reason_same, reason_versus
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
STAGE = Stage(
    "verdict",
    3,
    (
        "tasks.verdict.decision",
        "tasks.verdict.contestants",
        "tasks.verdict.effects",
        "tasks.verdict.lifts",
        "tasks.verdict.statistics",
        "tasks.verdict.wording",
    ),
)


def judge(
    gate: Gate,
    evaluations: Sequence[Evaluation],
    champion: Evaluation | None,
    workspace: Workspace,
    prompts: Sequence[Prompt] = (),
    tuned: Sequence[Tuned] = (),
) -> Judgement:
    """Decide, or find what was decided over the same predictions and champion; with the effects of the prompts' techniques.

    Args:
        evaluations: of this run's contenders, in any order.
        champion: of the contender that is champion now, on the same data set; None where there is none. One with the fingerprint
            of a contender of this run is that contender.
        prompts: the run's prompted contenders; their effects take no part in the decision.
        tuned: the run's tuned contenders; likewise their lifts.
    """
    inputs = sorted(evaluation.scores.fingerprint for evaluation in evaluations)
    of_champion = champion and [champion.scores.of, champion.scores.fingerprint]
    config = {"gate": gate, "champion": of_champion, "prompts": list(prompts), "tuned": list(tuned)}

    def build(building: Building) -> Judgement:
        contestants = [contestant(evaluation) for evaluation in evaluations]
        judgement = decide(gate, contestants, contestant(champion) if champion else None)
        prompted = read_prompted(prompts, evaluations)
        return judgement.model_copy(
            update={
                "effects": find_effects(prompted, gate.alpha),
                "format_spread": find_format_spread(prompted),
                "best_prompts": find_best_prompts(prompted),
                "lifts": find_lifts(tuned, contestants, gate.alpha),
            }
        )

    return workspace.produce(STAGE, inputs, config, Judgement, build)


def decide(gate: Gate, contestants: Sequence[Contestant], champion: Contestant | None) -> Judgement:
    """The decision; the same for any order of the contestants.

    Args:
        champion: the contender that is champion now, with its answers to this run's test rows.
    """
    contestants = sorted(contestants, key=Contestant.rank)
    finalists = _finalists(contestants)
    odd = _odd(gate, contestants, finalists, champion)
    if odd:
        return _judgement(contestants, finalists, Decision.NOT_ENOUGH_EVIDENCE, f"Not enough evidence: {odd}.", None, None, [])
    candidate = _candidate(finalists)
    rivals = [each for each in finalists if not each.trivial and each is not candidate]
    hurdles = [_compare(gate, candidate, each, each.name) for each in contestants if each.trivial]
    comparisons = [*(_compare(gate, candidate, rival, rival.name) for rival in rivals), *hurdles]
    deciding = min(hurdles, key=lambda hurdle: (_better(gate, hurdle), hurdle.difference))  # the hardest to beat
    if champion and champion.scores.of != candidate.scores.of:
        return _versus(gate, contestants, finalists, champion, comparisons, deciding.against)
    if champion:
        reason = reason_same(candidate.scores, deciding, _better(gate, deciding))
        return _judgement(contestants, finalists, Decision.KEEP_CHAMPION, reason, candidate.name, deciding, comparisons)
    won = all(_better(gate, hurdle) for hurdle in hurdles)
    decision = Decision.PUBLISH if won else Decision.NOT_ENOUGH_EVIDENCE
    reason = reason_first(won, candidate.scores, deciding, comparisons, gate)
    return _judgement(contestants, finalists, decision, reason, candidate.name if won else None, deciding, comparisons)


def _versus(
    gate: Gate,
    contestants: Sequence[Contestant],
    finalists: Sequence[Contestant],
    champion: Contestant,
    comparisons: list[Comparison],
    baseline: str,
) -> Judgement:
    """Against a champion that is another contender: better by enough, surely not better by enough, or neither."""
    candidate = _candidate(finalists)
    ours = next((each for each in contestants if each.scores.of == champion.scores.of), None)
    label = ours.name if ours else champion_label(champion.name)
    deciding = next((each for each in comparisons if each.against == label), None)
    if deciding is None:
        deciding = _compare(gate, candidate, champion, label)
        comparisons = [*comparisons, deciding]
    if _better(gate, deciding):
        decision, winner = Decision.PUBLISH, candidate.name
    elif deciding.interval[1] <= gate.minimum_gain or (deciding.p_value < gate.alpha and deciding.difference < 0):
        names = {each.name for each in contestants if each is not ours}
        decision, winner = Decision.KEEP_CHAMPION, label if champion.name in names else champion.name
    else:
        decision, winner = Decision.NOT_ENOUGH_EVIDENCE, None
    reason = reason_versus(decision, candidate.scores, deciding, comparisons, baseline, gate)
    return _judgement(contestants, finalists, decision, reason, winner, deciding, comparisons)


def _compare(gate: Gate, first: Contestant, second: Contestant, label: str) -> Comparison:
    return compare(
        first.name, [right is True for right in first.correct], label, [right is True for right in second.correct], gate.alpha
    )


def _better(gate: Gate, comparison: Comparison) -> bool:
    """Significantly, and by at least the gain that is asked for."""
    return comparison.p_value < gate.alpha and comparison.difference > 0 and comparison.difference >= gate.minimum_gain


def _finalists(ranked: Sequence[Contestant]) -> list[Contestant]:
    """The best on dev of each arm, best first."""
    best: dict[Arm, Contestant] = {}
    for each in ranked:
        best.setdefault(each.scores.arm, each)
    return list(best.values())


def _candidate(finalists: Sequence[Contestant]) -> Contestant:
    return next(each for each in finalists if not each.trivial)


def _odd(gate: Gate, contestants: Sequence[Contestant], finalists: Sequence[Contestant], champion: Contestant | None) -> str | None:
    """What forbids a decision, in words; None when nothing does."""
    everyone = [*contestants, *([champion] if champion else [])]
    for each in everyone:
        if not (_sound(each.scores.dev) and _sound(each.scores.test)):
            return f"a score of {each.name} is missing or not a number"
        if None in each.correct or len(each.correct) != each.scores.test.n or len(each.examples) != each.scores.test.n:
            return f"{each.name} has test rows without a score"
    if not any(each.trivial for each in finalists) or all(each.trivial for each in finalists):
        return "there must be a trivial contender and one that is not"
    rows = everyone[0].examples
    strays = [each.name for each in everyone if each.examples != rows]
    if strays:
        return f"{strays[0]} was scored on other test rows than {everyone[0].name}"
    if len(rows) < gate.minimum_rows:
        return f"test has {len(rows)} rows, and the gate asks for {gate.minimum_rows}"
    silent = [each.name for each in everyone if each.scores.test.failed >= each.scores.test.n and each in (*finalists, champion)]
    return f"{silent[0]} has no usable answer on any test row, which says nothing about it" if silent else None


def _sound(scores: Scores) -> bool:
    """All figures that are there are numbers, and shares lie between 0 and 1."""
    shares = [scores.accuracy, *scores.interval, *([] if scores.macro_f1 is None else [scores.macro_f1])]
    others = [scores.cost_usd_per_1000, scores.latency_ms.p50, scores.latency_ms.p95]
    return all(0 <= share <= 1 for share in shares) and all(value is None or math.isfinite(value) for value in others)


def _judgement(
    contestants: Sequence[Contestant],
    finalists: Sequence[Contestant],
    decision: Decision,
    reason: str,
    winner: str | None,
    deciding: Comparison | None,
    comparisons: list[Comparison],
) -> Judgement:
    """The contenders' table is in order of test accuracy."""
    logger.info("%s: %s", decision.value, reason)
    ordered = sorted(contestants, key=lambda each: -each.scores.test.accuracy if math.isfinite(each.scores.test.accuracy) else 1)
    return Judgement(
        decision=decision,
        reason=reason,
        winner=winner,
        contenders=[_line(each, each in finalists) for each in ordered],
        comparison=deciding,
        comparisons=comparisons,
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
        failures=scores.failures,
    )
