"""Every picture can be drawn of whatever a run may give, and the same figures give the same picture."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from typing import Any

import pytest
from matplotlib.figure import Figure
from statsmodels.stats.proportion import proportion_confint

from tasks.records import Arm, CurvePoint, CurveRecord, Slice, Trial
from tasks.reporting.charts.contenders import draw_confusion, draw_learning, draw_loss, draw_reliability, draw_search
from tasks.reporting.charts.drawing import short, slug
from tasks.reporting.charts.verdict import draw_front, draw_slices
from tasks.reporting.records import Bin, Confusion
from tests.reporting.making import FACTS, SWEEP
from tests.verdict.test_report import verdict

NAMES = ["billing question", "delivery problem", "complaint of it", "cancel the order", "praise for staff", "warranty claims"]
LABELS = ["$\\frac{x", "<b>&\u202e", "", "_hidden", "日本語", "n" * 300]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, laid out."""
    found: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **more: Any) -> None:
        save(figure, *args, **more)
        figure.draw_without_rendering()
        found.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def assert_apart(texts: list[Any]) -> None:
    """No two texts, all turned alike, lie on each other."""
    found = []
    for text in texts:
        turned, angle = text.get_window_extent(), math.radians(text.get_rotation())
        across, up = (turned.x0 + turned.x1) / 2, (turned.y0 + turned.y1) / 2
        text.set_rotation(0)
        level = text.get_window_extent()
        along, aside = across * math.cos(angle) + up * math.sin(angle), up * math.cos(angle) - across * math.sin(angle)
        found.append((text.get_text(), along, aside, level.width, level.height))
    for (one, x, y, width, height), (other, at, above, wide, high) in combinations(found, 2):
        assert abs(x - at) >= (width + wide) / 2 or abs(y - above) >= (height + high) / 2, f"{one!r} lies on {other!r}"


def part(value: str, right: int, n: int) -> Slice:
    interval = proportion_confint(right, n, method="wilson")
    return Slice(contender="a", column="label", value=value, n=n, accuracy=right / n, interval=interval)


def test_slices_where_all_or_none_are_right_and_labels_of_any_kind_are_drawn() -> None:
    svg = draw_slices("<label>", [part(label, (0, 40)[place % 2], 40) for place, label in enumerate(LABELS)], ["a"])
    assert ElementTree.fromstring(svg)[0].text == "Accuracy by <label>"
    assert "\u202e" not in svg
    assert "$\\frac{x" in svg
    assert svg == draw_slices("<label>", [part(label, (0, 40)[place % 2], 40) for place, label in enumerate(LABELS)], ["a"])


def test_no_two_names_share_a_picture() -> None:
    names = ["few_shot", "few-shot", "few shot", "City", "city", "stadt", "städt", "日本", "語", ""]
    found = [slug("slices", name) for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", each) for each in found)
    assert slug("loss", "lora") == "loss-lora"


@pytest.mark.parametrize("count", [2, 6, 20])
def test_confusions_of_few_and_of_many_labels_are_drawn(count: int) -> None:
    labels = [f"{LABELS[place % 6]} {place}" for place in range(count)]
    cells = [(right, (right + step) % (count + 1), step + 1) for right in range(count) for step in range(2)]
    ElementTree.fromstring(draw_confusion("a", Confusion(labels=labels, cells=cells)))


@pytest.mark.parametrize("count", [2, 3, 4, 6, 10, 20])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("shorter", [0, 12])
def test_the_labels_of_a_confusion_do_not_run_into_each_other(
    drawn: list[Figure], count: int, answered: bool, shorter: int
) -> None:
    labels = [f"{NAMES[place % 6][shorter:]}{place}" for place in range(count)]
    cells = [(right, (right + step) % (count + (not answered)), 1234) for right in range(count) for step in range(2)]
    draw_confusion("a", Confusion(labels=labels, cells=cells))
    marks = drawn[-1].axes[0].get_xticklabels()
    assert len(marks) == count + (not answered)
    assert_apart(marks)
    assert_apart([text for text in drawn[-1].axes[0].texts if text.get_text()])


NEAR = [
    [0.000265, 0.000275],
    [0.000265, 0.00026500001],
    [0.0, 1e-9],
    [0.5, 0.6],
    [123.4, 123.5],
    [98_765.0, 99_999.0],
    [0.01, 0.19],
]
FAR = [[0.0, 1.0], [1e-9, 10.0], [0.000265, 0.0065], [0.000265, 7.0], [0.0001, 123_456.0], [0.3, 7.0]]


@pytest.mark.parametrize("costs", [*NEAR, *FAR, [0.0, 0.0]])
def test_the_costs_below_a_picture_are_few_short_and_apart(drawn: list[Figure], costs: list[float]) -> None:
    lines = [line for line in verdict().contenders if line.arm is not Arm.HYBRID][:2]
    draw_front([(line.model_copy(update={"pareto": True}), cost, 0.5) for line, cost in zip(lines, costs, strict=True)])
    axes = drawn[-1].axes[0]
    low, high = axes.get_xlim()
    marks = [mark for mark, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True) if low <= at <= high]
    assert 2 <= len(marks) <= 5
    assert_apart(marks)
    words = [mark.get_text() for mark in marks]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"-?[0-9,]+(\.[0-9]+)?", word) and len(word) <= 10 for word in words), words


def test_the_names_of_contenders_that_cost_and_reach_about_the_same_do_not_run_into_each_other(drawn: list[Figure]) -> None:
    line = verdict().contenders[0].model_copy(update={"pareto": True})
    placed = [(0.000265, 0.16), (0.000268, 0.82), (0.000272, 0.81), (0.000270, 0.815), (0.000275, 0.71), (0.0002745, 0.712)]
    draw_front([(line.model_copy(update={"name": f"{NAMES[place]}"}), *at) for place, at in enumerate(placed)])
    notes = list(drawn[-1].axes[0].texts)
    assert len(notes) == len(placed)
    assert_apart(notes)


@pytest.mark.parametrize("costs", [[0.0, 0.0], [0.0, 1.0], [1e-9, 10.0], [0.5, 0.6]])
def test_costs_of_any_size_are_drawn(costs: list[float]) -> None:
    lines = [line for line in verdict().contenders if line.arm is not Arm.HYBRID][:2]
    placed = [(line.model_copy(update={"pareto": True}), cost, 0.5) for line, cost in zip(lines, costs, strict=True)]
    ElementTree.fromstring(draw_front(placed))


def test_curves_of_a_single_point_are_drawn() -> None:
    ElementTree.fromstring(draw_reliability("a", [Bin(low=0.9, high=1.0, rows=1, probability=1.0, right=0.0)]))
    ElementTree.fromstring(draw_loss("a", FACTS.model_copy(update={"epochs": FACTS.epochs[:1], "losses": FACTS.losses[:1]})))
    points = [CurvePoint(share=1, rows=8, dev_accuracy=1.0, interval=proportion_confint(8, 8, method="wilson"))]
    curve = CurveRecord(points=points, intercept=0, slope=0, gain=0, gain_interval=(0, 0), sentence="More labels <would> help.")
    assert "More labels &lt;would&gt; help." in draw_learning("a", curve)


def test_a_search_shows_each_trial_that_came_to_something_and_rings_the_chosen_one(drawn: list[Figure]) -> None:
    svg = draw_search("a", SWEEP)
    assert "rank 4, all-linear: 80.0 % on dev (complete)" in svg
    axes = drawn[-1].axes[0]
    points = [line.get_xydata().tolist()[0] for line in axes.lines if line.get_xydata().size]
    assert points == [[1e-3, 70.0], [3e-3, 80.0], [3e-3, 80.0]]  # the last one is the ring
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chosen: rank 4", "query,value", "all-linear"]


@pytest.mark.parametrize("rates", [[1e-3], [5e-4, 5.5e-4], [1e-3, 2e-3], [1e-4, 1e-3], [1e-5, 1e-4, 1e-3], [1e-6, 1e-2]])
@pytest.mark.parametrize("targets", [1, 3, 12])
def test_a_search_of_any_span_and_targets_has_numbers_apart_and_room_for_its_marks(
    rates: list[float], targets: int, drawn: list[Figure]
) -> None:
    def trial(number: int) -> Trial:
        name = f"layer_{number % targets}"
        return SWEEP.trials[0].model_copy(
            update={
                "number": number,
                "learning_rate": rates[number % len(rates)],
                "targets": name,
                "dev_accuracy": 0.5 + number / 99,
            }
        )

    draw_search("a", SWEEP.model_copy(update={"trials": [trial(number) for number in range(12)], "chosen": 3}))
    axes = drawn[-1].axes[0]
    low, high = axes.get_xlim()
    numbers = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert numbers
    assert_apart(numbers)
    assert axes.get_position().height > 0.35


def test_names_are_one_short_line() -> None:
    assert short("a\nb\x1b") == "a b[U+001B]"
    assert len(short("n" * 300)) == 24
