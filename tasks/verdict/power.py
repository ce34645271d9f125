"""How many rows would tell: the power of McNemar's exact test, from how often two contenders were seen to differ."""

import math
from functools import lru_cache
from statistics import NormalDist

from tasks.verdict.statistics import CONTINUITY, Discordant

POWER = 0.8
"""The chance of a significant result that is planned for."""
SMALLEST = 0.01
"""A difference that was seen to be smaller is planned for as if it were this large, where that takes more rows than there are."""
NEAREST = 0.001
"""Nothing smaller is planned for."""
MOST_ROWS = 2**31


@lru_cache(maxsize=4096)
def power(n: int, discordant: float, difference: float, alpha: float) -> float:
    """The chance that the exact test on `n` rows finds the better contender better.

    Args:
        discordant: share of rows that only one of the two has right.
        difference: share that only the better one has right, less the other's; above 0, at most `discordant`.
        alpha: of the two-sided test.
    """
    import numpy
    from scipy.stats import binom

    spread = 6 * math.sqrt(n * discordant * (1 - discordant)) + 6
    middle = n * discordant
    differing = numpy.arange(max(1, math.floor(middle - spread)), min(n, math.ceil(middle + spread)) + 1)
    critical = binom.isf(alpha / 2, differing, 0.5) + 1  # the fewest wins with P(as many or more) <= alpha / 2
    share = (discordant + difference) / 2 / discordant
    won = binom.sf(critical - 1, differing, min(share, 1.0))
    return float((binom.pmf(differing, n, discordant) * won).sum())


def rows_wanted(counts: Discordant, difference: float, alpha: float) -> int:
    """How many rows in all would tell, with a chance of `POWER`, that a contender is so much better (at least `NEAREST`).

    Args:
        counts: what was seen; only how often the two differed is used.
    """
    gain = max(difference, NEAREST)
    discordant = min(1.0, max((counts.only_first + counts.only_second) / counts.n, gain))
    low = high = _by_the_normal(discordant, gain, alpha)
    while power(low, discordant, gain, alpha) >= POWER and low > 1:
        low //= 2
    while power(high, discordant, gain, alpha) < POWER and high < MOST_ROWS:
        high *= 2
    while high - low > max(1, high // 200):  # to half a percent: the discordance is an estimate
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, discordant, gain, alpha) >= POWER else (middle, high)
    return high


def rows_to_bound(counts: Discordant, distance: float, alpha: float) -> int:
    """How many rows in all would show, with a chance of `POWER`, that a difference lies above a bound that is `distance` below what
    was seen; as `rows_wanted` for the rest."""
    gain = max(distance, NEAREST)
    rows = _by_the_normal(max((counts.only_first + counts.only_second) / counts.n, gain), gain, alpha)
    # the interval is corrected for continuity:
    return math.ceil(rows / 4 * (1 + math.sqrt(1 + 4 * CONTINUITY / (rows * gain))) ** 2)


def _by_the_normal(discordant: float, gain: float, alpha: float) -> int:
    """Connor R. J. (1987), Sample size for testing differences in proportions for the paired-sample design, Biometrics
    43:207-211."""
    z = NormalDist()
    wide = z.inv_cdf(1 - alpha / 2) * math.sqrt(discordant) + z.inv_cdf(POWER) * math.sqrt(max(discordant - gain**2, 0.0))
    return max(1, math.ceil((wide / gain) ** 2))


def rows_by_interval(n: int, interval: tuple[float, float], half_step: float, gain: float, alpha: float) -> int:
    """How many more rows would show a gain, for a figure of which only an interval on `n` rows is known. 0 or less where `n` are
    enough.

    Args:
        half_step: by which the interval was widened on either side; it shrinks with the rows, and the rest of the width with
            their root.
    """
    z, gain = NormalDist(), max(gain, NEAREST)
    error = ((interval[1] - interval[0]) / 2 - half_step) / z.inv_cdf(1 - alpha / 2)
    wide = (z.inv_cdf(1 - alpha / 2) + z.inv_cdf(POWER)) * error * math.sqrt(n)
    wanted = ((wide + math.sqrt(wide**2 + 4 * n * half_step * gain)) / (2 * gain)) ** 2
    return math.ceil(wanted) - n
