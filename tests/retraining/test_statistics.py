"""The tests behind drift and falling quality keep their level, and find what is there."""

import random

import pytest

from tasks.retraining.statistics import fall, label_shift, text_shift

WORDS = [f"word{number}" for number in range(400)]


def texts(count: int, seed: int, words: list[str] = WORDS) -> list[str]:
    dice = random.Random(seed)
    return [" ".join(dice.choices(words, k=12)) for _ in range(count)]


def test_texts_of_the_same_source_are_told_apart_no_better_than_by_chance() -> None:
    found = [text_shift(texts(200, seed), texts(200, 100 + seed)) for seed in range(20)]
    assert sum(each.p_value < 0.1 for each in found) <= 6  # of 20 at 10 %, seven or more in 1.3 % of such tests
    assert max(each.effect for each in found) < 0.65


def test_texts_about_something_else_are_told_apart() -> None:
    found = text_shift(texts(300, 1), texts(300, 2, WORDS[200:] + ["refund", "outage"] * 20))
    assert found.effect > 0.8
    assert found.p_value < 1e-6


def test_predictions_that_moved_are_found_with_the_share_that_moved() -> None:
    found = label_shift({"a": 500, "b": 500}, {"a": 300, "b": 700})
    assert found.effect == pytest.approx(0.2)
    assert found.p_value < 0.001
    same = label_shift({"a": 500, "b": 500}, {"a": 251, "b": 249})
    assert same.effect == pytest.approx(0.002)
    assert same.p_value > 0.5


def test_one_label_alone_and_rare_labels_are_no_drift() -> None:
    assert label_shift({"a": 50, "b": 0}, {"a": 70}) == (0.0, 1.0)
    assert label_shift({"a": 200}, {"a": 199, "(no answer)": 1}).p_value > 0.05


def test_a_champion_that_is_as_right_as_ever_is_called_fallen_at_most_as_often_as_alpha_says() -> None:
    dice = random.Random(7)
    fallen = 0
    for _ in range(400):
        before, now = (sum(dice.random() < 0.85 for _ in range(300)) for _ in range(2))
        fallen += fall(now, 300, before, 300, margin=0.0, alpha=0.05) < 0.05
    assert fallen <= 20  # 5 % of them


def test_a_clear_fall_is_found_and_one_within_the_margin_is_not() -> None:
    assert (
        fall(right=210, rows=300, right_before=360, rows_before=400, margin=0.02, alpha=0.05) < 0.006
    )  # 0.005 of it for not knowing what it was
    assert fall(right=262, rows=300, right_before=360, rows_before=400, margin=0.02, alpha=0.05) > 0.05
    assert fall(right=0, rows=300, right_before=5, rows_before=400, margin=0.02, alpha=0.05) == 1.0, "it had nothing to lose"
