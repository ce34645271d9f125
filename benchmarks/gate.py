"""The gate's own error rates: bake-offs over answers drawn with known truth go through the decision code as it is.

    python -m benchmarks.gate --output json
    python -m benchmarks.gate --simulations 500 --only one,twenty
    python -m benchmarks.gate --only cost_clusters --margin 0.03

Each scenario is a way to be promoted wrongly. All contenders are as good as what they would replace, or (cost, cost_clusters,
economical, slices, macro_f1_cost) worse by exactly the margin that the gate allows, which is the hardest case.
`false_promotion_rate` is that of the worst scenario, with its Wilson interval and its `simulations`; `stated_level` is what
docs/verdict.md promises: half of `gate.alpha`. `power_at_3_points` is the chance that a contender that is 3 points better replaces
the champion: 1,000 rows, of which 10 % are right for one of the two only, one comparison. Every processor core takes its share of
the simulations.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import numpy

from tasks.config import Gate, Metric
from tasks.progress import progress
from tasks.records import Arm, Decision, Judgement, Latency, Scores, ScoresRecord
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.decision import decide
from tasks.verdict.statistics import wilson

GATE = Gate()
ACCURACY = 0.8
DISCORDANT = 0.1
DEV_ROWS = 200
AT_ONCE = 20
"""Bake-offs that a process takes at a time."""
SHARES = (0.6, 0.3, 0.1)
"""Of three labels, where macro-F1 decides."""
Draw = numpy.random.Generator
Answers = numpy.ndarray


class Draws:
    """Answers of several contenders to the same rows, any two of which differ on `DISCORDANT` of the rows, as expected."""

    def __init__(self, dice: Draw, n: int, clusters: int | None = None, sizes: Sequence[int] = ()) -> None:
        self.dice, self.n = dice, n
        self.examples = tuple(map(str, range(n)))
        self.redrawn = 1 - math.sqrt(1 - DISCORDANT / (2 * ACCURACY * (1 - ACCURACY)))
        self.cluster = numpy.arange(n) if clusters is None else numpy.arange(n) % clusters
        if sizes:
            self.cluster = numpy.repeat(numpy.arange(len(sizes)), sizes)
        self.base = self._coins(ACCURACY)

    def answers(self, worse_by: float = 0.0, where: Any = None) -> Answers:
        """Whether each row is right, for a contender of accuracy `ACCURACY` less `worse_by`, there alone if `where` is given.
        Where rows come in clusters it is worse on whole ones, the hardest to see."""
        own = numpy.where(self._coins(self.redrawn), self._coins(ACCURACY), self.base)
        spoiled = self.dice.random(int(self.cluster.max()) + 1)[self.cluster] < worse_by / ACCURACY
        return own & ~(spoiled if where is None else spoiled & where)

    def contestant(self, name: str, arm: Arm, right: Answers, cost: float | None = 1.0, labels: Any = None) -> Contestant:
        """A contender with these answers on test; its figure on dev is drawn for itself."""
        dev = _scores(float(self.dice.binomial(DEV_ROWS, ACCURACY)) / DEV_ROWS, DEV_ROWS, cost)
        record = ScoresRecord(contender=name, arm=arm, of=name, dev=dev, test=_scores(float(right.mean()), self.n, cost))
        given, wanted = labels or ((), ())
        return Contestant(record, self.examples, tuple(right.tolist()), given, wanted)

    def _coins(self, share: float) -> Answers:
        """One a row; one a cluster for most rows where there are clusters, so that rows of a cluster are alike."""
        alone = self.dice.random(self.n) < share
        together = (self.dice.random(int(self.cluster.max()) + 1) < share)[self.cluster]
        return numpy.where(self.dice.random(self.n) < 0.7, together, alone) if len(together) and self.shared else alone

    @property
    def shared(self) -> bool:
        return int(self.cluster.max()) + 1 < self.n


def _scores(accuracy: float, n: int, cost: float | None) -> Scores:
    return Scores(
        accuracy=accuracy,
        interval=(accuracy, accuracy),
        macro_f1=accuracy,
        n=n,
        failed=0,
        cost_usd_per_1000=cost,
        latency_ms=Latency(p50=None, p95=None),
    )


def one(dice: Draw, gate: Gate = GATE) -> Judgement:
    """One contender as good as the champion."""
    draws = Draws(dice, 1000)
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, draws.answers())], gate)


def identical(dice: Draw, gate: Gate = GATE) -> Judgement:
    """Contenders that answer exactly as the champion does."""
    draws = Draws(dice, 1000)
    same = draws.answers()
    rivals = [draws.contestant(name, arm, same) for name, arm in (("lora", Arm.TUNED), ("few_shot", Arm.PROMPT))]
    return decide(gate, [*rivals, draws.contestant("majority", Arm.TRIVIAL, same)], draws.contestant("old", Arm.TUNED, same))


def several(dice: Draw, gate: Gate = GATE) -> Judgement:
    """A finalist of each arm, all as good as the champion, at prices far apart."""
    draws = Draws(dice, 1000)
    arms = ("few_shot", Arm.PROMPT, 10.0), ("lora", Arm.TUNED, 1.0), ("routed", Arm.HYBRID, 3.0)
    return _against_champion(draws, [draws.contestant(name, arm, draws.answers(), cost) for name, arm, cost in arms], gate)


def small(dice: Draw, gate: Gate = GATE) -> Judgement:
    """As `several`, on 60 test rows."""
    draws = Draws(dice, 60)
    arms = ("few_shot", Arm.PROMPT), ("lora", Arm.TUNED), ("routed", Arm.HYBRID)
    return _against_champion(draws, [draws.contestant(name, arm, draws.answers()) for name, arm in arms], gate)


def first(dice: Draw, gate: Gate = GATE) -> Judgement:
    """No champion yet; finalists as good as one trivial contender, at prices far apart."""
    draws = Draws(dice, 1000)
    arms = ("few_shot", Arm.PROMPT, 10.0), ("lora", Arm.TUNED, 1.0)
    rivals = [draws.contestant(name, arm, draws.answers(), cost) for name, arm, cost in arms]
    trivial = draws.contestant("tfidf", Arm.TRIVIAL, draws.answers()), draws.contestant("majority", Arm.TRIVIAL, draws.answers(0.3))
    return decide(gate, [*rivals, *trivial], None)


def twenty(dice: Draw, gate: Gate = GATE) -> Judgement:
    """No champion yet; twenty prompts as good as a trivial contender, the luckiest on dev is the candidate."""
    draws = Draws(dice, 1000)
    prompts = [draws.contestant(f"prompt_{number:02}", Arm.PROMPT, draws.answers()) for number in range(20)]
    return decide(gate, [*prompts, draws.contestant("tfidf", Arm.TRIVIAL, draws.answers())], None)


def cost(dice: Draw, gate: Gate = GATE) -> Judgement:
    """One contender at a tenth of the champion's cost, worse than it by the margin."""
    draws = Draws(dice, 4000)
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, draws.answers(gate.margin), 0.1)], gate)


def economical(dice: Draw, gate: Gate = GATE) -> Judgement:
    """A contender as good as the champion, and a cheap one that is worse by the margin: two ways at once."""
    draws = Draws(dice, 4000)
    dear = draws.contestant("few_shot", Arm.PROMPT, draws.answers(), 1.0)
    return _against_champion(draws, [dear, draws.contestant("lora", Arm.TUNED, draws.answers(gate.margin), 0.1)], gate)


def slices(dice: Draw, gate: Gate = GATE) -> Judgement:
    """A contender that is better on the whole, and on one of two slices worse by the margin."""
    draws = Draws(dice, 2000)
    gate = gate.model_copy(update={"slices": ["label"]})
    there = dice.random(draws.n) < 0.25
    old = draws.answers()
    new = draws.answers() | (~there & (dice.random(draws.n) < 0.5))
    new = numpy.where(there, draws.answers(gate.slice_margin), new)
    rows = Rows(slices={"label": tuple(numpy.where(there, "rare", "common").tolist())})
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, new)], gate, old, rows)


def clusters(dice: Draw, gate: Gate = GATE) -> Judgement:
    """One contender as good as the champion; rows come in 250 clusters whose rows are much alike."""
    draws = Draws(dice, 1000, clusters=250)
    rows = Rows(clusters=tuple(draws.cluster.tolist()))
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, draws.answers())], gate, rows=rows)


def cost_clusters(dice: Draw, gate: Gate = GATE) -> Judgement:
    """As `cost`, where rows come in 15 large clusters and 150 small ones, and the contender is worse on whole clusters."""
    sizes = [100] * 15 + [10] * 150
    draws = Draws(dice, sum(sizes), sizes=sizes)
    rows = Rows(clusters=tuple(draws.cluster.tolist()))
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, draws.answers(gate.margin), 0.1)], gate, rows=rows)


def macro_f1(dice: Draw, gate: Gate = GATE) -> Judgement:
    """One contender as good as the champion by macro-F1 over three labels, the rarest of them one row in ten."""
    return _by_macro_f1(dice, gate)


def macro_f1_traded(dice: Draw, gate: Gate = GATE) -> Judgement:
    """As `macro_f1`, where the contender is 5 points better on the commonest label and as much worse on the rarest as evens it out:
    equally good, and not exchangeable."""
    return _by_macro_f1(dice, gate, gained=0.05)


def macro_f1_cost(dice: Draw, gate: Gate = GATE) -> Judgement:
    """As `cost`, by macro-F1: the contender is worse on the rarest label alone."""
    return _by_macro_f1(dice, gate, below=gate.margin, cost=0.1)


def _by_macro_f1(dice: Draw, gate: Gate, gained: float = 0.0, below: float = 0.0, cost: float = 1.0) -> Judgement:
    """One that has `gained` on the commonest label, and lost on the rarest what puts its macro-F1 `below` the champion's."""
    draws = Draws(dice, 500)
    truth = dice.choice(3, size=draws.n, p=SHARES)

    def made(name: str, arm: Arm, right: Answers, cost: float = 1.0) -> Contestant:
        given = numpy.where(right, truth, (truth + 1) % 3)
        return draws.contestant(name, arm, right, cost, (_names(given), _names(truth)))

    right = draws.answers()
    if gained or below:
        right = right | ((truth == 0) & (dice.random(draws.n) < gained / (1 - ACCURACY)))
        right = right & ~((truth == 2) & (dice.random(draws.n) < _lost(gained, below) / ACCURACY))
    rivals = [made("lora", Arm.TUNED, right, cost), made("majority", Arm.TRIVIAL, draws.answers(0.3))]
    return decide(gate.model_copy(update={"metric": Metric.MACRO_F1}), rivals, made("old", Arm.PROMPT, draws.answers()))


@cache
def _lost(gained: float, below: float) -> float:
    """What recall of the rarest label must fall by, for macro-F1 to be `below` that of `ACCURACY` on every label."""
    from scipy.optimize import brentq

    def expected(*recalls: float) -> float:
        wrong = [share * (1 - recall) for share, recall in zip(SHARES, recalls, strict=True)]
        answered = [SHARES[label] - wrong[label] + wrong[label - 1] for label in range(3)]
        return sum(2 * (SHARES[label] - wrong[label]) / (SHARES[label] + answered[label]) for label in range(3)) / 3

    wanted = expected(ACCURACY, ACCURACY, ACCURACY) - below
    return float(brentq(lambda lost: expected(ACCURACY + gained, ACCURACY, ACCURACY - lost) - wanted, 0, ACCURACY))


def _names(codes: numpy.ndarray) -> tuple[str, ...]:
    return tuple("abc"[code] for code in codes.tolist())


def better(dice: Draw, points: float = 0.03, n: int = 1000, gate: Gate = GATE) -> Judgement:
    """One contender that is better than the champion: `DISCORDANT` of the rows are right for one of the two alone."""
    draws = Draws(dice, n)
    old, dealt = draws.answers(), dice.random(n)
    won, lost = (DISCORDANT + points) / 2, (DISCORDANT - points) / 2
    new = numpy.where(old, dealt >= lost / ACCURACY, dealt < won / (1 - ACCURACY))
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, new)], gate, old)


def cheaper(dice: Draw, n: int = 4000, gate: Gate = GATE) -> Judgement:
    """One contender as good as the champion at a tenth of its cost."""
    draws = Draws(dice, n)
    return _against_champion(draws, [draws.contestant("lora", Arm.TUNED, draws.answers(), 0.1)], gate)


def _against_champion(
    draws: Draws, rivals: list[Contestant], gate: Gate, old: Answers | None = None, rows: Rows | None = None
) -> Judgement:
    champion = draws.contestant("old", Arm.TUNED, draws.answers() if old is None else old)
    trivial = draws.contestant("majority", Arm.TRIVIAL, draws.answers(0.3))
    return decide(gate, [*rivals, trivial], champion, rows or Rows())


SCENARIOS: dict[str, Callable[..., Judgement]] = {
    each.__name__: each
    for each in (
        *(one, identical, several, small, first, twenty, cost, economical, slices, clusters, cost_clusters),
        *(macro_f1, macro_f1_traded, macro_f1_cost),
    )
}


def rate_of(
    scenario: Callable[..., Judgement], simulations: int, seed: int, pool: ProcessPoolExecutor | None = None, **more: Any
) -> tuple[float, tuple[float, float]]:
    """The share of bake-offs that publish, and its Wilson interval at 95 %; the same with and without a pool."""
    parts = [range(first, min(first + AT_ONCE, simulations)) for first in range(0, simulations, AT_ONCE)]
    count = partial(_count, scenario, seed, more)
    with progress(f"simulate {scenario.__name__}", simulations) as bar:
        published = 0
        for part, found in zip(parts, (pool.map if pool else map)(count, parts), strict=True):
            published += found
            bar.advance(len(part))
    return published / simulations, wilson(published, simulations, 0.05)


def _count(scenario: Callable[..., Judgement], seed: int, more: dict[str, Any], numbers: Iterable[int]) -> int:
    """How many of these bake-offs publish."""
    return sum(scenario(numpy.random.default_rng([seed, number]), **more).decision is Decision.PUBLISH for number in numbers)


def measure(simulations: int, names: list[str], seed: int = 0, processes: int = 1, margin: float = GATE.margin) -> dict[str, Any]:
    """Every scenario's rate of false promotions, and the power."""
    gate = Gate(margin=margin)
    if processes == 1:
        return _measure(simulations, names, seed, gate, None)
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=logging.disable, initargs=(logging.INFO,)) as pool:
        return _measure(simulations, names, seed, gate, pool)


def _measure(simulations: int, names: list[str], seed: int, gate: Gate, pool: ProcessPoolExecutor | None) -> dict[str, Any]:
    started = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        rate, interval = rate_of(SCENARIOS[name], simulations, seed, pool, gate=gate)
        found[name] = {"false_promotion_rate": rate, "interval": interval, "simulations": simulations}
        say(name, found[name])
    worst = max(found, key=lambda name: found[name]["false_promotion_rate"])
    gain, of_gain = rate_of(better, simulations, seed, pool, gate=gate)
    saved, of_saved = rate_of(cheaper, max(1, simulations // 4), seed, pool, gate=gate)
    return {
        **found[worst],
        "simulations_in_all": sum(each["simulations"] for each in found.values()),
        "worst_scenario": worst,
        "stated_level": gate.alpha / 2,
        "margin": gate.margin,
        "scenarios": found,
        "power_at_3_points": gain,
        "power_at_3_points_interval": of_gain,
        "power_of_equal_quality_at_a_tenth_of_the_cost": saved,
        "power_of_equal_quality_interval": of_saved,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }


def say(name: str, found: dict[str, Any]) -> None:
    """Tell a scenario's figures on standard error, as soon as they are there."""
    low, high = found["interval"]
    line = f"{name:15} {found['false_promotion_rate']:8.2%} [{low:.2%}, {high:.2%}] of {found['simulations']:,}"
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and print a table or JSON; exit status 1 where a scenario is surely above the stated level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=10_000, help="bake-offs a scenario")
    parser.add_argument("--only", default="", help="names of scenarios, by commas")
    parser.add_argument("--margin", type=float, default=GATE.margin, help="gate.margin; by default the gate's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the processes to come
    names = options.only.split(",") if options.only else list(SCENARIOS)
    found = measure(options.simulations, names, options.seed, options.processes, options.margin)
    if options.output == "json":
        print(json.dumps(found, indent=2))
    else:
        print(f"stated level {found['stated_level']:.2%}; power at 3 points {found['power_at_3_points']:.1%}")
    sys.exit(any(each["interval"][0] > found["stated_level"] for each in found["scenarios"].values()))


if __name__ == "__main__":
    main()
