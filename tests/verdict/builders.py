"""Contestants made by hand: their answers are given, everything else follows from them."""

import random
from collections.abc import Sequence

from statsmodels.stats.proportion import proportion_confint

from tasks.records import Arm, Latency, Scores, ScoresRecord
from tasks.verdict.contestants import Contestant


def scores(right: int, n: int, cost: float | None = 0.01, failed: int = 0, p50: float | None = 12.0) -> Scores:
    low, high = proportion_confint(right, n, method="wilson")
    return Scores(
        accuracy=right / n,
        interval=(low, high),
        macro_f1=right / n,
        n=n,
        failed=failed,
        cost_usd_per_1000=cost,
        latency_ms=Latency(p50=p50, p95=p50 and 3 * p50),
    )


def contestant(
    name: str,
    arm: Arm,
    correct: Sequence[bool],
    dev: float = 0.7,
    cost: float | None = 0.01,
    failed: int = 0,
    fingerprint: str = "",
    failures: dict[str, int] | None = None,
) -> Contestant:
    n = len(correct)
    record = ScoresRecord(
        fingerprint=f"scores of {fingerprint or name}",
        contender=name,
        arm=arm,
        of=fingerprint or f"fingerprint of {name}",
        dev=scores(round(dev * 1000), 1000, cost),
        test=scores(sum(correct), n, cost, failed),
        failures=failures or {},
    )
    return Contestant(record, tuple(f"row {index}" for index in range(n)), tuple(correct))


def answers(share: float, n: int = 500, seed: int = 0) -> list[bool]:
    """Exactly this share right, in an order of its own."""
    right = [index < round(share * n) for index in range(n)]
    random.Random(seed).shuffle(right)
    return right
