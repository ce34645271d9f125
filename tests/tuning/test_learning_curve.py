"""A learning curve says whether more labels would help, and owns to its noise."""

import itertools

import numpy as np
import pytest
from datasets import Dataset

from tasks.records import CurvePoint
from tasks.tuning.batches import part_of, some_of
from tasks.tuning.language.complete import groups_of
from tasks.tuning.learning_curve import SHARES, accuracy_at, epochs_of, fit, more_labels, rows_of


def points(errors: list[float], rows: int = 8000) -> list[CurvePoint]:
    shares = [*SHARES, 1.0]
    return [
        CurvePoint(share=share, rows=round(share * rows), dev_accuracy=1 - error, interval=(0, 1))
        for share, error in zip(shares, errors, strict=True)
    ]


def test_parts_are_nested_stratified_and_stay_when_data_grows() -> None:
    random = np.random.default_rng(0)
    ids = [random.integers(0, 30_000, size=9).tolist() for _ in range(300)]
    whole = Dataset.from_dict({"input_ids": ids, "label": [int(row % 4 == 0) for row in range(300)], "length": [9] * 300})
    parts = [part_of(whole, share) for share in (*SHARES, 1.0)]
    kept = [{tuple(row) for row in part["input_ids"][:]} for part in parts]
    assert all(small <= large for small, large in itertools.pairwise(kept))
    assert [sum(part["label"][:]) for part in parts] == [9, 19, 38, 75]
    assert [len(part) for part in parts] == [rows_of(share, {"a": 225, "b": 75}, 300) for share in (*SHARES, 1.0)]
    older = part_of(whole.select(range(200)), 0.5)
    assert len({tuple(row) for row in older["input_ids"][:]} & kept[2]) > 85  # of 100; by chance it would be 50
    assert part_of(whole, 1.0) is whole


def test_rows_that_answer_in_text_are_parted_by_their_answer_and_free_text_as_one() -> None:
    random = np.random.default_rng(0)
    starts = random.integers(2, 9, size=300).tolist()
    ids = [[*random.integers(9, 30_000, size=start).tolist(), 7 + int(row % 4 == 0), 3] for row, start in enumerate(starts)]
    whole = Dataset.from_dict({"input_ids": ids, "label": starts, "length": [*map(len, ids)]})
    for by_answer, label_rows, of_one in ((True, {"a": 225, "b": 75}, [9, 19, 38, 75]), (False, {}, None)):
        parts = [part_of(whole, share, groups_of(whole, by_answer)) for share in (*SHARES, 1.0)]
        kept = [{tuple(row) for row in part["input_ids"][:]} for part in parts]
        assert all(small <= large for small, large in itertools.pairwise(kept))
        assert [len(part) for part in parts] == [rows_of(share, label_rows, 300) for share in (*SHARES, 1.0)]
        if of_one:
            assert [sum(row[-2] == 8 for row in part) for part in kept] == of_one


def test_some_rows_are_chosen_by_what_they_say_and_not_by_where_they_stand() -> None:
    ids = [[row, row * 7 % 31] for row in range(300)]
    whole, reversed_ = (Dataset.from_dict({"input_ids": rows}) for rows in (ids, ids[::-1]))
    some = some_of(whole, 64)["input_ids"][:]
    assert some == some_of(reversed_, 64)["input_ids"][::-1]
    assert (len(some), some_of(whole, 300)) == (64, whole)
    assert max(row for row, _ in some) > 200


def test_the_law_that_made_the_errors_is_found() -> None:
    shares = [*SHARES, 1.0]
    errors = [1 - accuracy_at(2.0, -0.4, 8000 * share) for share in shares]
    law = fit(points(errors), 100_000)
    assert law.slope == pytest.approx(-0.4, abs=0.02)
    assert law.gain == pytest.approx(accuracy_at(2.0, -0.4, 16_000) - accuracy_at(2.0, -0.4, 8000), abs=0.002)
    assert law.interval[0] < law.gain < law.interval[1]


def test_a_steep_curve_asks_for_labels_a_flat_one_does_not_and_noise_is_owned_to() -> None:
    for errors, dev_rows, words in (
        ([0.30, 0.25, 0.20, 0.15], 2000, "should help"),
        ([0.20, 0.20, 0.20, 0.20], 20_000, "hardly help"),
        ([0.26, 0.22, 0.25, 0.21], 100, "cannot be told from 100 dev rows"),
        ([0.0, 0.0, 0.0, 0.0], 2000, "hardly help"),
    ):
        law = fit(points(errors), dev_rows)
        assert words in more_labels(law.gain, law.interval, dev_rows)


def test_the_interval_holds_the_true_gain_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    rows, dev_rows, truth = 1000, 400, (1.0, -0.35)
    gain = accuracy_at(*truth, 2 * rows) - accuracy_at(*truth, rows)
    held = 0
    for _ in range(100):
        errors = [random.binomial(dev_rows, 1 - accuracy_at(*truth, rows * share)) / dev_rows for share in (*SHARES, 1.0)]
        low, high = fit(points(errors, rows), dev_rows).interval
        held += low <= gain <= high
    assert held >= 88


def test_small_parts_are_trained_for_more_epochs() -> None:
    assert [epochs_of(3, share) for share in (*SHARES, 1.0)] == [9, 6, 5, 3]


def test_points_that_lie_on_no_law_say_less() -> None:
    smooth, ragged = (fit(points(errors, 400), 200) for errors in ([0.45, 0.36, 0.28, 0.22], [0.5, 0.3, 0.22, 0.26]))
    assert smooth.interval[0] > 0
    assert ragged.interval[0] < 0 < ragged.gain
