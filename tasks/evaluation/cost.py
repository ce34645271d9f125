"""What 1,000 predictions cost: what was paid for tokens, and the time of the machine that made them."""

import math
from collections.abc import Sequence

from tasks.records import Failure, Prediction, PredictionsRecord
from tasks.settings import Settings

NEVER_ASKED = {Failure.BUDGET, Failure.STOPPED}


def usd_per_1000(
    rows: Sequence[Prediction], rows_per_second: float, usd_per_hour: float | None, beside: float | None = 0.0
) -> float | None:
    """Dollars for 1,000 rows; None when it cannot be known (no price for the machine, no speed, no row that was asked).

    Args:
        rows: their `cost_usd` is what was paid to an endpoint; rows that were never asked do not make the others cheaper.
        rows_per_second: of the machine; only needed where its time has a price.
        beside: dollars a row for the time of further machines; None where not known.
    """
    asked = [row for row in rows if row.failure not in NEVER_ASKED]
    if not asked or usd_per_hour is None or beside is None:
        return None
    machine_usd = 0.0
    if usd_per_hour:
        if not (math.isfinite(rows_per_second) and rows_per_second > 0):
            return None
        machine_usd = usd_per_hour / 3600 / rows_per_second
    return 1000 * (sum(row.cost_usd for row in asked) / len(asked) + machine_usd + beside)


def beside_usd(predictions: PredictionsRecord, settings: Settings) -> float | None:
    """Dollars a row for the time of further machines; 0 where there are none, None where it cannot be known."""
    costs = [settings.time_usd(machine, seconds) for machine, seconds in predictions.beside.items()]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
