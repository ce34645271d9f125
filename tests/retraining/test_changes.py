"""What changed since the champion was chosen, by records alone."""

import pytest

from tasks.config import Triggers
from tasks.records import Decision, Trigger
from tasks.retraining.changes import Standing, endpoints_asked
from tasks.retraining.records import Answers, Looked, State
from tests.retraining.making import AFTER, BEFORE, answer, champion, config, find, lineage, model

KEPT, FEW = Decision.KEEP_CHAMPION, Decision.NOT_ENOUGH_EVIDENCE


def test_nothing_changed_is_no_reason_and_says_so() -> None:
    found = find(holder=champion())
    assert {kind: signal.state for kind, signal in found.items()} == dict.fromkeys(
        (Trigger.CHAMPION, Trigger.CONTENDERS, Trigger.DATA), State.QUIET
    )
    looked = Looked(name="tickets", signals=list(found.values()))
    assert looked.why is None
    assert looked.words == "Nothing changed, so no bake-off of tickets is due (looked at: champion, contenders, data)."


def test_no_champion_is_a_reason_until_the_same_data_and_question_were_tried() -> None:
    assert find()[Trigger.CHAMPION].state is State.DUE
    tried = [answer(FEW, BEFORE, config())]
    found = find(answers=tried)[Trigger.CHAMPION]
    assert found.state is State.ANSWERED
    assert "run 0a1b2c3d of 2026-11-24 (not enough evidence)" in found.words
    assert find(answers=tried, revision=AFTER)[Trigger.CHAMPION].state is State.DUE
    assert find(config(tuned=[]), answers=tried)[Trigger.CHAMPION].state is State.DUE
    gone = [answer(Decision.PUBLISH, BEFORE, config())]
    assert find(answers=gone)[Trigger.CHAMPION].state is State.DUE, "a champion that is gone is made again"


def test_new_data_are_a_reason_until_a_verdict_judged_them() -> None:
    found = find(holder=champion(), revision=AFTER)[Trigger.DATA]
    assert found.state is State.DUE
    assert found.words == f"tickets.csv has a new version: {AFTER[:12]}, where the champion was chosen on {BEFORE[:12]}"
    assert find(holder=champion(), revision=AFTER, answers=[answer(KEPT, AFTER, config())])[Trigger.DATA].state is State.ANSWERED
    assert find(holder=champion(), revision="d" * 64, answers=[answer(KEPT, AFTER, config())])[Trigger.DATA].state is State.DUE
    assert find(holder=champion(lineage=lineage(AFTER)), revision=AFTER)[Trigger.DATA].state is State.QUIET


def test_another_question_is_a_reason_that_names_what_changed_until_a_verdict_answered_it() -> None:
    other = config(tuned=[{"name": "lora", "epochs": 7}, {"name": "head", "method": "head"}])
    found = find(other, champion())[Trigger.CONTENDERS]
    assert found.state is State.DUE
    assert "tuned.0.epochs: 3 → 7" in found.words
    assert "tuned.1: none → head)" in found.words, "a contender that came is one change, told by its name"
    assert found.figures["changed"] > 5
    assert "tuned.0: lora → none)" in find(config(tuned=[]), champion())[Trigger.CONTENDERS].words
    assert find(other, champion(), [answer(KEPT, BEFORE, other)])[Trigger.CONTENDERS].state is State.ANSWERED
    assert find(other, champion(), [answer(KEPT, BEFORE, config())])[Trigger.CONTENDERS].state is State.DUE


@pytest.mark.parametrize(
    "beside",
    [
        {"budget": {"usd": 9}},
        {"store": "aws"},
        {"triggers": {"age_days": 9}},
        {"gate": {"approval": True, "approval_hours": 3}},
        {"samples": ["a text"]},
    ],
)
def test_what_does_not_change_a_verdict_is_no_other_question(beside: dict[str, object]) -> None:
    assert find(config(**beside), champion())[Trigger.CONTENDERS].state is State.QUIET


def test_records_that_do_not_tell_are_no_reason_and_say_so() -> None:
    found = find(holder=champion(config={}, lineage=None))
    assert (found[Trigger.CONTENDERS].state, found[Trigger.DATA].state) == (State.UNKNOWN, State.UNKNOWN)
    assert "does not say which data" in found[Trigger.DATA].words


@pytest.mark.parametrize(
    ("day", "contender", "state", "said"),
    [
        ("2026-12-20", "lora", State.DUE, "m-1, which asked would ask, ends on 2026-12-20, in 25 days"),
        ("2026-12-20", "asked", State.DUE, "m-1, which the champion asks, ends on 2026-12-20, in 25 days"),
        ("2026-11-20", "asked", State.DUE, "m-1, which the champion asks, has ended on 2026-11-20"),
        ("2026-12-26", "asked", State.QUIET, "in 31 days"),
        (None, "asked", State.QUIET, "no end of m-1 (there) is announced"),
    ],
)
def test_a_model_that_ends_within_the_days_is_a_reason(day: str | None, contender: str, state: State, said: str) -> None:
    found = find(holder=champion(contender), models=[model(day)])[Trigger.SHUTDOWN]
    assert (found.state, said in found.words) == (state, True), found.words


def test_the_graders_model_is_looked_at_as_well() -> None:
    graded = {"dataset": {"source": "tickets.csv", "kind": "generation"}, "prompts": [], "tuned": [{"name": "lora"}]}
    asked = config(**graded, grader={"prompt": {"name": "judge", "endpoint": "there"}})
    assert find(asked, champion(), models=[model("2026-12-20")])[Trigger.SHUTDOWN].words.startswith("m-1, which judge would ask")
    assert endpoints_asked(Standing(asked, None, None, Answers(), BEFORE)) == ["there"]


def test_an_announced_end_that_a_verdict_dealt_with_is_no_reason_again_until_the_day_is_another() -> None:
    first = find(holder=champion(), models=[model("2026-12-20")])[Trigger.SHUTDOWN]
    dealt = [answer(KEPT, BEFORE, config(), reasons=[(first.kind, first.subject, first.level)])]
    assert find(holder=champion(), answers=dealt, models=[model("2026-12-20")])[Trigger.SHUTDOWN].state is State.ANSWERED
    assert find(holder=champion(), answers=dealt, models=[model("2026-12-10")])[Trigger.SHUTDOWN].state is State.DUE


def test_the_newest_verdict_grows_old_whatever_it_decided() -> None:
    weekly = config(triggers={"age_days": 7})
    assert find(weekly, champion(days=8))[Trigger.AGE].state is State.DUE
    assert find(weekly, champion(days=8), [answer(KEPT, BEFORE, config(), days=6)])[Trigger.AGE].state is State.QUIET
    assert Trigger.AGE not in find(holder=champion(days=999))


def test_each_trigger_can_be_switched_off() -> None:
    off = {"champion": False, "contenders": False, "data": False, "shutdown_days": None}
    other = config(tuned=[], triggers=off)
    assert find(other, champion(), revision=AFTER, models=[model("2026-11-26")]) == {}
    assert find(other) == {}


def test_what_was_answered_is_a_reason_again_when_there_is_more_of_it() -> None:
    answers = Answers(answers=[answer(KEPT, BEFORE, config(), reasons=[(Trigger.DRIFT, "these", 3)])])
    assert answers.to(Trigger.DRIFT, "these", 3)
    assert answers.to(Trigger.DRIFT, "these", 2)
    assert not answers.to(Trigger.DRIFT, "these", 4)
    assert not answers.to(Trigger.DRIFT, "others", 3)
    assert not answers.to(Trigger.QUALITY, "these", 3)


def test_rows_that_could_never_be_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"triggers\.drift: least_rows 300 is more than most_rows 200"):
        Triggers.model_validate({"drift": {"least_rows": 300, "most_rows": 200}})
