"""What 1,000 predictions cost: what was paid for tokens, the time of the machine that made them, and training spread over use."""

import math
from collections.abc import Sequence

from tasks.config import Use
from tasks.records import Arm, ContenderRecord, Failure, Money, Prediction, PredictionsRecord
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


def money_of(contender: ContenderRecord, predictions: PredictionsRecord, rows: Sequence[Prediction], settings: Settings) -> Money:
    """What these rows of a contender cost, tokens and time by themselves, and what training it took.

    Args:
        rows: test's; those that were never asked do not count.
        settings: say what an hour of each machine costs.
    """
    price, beside = settings.hourly_price(predictions.machine), beside_usd(predictions, settings)
    tokens = usd_per_1000(rows, 0.0, 0.0)
    both = usd_per_1000(rows, predictions.rows_per_second, price, beside)
    return Money(
        tokens_usd_per_1000=tokens,
        time_usd_per_1000=None if tokens is None or both is None else both - tokens,
        machine=predictions.machine,
        usd_per_hour=price,
        rows_per_second=predictions.rows_per_second,
        training_usd=training_usd(contender, settings),
    )


def training_usd(contender: ContenderRecord, settings: Settings) -> float | None:
    """Dollars for the hours that training took: all trials of a search and all seeds, but no learning curve. 0 where nothing was
    trained on a device for long, None where it is not known (a champion from the store brings no record of it)."""
    facts, sweep, repeats = contender.training, contender.sweep, contender.repeats
    if facts is None:
        return None if contender.arm in (Arm.TUNED, Arm.HYBRID) else 0.0
    searched, repeated = sweep.seconds if sweep else 0.0, repeats.seconds if repeats else 0.0
    return settings.time_usd(facts.device, searched + repeated or facts.seconds)


def spread_training(money: Money, use: Use) -> Money:
    """The same with training spread over the predictions that are foreseen, and the total."""
    training = None if money.training_usd is None else 1000 * money.training_usd / (use.per_month * use.months)
    parts = money.tokens_usd_per_1000, money.time_usd_per_1000, training
    known = [part for part in parts if part is not None]
    total = sum(known) if len(known) == len(parts) else None
    return money.model_copy(update={"training_usd_per_1000": training, "total_usd_per_1000": total})
