"""Everybody at the gate: who may become champion, and any two of them compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tasks.config import Gate, Metric
from tasks.records import Arm, Comparison, Guard, Scores
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.guards import find_guards
from tasks.verdict.measures import macro_f1_sums
from tasks.verdict.power import SMALLEST, rows_by_interval, rows_to_bound, rows_wanted
from tasks.verdict.resampling import counted_interval, permutation_p
from tasks.verdict.statistics import compare, pair
from tasks.verdict.wording import champion_label

BOOTSTRAP = "permutation and BCa bootstrap"


@dataclass(frozen=True)
class MoreRows:
    """How many more labelled test rows would tell."""

    rows: int | None
    """None where those that are there would most likely have told."""
    on: str
    """On what condition, in words: `if the gain over tfidf is 2.0 points`."""


class Odd(NamedTuple):
    """What forbids a decision."""

    words: str
    more_rows: int | None = None
    """How many more test rows are needed; None where it is not rows that are missing."""


@dataclass(frozen=True)
class Field:
    """Everybody at the gate, and what has been compared so far."""

    gate: Gate
    ranked: Sequence[Contestant]
    """This run's contenders, the best on dev first."""
    champion: Contestant | None
    rows: Rows

    @cached_property
    def made(self) -> dict[tuple[str, str, float], Comparison]:
        """The comparisons in the order in which they were made, by the two's names and the level."""
        return {}

    @property
    def comparisons(self) -> list[Comparison]:
        """At alpha: for the verdict."""
        return [found for (_, _, level), found in self.made.items() if level == self.gate.alpha]

    @cached_property
    def finalists(self) -> list[Contestant]:
        """The best on dev of each arm, best first."""
        best: dict[Arm, Contestant] = {}
        for each in self.ranked:
            best.setdefault(each.scores.arm, each)
        return list(best.values())

    @cached_property
    def candidate(self) -> Contestant:
        return next(each for each in self.finalists if not each.trivial)

    @cached_property
    def economical(self) -> Contestant | None:
        """The best on dev of the finalists that are cheaper than the candidate by enough; None where there is none."""
        others = [each for each in self.finalists if not each.trivial and self.is_cheaper(each, self.candidate)]
        return others[0] if others else None

    @property
    def trivial(self) -> list[Contestant]:
        return [each for each in self.ranked if each.trivial]

    def label(self, each: Contestant) -> str:
        """What a contender is called: a champion that is one of this run's bears its name there, another may have the same."""
        ours = next((other.name for other in self.ranked if other.scores.of == each.scores.of), None)
        return ours or champion_label(each.name)

    def is_cheaper(self, one: Contestant, other: Contestant) -> bool:
        """By enough, and both costs are known; never where the gate leaves costs out."""
        if not self.gate.margin or one.cost is None or other.cost is None:
            return False
        return one.cost < other.cost and one.cost <= (1 - self.gate.cheaper_by) * other.cost

    def against(self, one: Contestant, other: Contestant, level: float | None = None) -> Comparison:
        """The two compared, with intervals at 1 - level (alpha, if it is not given)."""
        key = one.name, self.label(other), level or self.gate.alpha
        if key not in self.made:
            self.made[key] = self._compare(one, other, key[2])
        return self.made[key]

    def is_better(self, one: Contestant, other: Contestant, level: float | None = None) -> bool:
        """Significantly, by however little."""
        found = self.against(one, other, level)
        surely = found.test != BOOTSTRAP or found.interval[0] > 0
        return found.p_value < (level or self.gate.alpha) and found.difference > 0 and surely

    def beats(self, one: Contestant, other: Contestant, level: float | None = None) -> bool:
        """Significantly, and by the gain that is asked for: the margin at least where the other is cheaper by enough."""
        return self.is_better(one, other, level) and self.against(one, other).difference >= self.needed(one, other)

    def is_as_good(self, one: Contestant, other: Contestant, level: float | None = None) -> bool:
        """Shown to be less than the margin worse."""
        return self.against(one, other, level).interval[0] > -self.gate.margin

    def needed(self, one: Contestant, other: Contestant) -> float:
        """The gain that the one must show over the other."""
        return max(self.gate.minimum_gain, self.gate.margin if self.is_cheaper(other, one) else 0.0)

    def beats_trivial(self, one: Contestant) -> bool:
        """Whether it beats each of the trivial contenders."""
        return all(self.beats(one, each) for each in self.trivial)

    def hardest(self, one: Contestant) -> Contestant:
        """The trivial contender that is hardest to beat for one."""
        return min(self.trivial, key=lambda each: (self.beats(one, each), self.against(one, each).difference))

    def more_rows(self, one: Contestant, other: Contestant, level: float | None = None) -> MoreRows | None:
        """How many more test rows would tell whether the one passes: that it is better, or where it is cheaper than the champion by
        enough, that it is as good (and better than every trivial contender); None where it is not rows that are missing."""
        found, level = self.against(one, other), level or self.gate.alpha
        if self.champion is other and self.is_cheaper(one, other):
            if not self.is_as_good(one, other, level):
                worse = max(0.0, -found.difference)  # a lead on few rows is not planned with
                seen = f"{100 * worse:.1f} points worse, as it was here" if worse else "no worse"
                return self._more_rows(one, other, level, self.gate.margin - worse, f"if it is {seen}")
            return None if self.beats_trivial(one) else self.more_rows(one, self.hardest(one))
        if self.is_better(one, other, level) or (found.p_value < self.gate.alpha and found.difference < 0):
            return None  # what is missing is gain, or a guard that holds; or it is worse
        asked = max(found.difference, self.needed(one, other))
        for gain in (max(asked, SMALLEST), asked):  # these rows may be enough for the smallest gain, and not for what was seen
            more = self._more_rows(one, other, level, gain, f"if the gain over {found.against} is {100 * gain:.1f} points")
            if more.rows or asked <= 0:
                break
        return more

    def _more_rows(self, one: Contestant, other: Contestant, level: float, distance: float, on: str) -> MoreRows:
        """Rows that would show, at a level, that what was seen is not `distance` away from the truth."""
        found = self.against(one, other, level)
        if self.gate.metric is Metric.MACRO_F1:
            sums = macro_f1_sums(one, other)
            assert sums  # find_odd has seen to it
            half_step = sums.by_cluster(self.rows.codes()).half_step()
            more = rows_by_interval(found.n, found.interval, half_step, abs(distance), level)
            return MoreRows(more if more > 0 else None, on)
        counts = pair(one.right, other.right, self.rows.clusters)
        bound = self.champion is other and self.is_cheaper(one, other)
        wanted = (rows_to_bound if bound else rows_wanted)(counts.effective, abs(distance), level)
        more = math.ceil(wanted * counts.counts.n / counts.effective.n) - found.n
        return MoreRows(more if more > 0 else None, on)

    def guards(self, one: Contestant) -> list[Guard]:
        assert self.champion
        return find_guards(self.gate, one, self.champion, self.label(self.champion), self.rows)

    def more_rows_to_guard(self, guards: Sequence[Guard]) -> MoreRows | None:
        """How many more test rows would bring the guards that have not held as many as they lack; None where none would."""
        all_rows = len(self.candidate.examples)
        lost = [guard for guard in guards if guard.held is not True]
        wanted = {guard.what: math.ceil(guard.more_rows * all_rows / guard.n) for guard in lost if guard.more_rows and guard.n}
        if not wanted or any(not guard.n for guard in lost):  # what no row tells, more of them do not
            return None
        most = max(wanted, key=wanted.__getitem__)
        return MoreRows(wanted[most], f"if as large a share of them counts for {most} as of these")

    def _compare(self, one: Contestant, other: Contestant, level: float) -> Comparison:
        found = compare(one.name, one.right, self.label(other), other.right, level, self.rows.clusters)
        if self.gate.metric is Metric.ACCURACY:
            return found
        sums = macro_f1_sums(one, other)
        assert sums  # find_odd has seen to it
        whole = sums.by_cluster(self.rows.codes())
        difference = sums.difference()
        return found.model_copy(
            update={
                "metric": self.gate.metric.value,
                "test": BOOTSTRAP,
                "difference": difference,
                "interval": counted_interval(whole, level) or (-1.0, 1.0),  # where no resample differs nothing is sure
                "p_value": permutation_p(whole),
            }
        )


def find_odd(field: Field) -> Odd | None:
    """What forbids a decision; None when nothing does."""
    gate, everyone = field.gate, [*field.ranked, *([field.champion] if field.champion else [])]
    for each in everyone:
        wanted = each.scores.dev.by(gate.metric), each.scores.test.by(gate.metric)
        if None in wanted or not (_sound(each.scores.dev) and _sound(each.scores.test)):
            return Odd(f"a score of {each.name} is missing or not a number")
        if None in each.correct or len(each.correct) != each.scores.test.n or len(each.examples) != each.scores.test.n:
            return Odd(f"{each.name} has test rows without a score")
        if gate.metric is Metric.MACRO_F1 and macro_f1_sums(each, each) is None:
            return Odd(f"{each.name} has test rows without a label to compare with")
    if not field.trivial or len(field.trivial) == len(field.ranked):
        return Odd("there must be a trivial contender and one that is not")
    rows = everyone[0].examples
    strays = [each.name for each in everyone if each.examples != rows]
    if strays:
        return Odd(f"{strays[0]} was scored on other test rows than {everyone[0].name}")
    champion = [field.champion] if field.champion else []
    return _few(gate, len(rows), field.rows) or _silent([*field.finalists, *champion], field.champion)


def _few(gate: Gate, rows: int, known: Rows) -> Odd | None:
    if known.clusters is not None and len(known.clusters) != rows:
        return Odd(f"{len(known.clusters)} test rows have a cluster, and {rows} were scored")
    if known.clusters is not None:
        there, worth = len(set(known.clusters)), known.worth(range(rows))
        if worth < gate.minimum_rows:
            unequal = f", of sizes so unequal that they are worth {worth:.1f}" if there >= gate.minimum_rows else ""
            return _lacking(gate, f"{there} clusters of rows{unequal}", known.lacking(range(rows), gate.minimum_rows))
    if rows < gate.minimum_rows:
        return _lacking(gate, f"{rows} rows", gate.minimum_rows - rows)
    if any(len(values) != rows for values in known.slices.values()):
        return Odd("the slices are of other rows than were scored")
    return None


def _lacking(gate: Gate, there: str, more: int) -> Odd:
    needed = f"at least {more:,} more labelled test rows are needed"
    return Odd(f"test has {there}, and the gate asks for {gate.minimum_rows}: {needed}", more)


def _silent(finalists: Sequence[Contestant], champion: Contestant | None) -> Odd | None:
    silent = next((each for each in finalists if each.scores.test.failed >= each.scores.test.n), None)
    if silent is None:
        return None
    ways = ": bring its endpoint back, or take back an earlier champion (bakeoff champion rollback)" if silent is champion else ""
    return Odd(f"{silent.name} has no usable answer on any test row, which says nothing about it{ways}")


def _sound(scores: Scores) -> bool:
    """All figures that are there are numbers, and shares lie between 0 and 1."""
    optional = [scores.macro_f1, scores.brier, scores.ece]
    shares = [scores.accuracy, *scores.interval, *(value for value in optional if value is not None)]
    others = [scores.cost_usd_per_1000, scores.latency_ms.p50, scores.latency_ms.p95]
    return all(0 <= share <= 1 for share in shares) and all(value is None or 0 <= value < math.inf for value in others)
