"""What the contenders cost beside each other: training spread over use, the front of cost and quality, and the break-even."""

import math
from collections.abc import Sequence

from tasks.config import Gate, Metric, Use
from tasks.evaluation.cost import spread_training
from tasks.records import Arm, BreakEven, ContenderVerdict


def with_money(lines: Sequence[ContenderVerdict], gate: Gate, use: Use) -> list[ContenderVerdict]:
    """The contenders' lines with totals, and with who stands on the front of cost and quality."""
    costed = [line.model_copy(update={"money": spread_training(line.money, use)}) if line.money else line for line in lines]
    return [line.model_copy(update={"pareto": _on_front(line, costed, gate.metric)}) for line in costed]


def find_break_even(lines: Sequence[ContenderVerdict], use: Use) -> BreakEven | None:
    """From which volume a month on the tuned finalist is cheaper than the prompted one; None where there are not both."""
    finalists = {line.arm: line for line in lines if line.finalist}
    prompt, tuned = finalists.get(Arm.PROMPT), finalists.get(Arm.TUNED)
    if prompt is None or tuned is None:
        return None
    training = tuned.money.training_usd if tuned.money else None
    answer, per_month = break_even(prompt.cost_usd_per_1000, tuned.cost_usd_per_1000, training, use.months)
    return BreakEven(
        prompt=prompt.name,
        tuned=tuned.name,
        answer=answer,
        per_month=per_month,
        prompt_usd_per_1000=prompt.cost_usd_per_1000,
        tuned_usd_per_1000=tuned.cost_usd_per_1000,
        training_usd=training,
        months=use.months,
    )


def break_even(
    prompt_usd_per_1000: float | None, tuned_usd_per_1000: float | None, training_usd: float | None, months: int
) -> tuple[str, float | None]:
    """`from` and predictions a month; or `always`, `never`, `unknown` and None.

    Args:
        months: over which training is spread; then it is due again.
    """
    figures = [prompt_usd_per_1000, tuned_usd_per_1000, training_usd]
    known = [figure for figure in figures if figure is not None and math.isfinite(figure)]
    if len(known) < len(figures):
        return "unknown", None
    prompt, tuned, training = known
    saved = prompt - tuned
    if saved <= 0:
        return "never", None
    return ("from", 1000 * training / months / saved) if training > 0 else ("always", None)


def _on_front(line: ContenderVerdict, lines: Sequence[ContenderVerdict], metric: Metric) -> bool | None:
    """Whether nobody is as good and as cheap, and better in one of the two; None where its own figures are not known."""
    here = _place(line, metric)
    if here is None:
        return None
    others = [place for place in (_place(each, metric) for each in lines) if place]
    return not any(cost <= here[0] and quality >= here[1] and (cost, quality) != here for cost, quality in others)


def _place(line: ContenderVerdict, metric: Metric) -> tuple[float, float] | None:
    cost = line.money.total_usd_per_1000 if line.money else line.cost_usd_per_1000
    quality = line.test.by(metric)
    if cost is None or quality is None or not (math.isfinite(cost) and math.isfinite(quality)):
        return None
    return cost, quality
