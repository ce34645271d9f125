"""What 1,000 predictions cost: what was paid for tokens, and the time of the machine that made them."""

import math
from collections.abc import Sequence

from tasks.records import Failure, Prediction
from tasks.settings import Settings

NEVER_ASKED = {Failure.BUDGET, Failure.STOPPED}


def usd_per_1000(rows: Sequence[Prediction], rows_per_second: float, usd_per_hour: float | None) -> float | None:
    """Dollars for 1,000 rows; None when it cannot be known (no price for the machine, no speed, no row that was asked).

    Args:
        rows: their `cost_usd` is what was paid to an endpoint; rows that were never asked do not make the others cheaper.
        rows_per_second: of the machine; only needed where its time has a price.
    """
    asked = [row for row in rows if row.failure not in NEVER_ASKED]
    if not asked or usd_per_hour is None:
        return None
    machine_usd = 0.0
    if usd_per_hour:
        if not (math.isfinite(rows_per_second) and rows_per_second > 0):
            return None
        machine_usd = usd_per_hour / 3600 / rows_per_second
    return 1000 * (sum(row.cost_usd for row in asked) / len(asked) + machine_usd)


def hourly_price(machine: str, settings: Settings) -> float | None:
    """What the operator says that an hour of a device, or of `endpoint:NAME`, costs; None where nothing is said of the device."""
    kind, _, name = machine.partition(":")
    if kind == "endpoint":
        return settings.endpoint(name).usd_per_hour
    return settings.usd_per_hour.get(machine)
