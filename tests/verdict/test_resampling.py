"""What is drawn again by kinds of rows says what drawing row by row says."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from tasks.verdict.resampling import Sums, bootstrap_interval, counted_interval, permutation_p
from tasks.verdict.statistics import Discordant, mcnemar


def share(sums):
    """Accuracy, from the rows that are right and all rows."""
    return sums[..., 0] / sums[..., 1]


def f1(sums):
    """Of one label, from rows rightly given it, rows given it, and rows that have it."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def drawn(rows, gain, seed):
    """Two contenders' answers as parts of `f1`."""
    dice = np.random.default_rng(seed)
    there = dice.random(rows) < 0.3
    answers = [np.where(dice.random(rows) < right, there, ~there) for right in (0.8 + gain, 0.8)]
    return Sums(*(np.stack([each & there, each, there], axis=1).astype(float) for each in answers), f1)


@pytest.mark.parametrize(("gain", "seed"), [(0.0, 0), (0.03, 1), (0.06, 2), (0.1, 3)])
def test_exchanging_kinds_of_rows_has_the_p_value_of_exchanging_rows(gain, seed):
    sums = drawn(300, gain, seed)
    rows = np.arange(300)

    def difference(one, _other, axis):
        swapped = (one >= 300)[..., None]
        first, second = np.where(swapped, sums.second, sums.first), np.where(swapped, sums.first, sums.second)
        return f1(first.sum(axis=-2)) - f1(second.sum(axis=-2))

    expected = permutation_test(
        (rows, rows + 300), difference, permutation_type="samples", vectorized=True, n_resamples=9999, batch=500, rng=seed
    ).pvalue
    noise = 4 * (2 * expected * (1 - expected / 2) / 9999) ** 0.5
    assert permutation_p(sums) == pytest.approx(expected, abs=2 * noise + 2e-4)


@pytest.mark.parametrize(("b", "c"), [(0, 9), (4, 15), (12, 30), (25, 25)])
def test_of_accuracy_it_is_mcnemars_p_value(b, c):
    place, all_rows = np.arange(200), np.ones(200)
    right, other = place < b + 60, (place >= b) & (place < 60 + b + c)
    sums = Sums(np.stack([right, all_rows], axis=1), np.stack([other, all_rows], axis=1), share)
    assert permutation_p(sums, 99_999) == pytest.approx(mcnemar(Discordant(b, c, 200)), abs=0.01, rel=0.05)


def test_whole_clusters_exchange_where_rows_come_in_clusters():
    sums = drawn(300, 0.1, 3)
    doubled = Sums(np.repeat(sums.first, 2, axis=0), np.repeat(sums.second, 2, axis=0), f1)
    assert permutation_p(doubled) < permutation_p(sums)
    assert permutation_p(doubled.by_cluster(np.repeat(np.arange(300), 2))) == permutation_p(sums)


def test_a_draw_in_many_parts_is_that_in_one(monkeypatch):
    whole = permutation_p(drawn(300, 0.05, 1))
    monkeypatch.setattr("tasks.verdict.resampling.AT_ONCE", 700)
    assert permutation_p(drawn(300, 0.05, 1)) == whole


def test_contenders_that_answer_alike_do_not_differ_and_two_that_differ_on_one_row_neither():
    sums = drawn(300, 0.0, 0)
    same = Sums(sums.first, sums.first, f1)
    one = sums.first.copy()
    one[0, 1] = 1 - one[0, 1]
    assert permutation_p(same) == permutation_p(Sums(sums.first, one, f1)) == 1.0
    assert bootstrap_interval(same, 0.05) is None


@pytest.mark.parametrize(("b", "c"), [(0, 9), (12, 30), (25, 25)])
def test_a_figure_that_counts_rows_has_its_interval_widened_by_one_row_for_accuracy(b, c):
    place, all_rows = np.arange(200), np.ones(200)
    right, other = place < b + 60, (place >= b) & (place < 60 + b + c)
    sums = Sums(np.stack([right, all_rows], axis=1), np.stack([other, all_rows], axis=1), share)
    low, high = bootstrap_interval(sums, 0.05)
    assert counted_interval(sums, 0.05) == pytest.approx((low - 1 / 200, high + 1 / 200))


def test_half_a_step_of_macro_f1_is_what_exchanging_a_row_moves_on_average():
    sums = drawn(60, 0.1, 3)
    moved = []
    for row in np.flatnonzero((sums.first != sums.second).any(axis=1)):
        first, second = sums.first.copy(), sums.second.copy()
        first[row], second[row] = sums.second[row], sums.first[row]
        moved.append(abs(Sums(first, second, f1).difference() - sums.difference()))
    assert sums.half_step() == pytest.approx(np.mean(moved) / 2)
    assert Sums(sums.first, sums.first, f1).half_step() == 0


def test_an_interval_of_a_figure_that_counts_rows_ends_at_one_and_is_none_where_nothing_differs():
    right, all_rows = np.arange(12) < 11, np.ones(12)
    sums = Sums(np.stack([right, all_rows], axis=1), np.stack([~right, all_rows], axis=1), share)
    assert counted_interval(sums, 0.05)[1] == 1.0
    assert counted_interval(Sums(sums.first, sums.first, share), 0.05) is None


def test_drawing_how_many_rows_of_each_kind_gives_the_interval_of_drawing_rows(monkeypatch):
    sums = drawn(400, 0.05, 5)
    kinds = bootstrap_interval(sums, 0.05, 40_000)
    monkeypatch.setattr("tasks.verdict.resampling.FEW_KINDS", 10**9)
    rows = bootstrap_interval(sums, 0.05, 40_000)
    assert kinds != rows, "both were drawn the same way"
    assert kinds == pytest.approx(rows, abs=0.03 * (rows[1] - rows[0]))
