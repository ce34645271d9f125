"""The gate decides by the design's rules, and fails closed."""

import itertools
import math
import random

import pytest

from tasks.config import Gate
from tasks.records import Arm, Decision
from tasks.verdict.contestants import Contestant
from tasks.verdict.decision import decide
from tests.verdict.builders import answers, contestant

PUBLISH, KEEP, UNSURE = Decision.PUBLISH, Decision.KEEP_CHAMPION, Decision.NOT_ENOUGH_EVIDENCE
GATE = Gate()


def field(lora=0.8, few_shot=0.7, tfidf=0.65, majority=0.5, n=500) -> list[Contestant]:
    """One contestant an arm and one more, whose dev accuracies are in the order of their names here."""
    return [
        contestant("lora", Arm.TUNED, answers(lora, n, 1), dev=0.8),
        contestant("few_shot", Arm.PROMPT, answers(few_shot, n, 2), dev=0.7),
        contestant("tfidf", Arm.TRIVIAL, answers(tfidf, n, 3), dev=0.65),
        contestant("majority", Arm.TRIVIAL, answers(majority, n, 4), dev=0.5),
    ]


def with_scores(each: Contestant, **test) -> Contestant:
    return Contestant(
        each.scores.model_copy(update={"test": each.scores.test.model_copy(update=test)}), each.examples, each.correct
    )


def test_without_a_champion_the_best_on_dev_is_published_when_it_beats_the_trivial_ones():
    judgement = decide(GATE, field(), None)
    assert (judgement.decision, judgement.winner) == (PUBLISH, "lora")
    assert (judgement.comparison.contender, judgement.comparison.against) == ("lora", "tfidf")
    assert judgement.comparison.difference == pytest.approx(0.15)
    assert [comparison.against for comparison in judgement.comparisons] == ["few_shot", "tfidf", "majority"]
    assert "80.0 % on 500 test rows, 15.0 points more than tfidf [" in judgement.reason


def test_the_candidate_is_chosen_on_dev_though_another_is_better_on_test():
    judgement = decide(GATE, field(lora=0.75, few_shot=0.9), None)
    assert (judgement.decision, judgement.winner) == (PUBLISH, "lora")


def test_every_trivial_contender_must_be_beaten_not_just_the_one_that_is_best_on_dev():
    contestants = field(tfidf=0.79)
    tfidf = next(each for each in contestants if each.name == "tfidf")
    worse_on_dev = tfidf.scores.model_copy(update={"dev": tfidf.scores.dev.model_copy(update={"accuracy": 0.4})})
    others = [each for each in contestants if each.name != "tfidf"]
    judgement = decide(GATE, [*others, Contestant(worse_on_dev, tfidf.examples, tfidf.correct)], None)
    assert [each.name for each in judgement.contenders if each.finalist and each.arm == "trivial"] == ["majority"]
    assert judgement.decision == UNSURE
    assert judgement.comparison.against == "tfidf"


def test_dev_picks_one_finalist_an_arm():
    contestants = [*field(), contestant("lora_small", Arm.TUNED, answers(0.95), dev=0.79)]
    judgement = decide(GATE, contestants, None)
    assert {line.name for line in judgement.contenders if line.finalist} == {"lora", "few_shot", "tfidf"}
    assert judgement.winner == "lora"


def test_a_tie_on_dev_goes_to_the_cheaper_then_to_the_earlier_name():
    def finalist(*costs):
        tied = [
            contestant(name, Arm.TUNED, answers(0.8), dev=0.8, cost=cost)
            for name, cost in zip(("anna", "bert", "carl"), costs, strict=True)
        ]
        return decide(GATE, [*tied, *field()[1:]], None).winner

    assert finalist(0.03, 0.02, 0.01) == "carl"
    assert finalist(0.01, 0.01, 0.02) == "anna"
    assert finalist(None, None, 0.5) == "carl"


def test_a_bake_off_that_the_trivial_ones_win_says_so():
    judgement = decide(GATE, field(lora=0.6, tfidf=0.7), None)
    assert (judgement.decision, judgement.winner) == (UNSURE, None)
    assert judgement.reason.startswith("No contender beats the trivial tfidf: lora")


def test_a_lead_that_may_be_luck_is_not_enough():
    judgement = decide(GATE, field(lora=0.67), None)
    assert (judgement.decision, judgement.winner) == (UNSURE, None)
    assert judgement.comparison.p_value >= 0.05
    assert "asks for p < 0.05" in judgement.reason


def test_a_significant_lead_below_the_minimum_gain_is_not_enough():
    judgement = decide(Gate(minimum_gain=0.2), field(), None)
    assert (judgement.decision, judgement.winner) == (UNSURE, None)
    assert "gain of 20.0 points" in judgement.reason


def test_a_tie_on_test_is_not_enough():
    same = answers(0.7)
    contestants = [contestant("lora", Arm.TUNED, same, dev=0.8), contestant("tfidf", Arm.TRIVIAL, same, dev=0.6)]
    judgement = decide(GATE, contestants, None)
    assert (judgement.decision, judgement.winner, judgement.comparison.p_value) == (UNSURE, None, 1)
    assert "as much as tfidf" in judgement.reason


def test_the_same_bake_off_again_keeps_the_champion_with_the_same_winner_and_comparison():
    first = decide(GATE, field(), None)
    again = decide(GATE, field(), field()[0])
    assert (again.decision, again.winner) == (KEEP, first.winner)
    assert (again.comparison, again.comparisons, again.contenders) == (first.comparison, first.comparisons, first.contenders)


def test_the_champion_that_is_the_candidate_stays_even_without_a_sure_lead():
    judgement = decide(GATE, field(lora=0.66), field(lora=0.66)[0])
    assert (judgement.decision, judgement.winner) == (KEEP, "lora")
    assert "no sure lead over the trivial tfidf" in judgement.reason


@pytest.mark.parametrize(
    ("share", "decision", "winner"), [(0.6, PUBLISH, "lora"), (0.9, KEEP, "old"), (0.79, UNSURE, None), (0.8, UNSURE, None)]
)
def test_against_another_champion(share, decision, winner):
    judgement = decide(GATE, field(), contestant("old", Arm.TUNED, answers(share, seed=9)))
    assert (judgement.decision, judgement.winner) == (decision, winner)
    assert judgement.comparison.against == "old (champion)"
    assert judgement.comparison in judgement.comparisons
    assert {line.name for line in judgement.contenders} == {"lora", "few_shot", "tfidf", "majority"}


def test_a_champion_that_is_surely_not_worse_by_the_minimum_gain_stays():
    judgement = decide(Gate(minimum_gain=0.1), field(), contestant("old", Arm.TUNED, answers(0.78, seed=1)))
    assert judgement.comparison.difference > 0
    assert judgement.comparison.interval[1] <= 0.1
    assert (judgement.decision, judgement.winner) == (KEEP, "old")


def test_a_champion_with_a_contenders_name_is_another_contender_all_the_same():
    old = contestant("lora", Arm.TUNED, answers(0.5, seed=9), fingerprint="made from older rows")
    judgement = decide(GATE, field(), old)
    assert (judgement.decision, judgement.winner) == (PUBLISH, "lora")
    assert judgement.comparison.against == "lora (champion)"


def test_a_champion_that_is_another_finalist_of_this_run_is_compared_once():
    judgement = decide(GATE, field(), field()[1])
    assert (judgement.decision, judgement.winner) == (PUBLISH, "lora")
    assert [comparison.against for comparison in judgement.comparisons] == ["few_shot", "tfidf", "majority"]
    assert judgement.comparison.against == "few_shot"


def test_a_new_champion_that_is_no_better_than_a_trivial_one_is_published_with_a_warning():
    judgement = decide(GATE, field(lora=0.65, tfidf=0.66), contestant("old", Arm.PROMPT, answers(0.4, seed=9)))
    assert (judgement.decision, judgement.winner) == (PUBLISH, "lora")
    assert "the trivial tfidf does no worse" in judgement.reason


@pytest.mark.parametrize("champion", [None, contestant("old", Arm.TUNED, answers(0.6, seed=9))])
def test_the_order_of_contestants_does_not_matter(champion):
    contestants = [*field(), contestant("zero_shot", Arm.PROMPT, answers(0.7, seed=5), dev=0.7)]
    judgements = [decide(GATE, order, champion) for order in itertools.permutations(contestants)]
    assert all(judgement == judgements[0] for judgement in judgements)


NAN_FIGURES = [{"accuracy": math.nan}, {"interval": (math.nan, 1.0)}, {"macro_f1": math.nan}, {"cost_usd_per_1000": math.inf}]


@pytest.mark.parametrize("figure", NAN_FIGURES)
@pytest.mark.parametrize("place", range(4))
def test_a_figure_that_is_no_number_fails_closed_wherever_it_is(figure, place):
    contestants = field()
    contestants[place] = with_scores(contestants[place], **figure)
    name = contestants[place].name
    for order in (contestants, contestants[::-1]):
        judgement = decide(GATE, order, None)
        assert (judgement.decision, judgement.winner, judgement.comparison) == (UNSURE, None, None)
        assert f"a score of {name} is missing or not a number" in judgement.reason


def test_nan_on_dev_fails_closed():
    contestants = field()
    spoiled = contestants[0].scores.dev.model_copy(update={"accuracy": math.nan})
    contestants[0] = Contestant(
        contestants[0].scores.model_copy(update={"dev": spoiled}), contestants[0].examples, contestants[0].correct
    )
    assert decide(GATE, contestants, None).decision is UNSURE


def test_a_champion_whose_score_is_no_number_fails_closed():
    champion = with_scores(contestant("old", Arm.TUNED, answers(0.1)), accuracy=math.nan)
    assert decide(GATE, field(), champion).decision is UNSURE


def test_a_row_without_a_score_fails_closed():
    lora, *others = field()
    holed = Contestant(lora.scores, lora.examples, (None, *lora.correct[1:]))
    judgement = decide(GATE, [holed, *others], None)
    assert judgement.decision is UNSURE
    assert "lora has test rows without a score" in judgement.reason


def test_a_lost_row_fails_closed():
    lora, *others = field()
    assert decide(GATE, [Contestant(lora.scores, lora.examples[1:], lora.correct[1:]), *others], None).decision is UNSURE


@pytest.mark.parametrize(
    "rows", [("other", *(f"row {index}" for index in range(1, 500))), tuple(f"row {i}" for i in range(499, -1, -1))]
)
def test_other_rows_or_another_order_of_them_fails_closed(rows):
    lora, *others = field()
    judgement = decide(GATE, [Contestant(lora.scores, rows, lora.correct), *others], None)
    assert judgement.decision is UNSURE
    assert "on other test rows" in judgement.reason


@pytest.mark.parametrize("n", [2, 10, 29])
def test_too_few_rows_fail_closed_even_when_the_lead_is_clear(n):
    judgement = decide(GATE, field(lora=1, few_shot=0, tfidf=0, majority=0, n=n), None)
    assert (judgement.decision, judgement.winner) == (UNSURE, None)
    assert f"test has {n} rows, and the gate asks for 30" in judgement.reason


def test_enough_rows_for_the_gate_may_be_few():
    assert decide(Gate(minimum_rows=10), field(lora=1, few_shot=0, tfidf=0, majority=0, n=10), None).decision is PUBLISH


def test_a_finalist_without_a_single_usable_answer_fails_closed():
    contestants = field()
    contestants[1] = contestant("few_shot", Arm.PROMPT, [False] * 500, dev=0.7, failed=500)
    judgement = decide(GATE, contestants, None)
    assert judgement.decision is UNSURE
    assert "few_shot has no usable answer on any test row" in judgement.reason


def test_a_champion_that_cannot_answer_is_not_beaten_by_that():
    champion = contestant("old", Arm.PROMPT, [False] * 500, failed=500)
    assert decide(GATE, field(), champion).decision is UNSURE


@pytest.mark.parametrize("kept", [[0, 1], [2, 3], []])
def test_both_sides_of_the_comparison_are_needed(kept):
    judgement = decide(GATE, [field()[place] for place in kept], None)
    assert (judgement.decision, judgement.winner) == (UNSURE, None)


def test_whatever_is_published_was_significant_and_by_enough():
    dice = random.Random(0)
    for _ in range(60):
        n = dice.choice([30, 60, 300])
        shares = {name: dice.random() for name in ("lora", "few_shot", "tfidf", "majority")}
        gate = Gate(minimum_gain=dice.choice([0, 0.05]))
        champion = dice.choice([None, contestant("old", Arm.TUNED, answers(dice.random(), n, 8))])
        judgement = decide(gate, field(**shares, n=n), champion)
        if judgement.decision is PUBLISH:
            assert judgement.winner == "lora"
            assert judgement.comparison.p_value < 0.05
            assert judgement.comparison.difference >= max(gate.minimum_gain, 1e-9)
        else:
            assert judgement.winner == (champion.name if judgement.decision is KEEP else None)


def test_a_champion_that_stays_is_told_from_a_contender_of_the_same_name():
    reigning = contestant("lora", Arm.TUNED, answers(0.95, 500, 9), dev=0.9)
    reigning = Contestant(reigning.scores.model_copy(update={"of": "another"}), reigning.examples, reigning.correct)
    judgement = decide(GATE, field(), reigning)
    assert (judgement.decision, judgement.winner) == (KEEP, "lora (champion)")
