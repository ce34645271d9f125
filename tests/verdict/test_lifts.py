"""What a method adds is measured against the head alone, on the same rows; what makes no difference is shown alike."""

from tasks.config import Gate, Method, Tuned
from tasks.records import Arm, ContenderRecord, CurvePoint, CurveRecord, Lift, Repeats, SweepRecord, TrainingFacts, Trial
from tasks.verdict.decision import decide
from tasks.verdict.lifts import find_lifts
from tasks.verdict.tuned_report import lift_words, markdown_tuned, tuned_lines, tuned_rows
from tests.verdict.builders import answers, contestant
from tests.verdict.test_decision import field
from tests.verdict.test_report import shown, verdict

HEAD, LORA = Tuned(name="head", method=Method.HEAD), Tuned(name="lora")
FACTS = TrainingFacts(
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


def test_rows_of_one_cluster_make_no_lift_between_them() -> None:
    """20 clusters of 25 rows that are alike: LoRA is better in 7 of them and worse in 3, which chance does often."""
    better = [place // 25 < 7 for place in range(500)]
    worse = [7 <= place // 25 < 10 for place in range(500)]
    arms = [contestant("lora", Arm.TUNED, better), contestant("head", Arm.TUNED, worse)]
    alone, together = (find_lifts([LORA, HEAD], arms, 0.05, each)[0] for each in (None, [place // 25 for place in range(500)]))
    assert (alone.finding, together.finding) == ("gain", "none")
    assert together.comparison.clusters == 20
    assert together.comparison.interval[0] < 0 < alone.comparison.interval[0]


def test_contenders_on_other_tokens_or_bases_are_not_compared() -> None:
    other = [Tuned(name="short", max_tokens=64), Tuned(name="elsewhere", base="owner/other")]
    assert [lift.contender for lift in lifts(0.9, 0.7, *other)] == ["lora"]


def test_the_table_tells_updates_and_head_apart_and_what_they_took() -> None:
    records = [
        ContenderRecord(name=name, arm=Arm.TUNED, kind="tuned", occupies="device", training=FACTS) for name in ("lora", "head")
    ]
    judgement = decide(Gate(), [*field(), contestant("head", Arm.TUNED, answers(0.7))], None)
    made = verdict(tuned=tuned_lines(records, judgement), lifts=lifts(0.9, 0.7))
    text = shown(made)
    for part in ("lora (dora)", "147,456", "770 head", "612.0 MB", "1.3 MB", "+20.0"):
        assert part in text
    assert tuned_rows(made)[0]["lora parameters"] == 147_456


def test_what_search_seeds_and_learning_curve_said_is_in_the_terminal_and_on_the_page():
    trials = [
        Trial(number=number, learning_rate=rate, rank=4, targets="query,value", outcome=how, dev_accuracy=dev, epochs=[], seconds=9)
        for number, rate, how, dev in ((0, 0.001, "complete", 0.75), (1, 0.0005, "complete", 0.8), (2, 0.1, "diverged", None))
    ]
    curve = CurveRecord(
        points=[CurvePoint(share=1, rows=800, dev_accuracy=0.8, interval=(0.7, 0.9))],
        intercept=0,
        slope=-0.3,
        gain=0.01,
        gain_interval=(-0.01, 0.03),
        sentence="more labels would help little",
    )
    record = ContenderRecord(
        name="lora",
        arm=Arm.TUNED,
        kind="tuned",
        occupies="device",
        training=FACTS,
        sweep=SweepRecord(trials=trials, chosen=1, seconds=27),
        repeats=Repeats(seeds=[42, 43], dev_accuracy=[0.78, 0.8], mean=0.79, spread=0.0141, chosen=43),
        curve=curve,
    )
    made = verdict(tuned=tuned_lines([record], decide(Gate(), field(), None)))
    for text in (shown(made), "\n".join(markdown_tuned(made)).replace("\\", "")):
        said = " ".join(text.split())
        assert "of 3 recipes (1 stopped early) dev chose learning rate 0.0005, rank 4" in said
        assert "80.0 %; the config's own 75.0 %" in said
        assert "79.0 % on dev, standard deviation 1.4 points over 2 seeds; seed 43 was taken" in said
        assert "lora: more labels would help little" in said
    assert made.tuned[0].curve[0].rows == 800
