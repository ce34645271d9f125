"""The test and the interval are those of the literature."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from tasks.verdict.statistics import Discordant, compare, count, difference_interval, holm, mcnemar

CAVO = Discordant(6, 16, 161)
"""Complete response before and after consolidation therapy (Cavo et al. 2012), as in Fagerland et al. 2014."""


def test_published_example_by_mcnemar():
    assert mcnemar(CAVO) == pytest.approx(0.052479, abs=1e-6)


def test_published_examples_by_tango():
    assert difference_interval(CAVO, 0.05, continuity=0) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    bentur = Discordant(1, 7, 21)  # airway hyper-responsiveness before and after transplantation, the same paper's other example
    assert difference_interval(bentur, 0.05, continuity=0) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_corrected_for_continuity_the_interval_leaves_out_0_only_where_the_exact_test_finds_a_difference():
    agreed = 0
    for b in range(60):
        for c in range(60):
            low, high = difference_interval(Discordant(b, c, 400), 0.05)
            left_out, found = not low <= 0 <= high, mcnemar(Discordant(b, c, 400)) < 0.05
            assert found or not left_out, (b, c)
            agreed += found == left_out
    assert agreed > 0.98 * 3600


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 7), (5, 5), (12, 30), (200, 150)])
def test_mcnemar_agrees_with_two_libraries(b, c):
    expected = reference_mcnemar([[400, b], [c, 100]], exact=True).pvalue if b + c else 1.0
    assert mcnemar(Discordant(b, c, 1000)) == pytest.approx(expected)
    if b + c:
        assert mcnemar(Discordant(b, c, 1000)) == pytest.approx(binomtest(b, b + c, 0.5).pvalue)


def test_swapping_the_two_turns_everything_round():
    random = np.random.default_rng(0)
    first, second = list(random.random(80) < 0.8), list(random.random(80) < 0.6)
    there, back = compare("a", first, "b", second, 0.05), compare("b", second, "a", first, 0.05)
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert (there.only_contender, there.only_against) == (back.only_against, back.only_contender)


def test_the_interval_holds_the_difference_and_stays_within_bounds():
    for n in (1, 2, 10):
        for b in range(n + 1):
            for c in range(n + 1 - b):
                low, high = difference_interval(Discordant(b, c, n), 0.05)
                assert -1 <= low <= (b - c) / n <= high <= 1


def test_no_differing_row_gives_no_evidence_but_a_width():
    z2 = 1.959963984540054**2
    nothing = Discordant(0, 0, 50)
    assert mcnemar(nothing) == 1
    assert difference_interval(nothing, 0.05, continuity=0) == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)))
    low, high = difference_interval(nothing, 0.05)
    assert (low, (50 * high - 1) ** 2) == pytest.approx((-high, z2 * 50 * high * (1 - high)))


@pytest.mark.parametrize(("n", "only_first", "only_second"), [(50, 0.2, 0.1), (100, 0.05, 0.05), (200, 0.12, 0.03)])
def test_95_percent_intervals_cover_the_truth_95_percent_of_the_time_and_not_much_more(n, only_first, only_second):
    random = np.random.default_rng(1)
    draws = random.multinomial(n, [only_first, only_second, 1 - only_first - only_second], size=1500)
    intervals = [difference_interval(Discordant(int(b), int(c), n), 0.05) for b, c, _ in draws]
    covered = np.mean([low <= only_first - only_second <= high for low, high in intervals])
    assert 0.95 <= covered <= 0.99


def test_equal_contenders_differ_significantly_at_most_5_percent_of_the_time():
    random = np.random.default_rng(2)
    draws = random.multinomial(300, [0.1, 0.1, 0.8], size=1500)
    assert np.mean([mcnemar(Discordant(int(b), int(c), 300)) < 0.05 for b, c, _ in draws]) <= 0.06


def test_holm_agrees_with_statsmodels():
    random = np.random.default_rng(3)
    for size in (1, 2, 7):
        p_values = list(random.random(size) ** 3)
        assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([]) == []


def test_rows_of_unequal_number_are_not_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        count([True], [True, False])
