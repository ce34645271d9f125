"""What training costs: all of it that made the contender."""

import pytest

from tasks.config import Use
from tasks.evaluation.cost import spread_training, training_usd
from tasks.records import Arm, ContenderRecord, Money, Repeats, SweepRecord, Trial
from tasks.settings import Settings
from tests.reporting.making import FACTS

PRICED = Settings(usd_per_hour={"cpu": 3.60})  # a tenth of a cent a second
RECIPE = {"learning_rate": 0.001, "rank": 8, "targets": "query", "outcome": "complete", "dev_accuracy": 0.8, "epochs": [0.8]}
TRIED = [Trial(number=number, seconds=seconds, **RECIPE) for number, seconds in enumerate((90.0, 100.0, 110.0))]
SWEEP = SweepRecord(trials=TRIED, chosen=1, seconds=300.0)
SEEDS = Repeats(seeds=[1, 2], dev_accuracy=[0.8, 0.8], mean=0.8, spread=0.0, chosen=1, seconds=210.0)


def made(**more: object) -> ContenderRecord:
    facts = FACTS.model_copy(update={"seconds": 100.0})
    return ContenderRecord(name="lora", arm=Arm.TUNED, kind="tuned", occupies="device", training=facts).model_copy(update=more)


@pytest.mark.parametrize(
    ("contender", "usd"),
    [
        (made(), 0.10),
        (made(sweep=SWEEP), 0.30),
        (made(repeats=SEEDS), 0.21),
        (made(sweep=SWEEP, repeats=SEEDS), 0.51),
        (made(training=None), None),
        (made(training=None, arm=Arm.PROMPT), 0.0),
    ],
)
def test_every_trial_and_every_seed_is_paid_for(contender: ContenderRecord, usd: float | None) -> None:
    assert training_usd(contender, PRICED) == (None if usd is None else pytest.approx(usd))


def test_training_is_spread_over_the_predictions_that_are_foreseen() -> None:
    money = Money(
        tokens_usd_per_1000=0.5,
        time_usd_per_1000=0.25,
        machine="cpu",
        usd_per_hour=3.6,
        rows_per_second=4.0,
        training_usd=6.0,
    )
    found = spread_training(money, Use(per_month=1000, months=6))
    assert (found.training_usd_per_1000, found.total_usd_per_1000) == (1.0, 1.75)
    unknown = spread_training(money.model_copy(update={"training_usd": None}), Use())
    assert (unknown.training_usd_per_1000, unknown.total_usd_per_1000) == (None, None)
