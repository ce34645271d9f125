"""What a method adds is measured against the head alone, on the same rows; what makes no difference is shown alike."""

from tasks.config import Gate, Method, Tuned
from tasks.records import Arm, ContenderRecord, Lift, TrainingFacts
from tasks.verdict.decision import decide
from tasks.verdict.lifts import find_lifts
from tasks.verdict.tuned_report import lift_words, tuned_rows
from tests.verdict.builders import answers, contestant
from tests.verdict.test_decision import field
from tests.verdict.test_report import shown, verdict

HEAD, LORA = Tuned(name="head", method=Method.HEAD), Tuned(name="lora")


def lifts(lora: float, head: float, *others: Tuned) -> list[Lift]:
    arms = [contestant("lora", Arm.TUNED, answers(lora)), contestant("head", Arm.TUNED, answers(head))]
    return find_lifts([LORA, HEAD, *others], [*arms, *(contestant(each.name, Arm.TUNED, answers(lora)) for each in others)], 0.05)


def test_lora_is_measured_against_the_head_alone() -> None:
    [lift] = lifts(0.9, 0.7)
    assert (lift.contender, lift.against, lift.of, lift.finding) == ("lora", "head", "method", "gain")
    assert round(lift.comparison.difference, 6) == 0.2
    assert lift_words(lift).startswith("+20.0 [")


def test_what_adds_nothing_is_said_to_add_nothing() -> None:
    [lift] = lifts(0.8, 0.8)
    assert (lift.finding, lift.p_holm) == ("none", 1.0)


def test_contenders_on_other_tokens_or_bases_are_not_compared() -> None:
    other = [Tuned(name="short", max_tokens=64), Tuned(name="elsewhere", base="owner/other")]
    assert [lift.contender for lift in lifts(0.9, 0.7, *other)] == ["lora"]


def test_the_table_tells_updates_and_head_apart_and_what_they_took() -> None:
    facts = TrainingFacts(
        base="owner/base",
        revision="1",
        method="lora",
        switches=["dora"],
        device="cpu",
        dtype="float32",
        parameters=22_000_000,
        parameters_trained=148_226,
        trained_by_part={"lora": 147_456, "head": 770},
        epochs=[],
        best_epoch=1,
        seconds=41.2,
        rows_per_second=50,
        peak_memory_bytes=612_000_000,
        batch_size=16,
        publish_bytes=1_340_000,
    )
    made = verdict()
    from tasks.verdict.tuned_report import tuned_lines

    records = [
        ContenderRecord(name=name, arm=Arm.TUNED, kind="tuned", occupies="device", training=facts) for name in ("lora", "head")
    ]
    judgement = decide(Gate(), [*field(), contestant("head", Arm.TUNED, answers(0.7))], None)
    made = verdict(tuned=tuned_lines(records, judgement), lifts=lifts(0.9, 0.7))
    text = shown(made)
    for part in ("lora (dora)", "147,456", "770 head", "612.0 MB", "1.3 MB", "+20.0"):
        assert part in text
    assert tuned_rows(made)[0]["lora parameters"] == 147_456
