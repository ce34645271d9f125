"""Every picture can be drawn of whatever a run may give, and the same figures give the same picture."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from statsmodels.stats.proportion import proportion_confint

from tasks.records import Arm, CurvePoint, CurveRecord, Slice
from tasks.reporting.charts.contenders import draw_confusion, draw_learning, draw_loss, draw_reliability
from tasks.reporting.charts.drawing import short, slug
from tasks.reporting.charts.verdict import draw_front, draw_slices
from tasks.reporting.records import Bin, Confusion
from tests.reporting.making import FACTS
from tests.verdict.test_report import verdict

LABELS = ["$\\frac{x", "<b>&\u202e", "", "_hidden", "日本語", "n" * 300]


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


def test_names_are_one_short_line() -> None:
    assert short("a\nb\x1b") == "a b[U+001B]"
    assert len(short("n" * 300)) == 24
