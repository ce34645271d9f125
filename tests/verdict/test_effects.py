"""What techniques do is measured against the endpoint's plain prompt on the same rows, and told plainly, be it much or nothing."""

import math
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tasks.config import Gate, Prompt
from tasks.data.predictions import write_table
from tasks.evaluation.cost import usd_per_1000
from tasks.evaluation.scores import Evaluation
from tasks.records import Arm, Effect, Failure, Prediction, PredictionsRecord, ScoresRecord, Verdict
from tasks.verdict.contestants import Contestant
from tasks.verdict.effects import (
    Prompted,
    Reviews,
    count_reviews,
    dollars_per_point,
    find_best_prompts,
    find_effects,
    find_format_spread,
    read_prompted,
)
from tasks.verdict.effects_report import effect_rows, effect_words
from tasks.verdict.judge import judge
from tasks.verdict.report import markdown_verdict
from tests.verdict.builders import contestant, scores
from tests.verdict.test_report import NASTY, shown, verdict

BASELINE = [True] * 10 + [False] * 10
"""Of 20 rows the first half right."""


def prompted(
    name: str, techniques: str = "zero_shot", correct=BASELINE, *, endpoint="local", dev=0.5, cost: float | None = 0.01, **more
) -> Prompted:
    """A prompted contender; `techniques` as `few_shot + persona`, `more` for the prompt's other fields."""
    prompt = Prompt(name=name, endpoint=endpoint, techniques=techniques.split(" + "), **more)
    return Prompted(prompt, contestant(name, Arm.PROMPT, correct, dev=dev, cost=cost), input_tokens=100, output_tokens=5)


def better(gained: int, lost: int = 0) -> list[bool]:
    """The baseline's answers with so many more right, and so many of its right ones wrong."""
    return [False] * lost + [True] * (10 - lost + gained) + [False] * (10 - gained)


def effects(*contenders: Prompted) -> dict[str, Effect]:
    return {effect.contender: effect for effect in find_effects(contenders, 0.05)}


def with_effects(*contenders: Prompted) -> Verdict:
    return verdict(
        effects=find_effects(contenders, 0.05),
        format_spread=find_format_spread(contenders),
        best_prompts=find_best_prompts(contenders),
    )


def test_an_effect_is_the_paired_difference_from_the_plain_prompt():
    found = effects(prompted("plain"), prompted("few", "few_shot", better(gained=8, lost=1)))["few"]
    assert found.baseline == "plain"
    assert (found.comparison.only_contender, found.comparison.only_against, found.comparison.n) == (8, 1, 20)
    assert found.comparison.difference == pytest.approx(0.35)
    assert found.comparison.p_value == found.p_holm == pytest.approx(2 * (1 + 9) / 2**9)
    assert found.comparison.interval[0] < 0.35 < found.comparison.interval[1]
    assert found.finding == "gain"
    assert effect_words(found).startswith("gain: +35.0 [")


def test_holm_counts_every_effect_of_the_run_over_all_endpoints():
    contenders = [
        prompted("plain"),
        prompted("six", "few_shot", better(gained=6)),
        prompted("plain_far", endpoint="far"),
        prompted("nine", "few_shot", better(gained=8, lost=1), endpoint="far"),
        prompted("none", "persona", BASELINE, endpoint="far"),
    ]
    found = effects(*contenders)
    assert [found[name].comparison.p_value for name in ("six", "nine", "none")] == pytest.approx([2 / 2**6, 20 / 2**9, 1])
    assert [found[name].p_holm for name in ("six", "nine", "none")] == pytest.approx([3 * 2 / 2**6, 3 * 2 / 2**6, 1])
    assert [found[name].finding for name in ("six", "nine", "none")] == ["none"] * 3
    assert effects(*contenders[:2])["six"].finding == "gain"


def test_equal_answers_are_a_null_and_shown_as_one():
    found = effects(prompted("plain"), prompted("persona", "persona"))["persona"]
    assert (found.comparison.difference, found.comparison.p_value, found.finding) == (0, 1, "none")
    assert (found.usd_per_point, found.extra_usd_per_1000) == (None, 0)
    assert effect_words(found).startswith("no difference found: +0.0 [-")
    text = shown(with_effects(prompted("plain"), prompted("persona", "persona")))
    line = next(line for line in text.splitlines() if line.startswith("persona"))
    assert "no difference found: +0.0 [-23.6, +23.6]" in line
    assert line.split()[-2:] == ["—", "+0.0"]


def test_a_gain_that_may_be_luck_has_no_price_for_people():
    made = with_effects(prompted("plain"), prompted("few", "few_shot", better(gained=2), cost=0.03))
    assert made.effects[1].usd_per_point == pytest.approx(0.02 / 10)
    assert next(line for line in shown(made).splitlines() if line.startswith("few ")).split()[-2] == "—"
    sure = with_effects(prompted("plain"), prompted("few", "few_shot", better(gained=10), cost=0.03))
    assert next(line for line in shown(sure).splitlines() if line.startswith("few ")).split()[-2] == "0.0004"


def test_a_loss_is_called_one():
    found = effects(prompted("plain"), prompted("worse", "persona", better(gained=0, lost=8)))["worse"]
    assert (found.finding, found.usd_per_point) == ("loss", None)
    assert effect_words(found).startswith("loss: -40.0 [")


def test_without_a_plain_prompt_the_one_with_the_fewest_techniques_is_the_baseline_and_is_named():
    contenders = [prompted("stack", "few_shot + persona"), prompted("single", "zero_shot + few_shot")]
    found = effects(*contenders)
    assert [effect.baseline for effect in found.values()] == ["single", "single"]
    assert (found["single"].comparison, found["single"].p_holm, found["single"].finding) == (None, None, None)
    assert effect_words(found["single"]) == "baseline, not plain: 50.0 %"


def test_each_endpoint_has_its_own_baseline_and_stacks_follow_their_parts():
    order = ["far few_shot + persona", "near few_shot", "far few_shot", "far zero_shot", "near zero_shot", "far persona"]
    contenders = [
        prompted(f"c{place}", techniques, endpoint=endpoint)
        for place, (endpoint, techniques) in enumerate(each.split(" ", 1) for each in order)
    ]
    found = find_effects(contenders, 0.05)
    assert [effect.contender for effect in found] == ["c3", "c2", "c5", "c0", "c4", "c1"]
    assert [effect.baseline for effect in found] == ["c3"] * 4 + ["c4"] * 2


@pytest.mark.parametrize(
    ("extra", "difference", "expected"),
    [(0.5, 0.1, 0.05), (0.5, 0.0, None), (0.5, -0.1, None), (None, 0.1, None), (-0.5, 0.1, 0.0), (0.0, 0.1, 0.0)],
)
def test_dollars_per_point_are_never_negative_or_infinite(extra, difference, expected):
    assert dollars_per_point(extra, difference) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("cost", [None, math.inf, math.nan])
def test_an_unknown_cost_gives_no_price_of_a_point(cost):
    for contenders in (
        (prompted("plain", cost=cost), prompted("few", "few_shot", better(9))),
        (prompted("plain"), prompted("few", "few_shot", better(9), cost=cost)),
    ):
        found = effects(*contenders)["few"]
        assert (found.extra_usd_per_1000, found.usd_per_point, found.finding) == (None, None, "gain")


def test_the_price_of_a_point_is_the_extra_cost_over_the_points():
    found = effects(prompted("plain", cost=0.10), prompted("few", "few_shot", better(gained=5), cost=0.35))["few"]
    assert found.extra_usd_per_1000 == pytest.approx(0.25)
    assert found.usd_per_point == pytest.approx(0.25 / 25)


@pytest.mark.parametrize("odd", ["other rows", "no score"])
def test_answers_that_cannot_be_paired_give_no_effect(odd):
    few = prompted("few", "few_shot", better(9))
    rows = (*few.contestant.examples[1:], "a stray")
    correct = (None, *few.contestant.correct[1:])
    changed = {"other rows": (rows, few.contestant.correct), "no score": (few.contestant.examples, correct)}[odd]
    found = effects(prompted("plain"), Prompted(few.prompt, Contestant(few.contestant.scores, *changed)))["few"]
    assert (found.comparison, found.p_holm, found.finding, found.usd_per_point) == (None, None, None, None)
    assert effect_words(found) == "no scores on the baseline's rows"


def test_the_gap_is_dev_less_test():
    assert effects(prompted("opt", "optimized", dev=0.8))["opt"].dev_gap == pytest.approx(0.3)
    assert "opt: 80.0 % on dev, 50.0 % on test" in shown(with_effects(prompted("opt", "optimized", dev=0.8)))


def test_a_review_is_counted_both_ways():
    rows = [
        {"draft": draft, "reference": "a", "correct": correct}
        for draft, correct in [("b", True), (None, True), ("b", False), ("a", False), ("a", True), (None, False), ("a", False)]
    ]
    assert count_reviews(rows) == Reviews(repaired=2, damaged=2)
    assert count_reviews([{"draft": None, "reference": None, "correct": False}]) is None
    unknown = {"draft": None, "reference": None, "correct": False}
    assert count_reviews([*rows, unknown]) == Reviews(repaired=2, damaged=2)


def test_formats_are_spread_only_where_nothing_else_differs():
    contenders = [
        prompted("md", "structured + few_shot", better(2), format="markdown"),
        prompted("xml", "few_shot + structured", better(4), format="xml"),
        prompted("none", "few_shot", better(1)),
        prompted("other_seed", "few_shot + structured", better(9), format="json", seed=1),
        prompted("far", "few_shot + structured", better(9), format="json", endpoint="far"),
        prompted("stack", "few_shot + structured + persona", better(9), format="json"),
    ]
    (found,) = find_format_spread(contenders)
    assert (found.endpoint, found.techniques) == ("local", ["few_shot"])
    assert found.formats == {"xml": "xml", "md": "markdown", "none": "plain"}
    assert list(found.accuracies.items()) == [("xml", 0.7), ("md", 0.6), ("none", 0.55)]
    assert found.spread == pytest.approx(0.15)
    told = " ".join(shown(with_effects(*contenders)).split())
    assert "15.0 points apart on local by format alone: xml 70.0 % (xml), markdown 60.0 % (md), plain 55.0 % (none)" in told


def test_the_best_prompt_for_one_endpoint_is_said_not_to_be_the_best_for_another_only_where_it_was_tried():
    near = [prompted("near_plain", dev=0.6, endpoint="near"), prompted("near_few", "few_shot", dev=0.8, endpoint="near")]
    far = [prompted("far_plain", dev=0.9, endpoint="far"), prompted("far_few", "few_shot", dev=0.7, endpoint="far")]
    of_near, of_far = find_best_prompts([*near, *far])
    assert (of_near.contender, of_near.beaten_on) == ("near_few", {"far": "far_plain"})
    assert (of_far.contender, of_far.beaten_on) == ("far_plain", {"near": "near_few"})
    told = " ".join(shown(with_effects(*near, *far)).split())
    assert "the best prompt for near is not the best for far, where far_plain does better" in told
    assert "near_plain baseline on near: 50.0 %" in told
    assert [best.beaten_on for best in find_best_prompts([near[1], far[0]])] == [{}, {}]
    tied = prompted("a_few", "few_shot", dev=0.9, endpoint="far")
    assert [best.beaten_on for best in find_best_prompts([*near, far[0], tied])] == [{}, {}]
    assert find_best_prompts(near) == []


def write_evaluation(folder: Path, name: str, rows: list[Prediction]) -> Evaluation:
    folder.mkdir()
    write_table(folder / "predictions.parquet", rows)
    test = [row for row in rows if row.split == "test"]
    scored = scores(sum(each.correct for each in test), len(test), usd_per_1000(test, 1.0, 0.0))
    record = PredictionsRecord(
        folder=folder,
        contender=name,
        arm=Arm.PROMPT,
        rows={"dev": len(rows) - len(test), "test": len(test)},
        failures={},
        spent_usd=0,
        requests=0,
        rows_per_second=1,
        machine="endpoint:local",
    )
    of_test = ScoresRecord(fingerprint=f"scores {name}", contender=name, arm=Arm.PROMPT, of=name, dev=scored, test=scored)
    return Evaluation(record, of_test)


def row(example: int, label: str | None, failure: Failure | None = None, split="test", **more) -> Prediction:
    values = {"input_tokens": 100, "output_tokens": 4, "cost_usd": 0.001, "latency_ms": 10.0, **more}
    return Prediction(
        contender="made",
        split=split,
        example=f"row {example}",
        answer=label or "",
        label=label,
        reference="yes",
        score=float(label == "yes"),
        correct=label == "yes",
        probability=None,
        failure=failure,
        **values,
    )


def test_from_predictions_to_the_judgement(tmp_path, workspace):
    plain = [row(each, "yes" if each < 20 else "no") for each in range(40)]
    never = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0, "latency_ms": None}
    reviewed = [row(each, "yes", output_tokens=12, cost_usd=0.004, draft="no" if each == 30 else "yes") for each in range(38)]
    failed = [row(38, None, Failure.CUT, output_tokens=12, cost_usd=0.004, draft="yes"), row(39, None, Failure.BUDGET, **never)]
    on_dev = [row(each, "no", split="dev", output_tokens=900, draft="yes") for each in range(5)]
    evaluations = [
        write_evaluation(tmp_path / "reflect", "reflect", [*on_dev, *reviewed, *failed]),
        write_evaluation(tmp_path / "plain", "plain", plain),
        write_evaluation(tmp_path / "tuned", "tuned", plain),
    ]
    prompts = [Prompt(name="plain"), Prompt(name="reflect", techniques=["reflect"])]
    assert [each.name for each in read_prompted(prompts, evaluations)] == ["plain", "reflect"]

    judgement = judge(Gate(), evaluations, None, workspace, prompts)
    first, found = judgement.effects
    assert (first.contender, first.comparison, first.output_tokens, first.repaired) == ("plain", None, 4, None)
    assert (found.comparison.only_contender, found.comparison.only_against) == (18, 0)
    assert (found.input_tokens, found.output_tokens, found.extra_output_tokens) == (100, 12, 8)
    assert (found.repaired, found.damaged) == (1, 1)
    assert found.extra_usd_per_1000 == pytest.approx(3)
    assert found.usd_per_point == pytest.approx(3 / 45)

    without = judge(Gate(), evaluations, None, workspace)
    assert without.effects == []
    assert (without.decision, without.reason, without.winner) == (judgement.decision, judgement.reason, judgement.winner)
    again = judge(Gate(), evaluations, None, workspace, prompts)
    assert (again.reused, again.model_dump()) == (True, judgement.model_dump())


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_the_json_holds_it(width):
    contenders = [
        prompted("zero_shot"),
        prompted("n" * 64, "few_shot", better(gained=8, lost=1), cost=123.4),
        prompted("stack", "few_shot + persona + structured", better(gained=1, lost=10 // 2), format="xml"),
    ]
    made = with_effects(*contenders)
    text = shown(made, width)
    assert max(map(len, text.splitlines())) <= width
    assert "baseline: 50.0 %" in text
    for effect in made.effects:
        assert effect_words(effect) in text
    assert Verdict.model_validate_json(made.model_dump_json()) == made
    assert "few_shot + persona + structured" in markdown_verdict(made).replace("\\", "")
    assert [each["difference"] for each in effect_rows(made)] == [None, pytest.approx(0.35), pytest.approx(-0.2)]


def test_a_single_prompt_has_no_table_of_effects():
    made = with_effects(prompted("zero_shot"))
    assert "baseline" not in shown(made)
    assert "What techniques do" not in markdown_verdict(made)
    assert effect_rows(made) == []


def test_a_name_brings_no_markup_into_the_table():
    made = with_effects(prompted("zero_shot"), prompted("few", "few_shot"))
    nasty = [effect.model_copy(update={"contender": NASTY, "baseline": NASTY, "endpoint": NASTY}) for effect in made.effects]
    made = made.model_copy(update={"effects": nasty})
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown_verdict(made))
    assert "<script" not in html
    assert "<img" not in html
    assert "\x1b" not in shown(made, 400)
