"""Without enough evidence a reader learns what the gate asked for, and how many more rows would tell, on what condition."""

import math
import random
from typing import NamedTuple

import pytest

from tasks.config import Gate
from tasks.records import Arm, Decision
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.decision import NO_ROWS, decide
from tasks.verdict.power import rows_by_interval, rows_to_bound, rows_wanted
from tasks.verdict.statistics import Discordant
from tests.verdict.builders import answers, contestant

BASE = answers(0.8, 4000, 1)
WEAK = contestant("majority", Arm.TRIVIAL, answers(0.5, 4000, 4), dev=0.5, cost=0.0)


def other(right: list[bool], lost: int, won: int) -> list[bool]:
    """The same answers, but for so many rows that are lost and won."""
    rights, wrongs = ([place for place, each in enumerate(right) if each is wanted] for wanted in (True, False))
    changed = {*rights[:lost], *wrongs[:won]}
    return [each is not (place in changed) for place, each in enumerate(right)]


class Told(NamedTuple):
    decision: Decision
    more_rows: int | None
    reason: str


def told(gate: Gate, ours: list[Contestant], champion: Contestant | None, rows: Rows = NO_ROWS) -> Told:
    found = decide(gate, ours, champion, rows)
    return Told(found.decision, found.more_rows, found.reason)


def test_a_gain_that_must_be_larger_than_what_was_seen_is_the_one_that_rows_are_counted_for():
    old, new = contestant("old", Arm.TUNED, BASE[:200]), contestant("lora", Arm.TUNED, other(BASE[:200], 10, 14), dev=0.9)
    found = told(Gate(minimum_gain=0.05), [new, contestant("majority", Arm.TRIVIAL, answers(0.5, 200, 4))], old)
    assert found.more_rows == rows_wanted(Discordant(14, 10, 200), 0.05, 0.05) - 200
    assert (
        f"About {found.more_rows:,} more labelled test rows would tell, if the gain over old (champion) is 5.0 points."
        in found.reason
    )


def test_a_cheaper_one_that_may_be_worse_by_the_margin_is_asked_for_that():
    old, new = contestant("old", Arm.TUNED, BASE, cost=1.0), contestant("lora", Arm.TUNED, other(BASE, 220, 200), dev=0.9, cost=0.1)
    found = told(Gate(), [new, WEAK], old)
    assert found.decision is Decision.NOT_ENOUGH_EVIDENCE
    assert "(as the cheaper one it must surely be less than 1 point worse)" in found.reason
    assert found.more_rows == rows_to_bound(Discordant(200, 220, 4000), 0.005, 0.05) - 4000
    assert (
        f"About {found.more_rows:,} more labelled test rows would tell, if it is 0.5 points worse, as it was here." in found.reason
    )


def test_of_a_cheaper_one_that_seems_worse_by_more_than_the_margin_the_rows_are_told_that_would_show_it():
    old = contestant("old", Arm.TUNED, BASE[:400], cost=1.0)
    new = contestant("lora", Arm.TUNED, other(BASE[:400], 62, 50), dev=0.9, cost=0.1)
    found = told(Gate(), [new, contestant("majority", Arm.TRIVIAL, answers(0.5, 400, 4))], old)
    assert found.decision is Decision.NOT_ENOUGH_EVIDENCE
    assert found.more_rows == rows_to_bound(Discordant(50, 62, 400), 0.02, 0.05) - 400
    assert "if it is 3.0 points worse, as it was here" in found.reason


def test_a_cheaper_one_that_is_as_good_as_the_champion_and_not_surely_better_than_a_trivial_one_is_told_so():
    old, new = contestant("old", Arm.TUNED, BASE, cost=1.0), contestant("lora", Arm.TUNED, other(BASE, 6, 2), dev=0.9, cost=0.1)
    trivial = contestant("tfidf", Arm.TRIVIAL, other(BASE, 290, 250), dev=0.5, cost=0.0)
    found = told(Gate(), [new, trivial], old)
    assert found.decision is Decision.NOT_ENOUGH_EVIDENCE
    assert "(as good within 1 point, and cheaper; but it has no sure lead over the trivial tfidf)" in found.reason
    assert found.more_rows
    assert f"About {found.more_rows:,} more labelled test rows would tell, if the gain over tfidf is 1.0 points." in found.reason


def test_where_two_are_tested_at_once_the_level_that_each_must_pass_is_told():
    old = contestant("old", Arm.TUNED, BASE, cost=1.0)
    new = contestant("few_shot", Arm.PROMPT, other(BASE, 24, 42), dev=0.9, cost=1.0)
    cheap = contestant("lora", Arm.TUNED, other(BASE, 300, 260), dev=0.8, cost=0.1)
    found = told(Gate(), [new, cheap, WEAK], old)
    assert found.decision is Decision.NOT_ENOUGH_EVIDENCE
    assert "p = 0.036 (the gate asks for p < 0.025, since lora is tested at once: each at 0.025)" in found.reason
    assert rows_wanted(Discordant(42, 24, 4000), 0.01, 0.025) < 4000
    assert found.more_rows == rows_wanted(Discordant(42, 24, 4000), 0.0045, 0.025) - 4000
    assert "if the gain over old (champion) is 0.4 points" in found.reason


@pytest.mark.parametrize(
    ("lost", "won", "wanted"),
    [
        (800, 30, None),
        (40, 30, None),
        (190, 180, rows_wanted(Discordant(180, 190, 4000), 0.01, 0.05) - 4000),
    ],
)
def test_one_that_is_no_better_than_a_trivial_one_wants_rows_only_where_it_may_be(lost, won, wanted):
    trivial = contestant("tfidf", Arm.TRIVIAL, BASE, dev=0.5)
    found = told(Gate(), [contestant("lora", Arm.TUNED, other(BASE, lost, won), dev=0.9), trivial], None)
    assert (found.decision, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, wanted)
    assert ("if the gain over tfidf is 1.0 points" in found.reason) == (lost < 800), "one that is surely worse wants none"
    assert ("These rows would most likely have told" in found.reason) == (lost == 40)


@pytest.mark.parametrize(
    ("n", "sizes", "lacking"),
    [
        (10, (), 20),
        (29, (), 1),
        (4000, [200] * 20, 2000),
        (4000, [700] * 5 + [10] * 50, math.ceil(30 * (5 * 700**2 + 50 * 10**2) / 4000) - 4000),
    ],
)
def test_of_fewer_rows_than_the_gate_asks_for_those_that_are_missing_are_told(n, sizes, lacking):
    rows = Rows(tuple(number for number, size in enumerate(sizes) for _ in range(size)) or None)
    new, trivial = contestant("lora", Arm.TUNED, BASE[:n], dev=0.9), contestant("majority", Arm.TRIVIAL, answers(0.5, n, 4))
    found = told(Gate(), [new, trivial], None, rows)
    assert (found.decision, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, lacking)
    assert found.reason.endswith(f"and the gate asks for 30: at least {found.more_rows:,} more labelled test rows are needed.")


def test_where_something_else_is_odd_no_rows_are_missing():
    silent = contestant("lora", Arm.TUNED, [False] * 400, dev=0.9, failed=400)
    found = told(Gate(), [silent, contestant("majority", Arm.TRIVIAL, answers(0.5, 400, 4))], None)
    assert (found.decision, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, None)


RARE = Rows(slices={"label": ("rare",) * 3 + ("scarce",) * 40 + ("common",) * 3957})
BETTER = contestant("lora", Arm.TUNED, other(BASE, 0, 400), dev=0.9)


def test_where_guards_alone_are_missing_the_rows_are_told_that_the_one_wants_which_wants_most():
    champion = contestant("old", Arm.TUNED, BASE)
    found = decide(Gate(slices=["label"], slice_rows=2), [BETTER, WEAK], champion, RARE)
    most = max((math.ceil(each.more_rows * 4000 / each.n), each.what) for each in found.guards if not each.held)
    assert (found.decision, (found.more_rows, "label = rare")) == (Decision.NOT_ENOUGH_EVIDENCE, most)
    share = "if as large a share of them counts for label = rare as of these"
    assert f"About {found.more_rows:,} more labelled test rows would tell, {share}." in found.reason
    assert "more such rows would tell" in found.reason


def test_a_guard_short_of_rows_is_not_what_is_missing_where_the_gain_is_too_little():
    little = contestant("lora", Arm.TUNED, other(BASE, 0, 60), dev=0.9)
    found = told(Gate(slices=["label"], slice_rows=2, minimum_gain=0.018), [little, WEAK], contestant("old", Arm.TUNED, BASE), RARE)
    assert (found.decision, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, None)


def test_one_without_probabilities_is_not_helped_by_rows():
    gate = Gate(brier_margin=0.02, slices=["label"], slice_rows=2)
    found = told(gate, [BETTER, WEAK], contestant("old", Arm.TUNED, BASE), RARE)
    assert (found.decision, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, None)


def test_two_guards_that_want_as_many_rows_are_told_like_one():
    rows = Rows(slices=dict.fromkeys(("city", "label"), ("rare",) * 3 + ("common",) * 3997))
    found = told(Gate(slices=["city", "label"], slice_rows=2), [BETTER, WEAK], contestant("old", Arm.TUNED, BASE), rows)
    assert found.more_rows
    assert "counts for city = rare as of these" in found.reason


def test_calibration_that_is_not_sure_says_how_many_rows_would_tell():
    dice = random.Random(0)
    one, champion = (
        Contestant(each.scores, each.examples, each.correct, (), (), tuple(dice.choice((0.3, 0.9)) for _ in each.correct))
        for each in (contestant(name, Arm.TUNED, answers(share, 400, 1), dev=0.9) for name, share in (("lora", 0.9), ("old", 0.7)))
    )
    found = decide(Gate(brier_margin=0.01), [one, contestant("majority", Arm.TRIVIAL, answers(0.5, 400, 4))], champion)
    (guard,) = found.guards
    assert (found.decision, guard.held, found.more_rows) == (Decision.NOT_ENOUGH_EVIDENCE, None, guard.more_rows)
    assert guard.difference < 0.01 < guard.interval[1]
    error = (guard.interval[1] - guard.interval[0]) / 2 / 1.959964
    wanted = 400 * ((1.959964 + 0.841621) * error / (0.01 - max(guard.difference, 0))) ** 2
    assert guard.more_rows == pytest.approx(max(1, wanted - 400), abs=2)


def test_by_an_interval_the_half_step_shrinks_with_the_rows_and_the_rest_with_their_root():
    n, error, half, gain = 300, 0.03, 1 / 300, 0.05
    width = 1.959964 * error + half
    wanted = n + rows_by_interval(n, (0.02 - width, 0.02 + width), half, gain, 0.05)
    assert (1.959964 + 0.841621) * error * (n / wanted) ** 0.5 + half * n / wanted == pytest.approx(gain, rel=0.002)
    plain = n + rows_by_interval(n, (0.02 - width + half, 0.02 + width - half), 0.0, gain, 0.05)
    assert plain == pytest.approx(n * ((1.959964 + 0.841621) * error / gain) ** 2, abs=1)
    assert plain < wanted < 1.2 * plain
