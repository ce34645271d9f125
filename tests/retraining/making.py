"""Standings made by hand: a champion's record, what verdicts answered, and what there is now."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.config import BakeoffConfig, parse_config
from tasks.records import Arm, AskedModel, Decision, Trigger
from tasks.registry.champion import ChampionVersion
from tasks.registry.lineage import DataLineage, Environment, Lineage
from tasks.retraining.changes import Standing, find_changes, recorded_by
from tasks.retraining.memory import question_of
from tasks.retraining.records import Answer, Answers, Signal
from tasks.workspace import digest

NOW = datetime(2026, 11, 25, 2, tzinfo=UTC)
BEFORE, AFTER = "a" * 64, "b" * 64
"""Revisions of the data."""
CONFIG: dict[str, Any] = {
    "name": "tickets",
    "dataset": "tickets.csv",
    "prompts": [{"name": "asked", "endpoint": "there"}],
    "tuned": [{"name": "lora"}],
}


def config(**changes: Any) -> BakeoffConfig:
    return parse_config({**CONFIG, **changes})


def lineage(revision: str = BEFORE, fingerprint: str = "rows", predictions: str = "1" * 64) -> Lineage:
    data = DataLineage(source="tickets.csv", revision=revision, fingerprint=fingerprint, splits={}, rows={})
    around = Environment(code="", commit="", lock="", python="", platform="", packages={})
    hashes = {"config": "", "verdict": "", "predictions": predictions}
    return Lineage(data=data, environment=around, bases={}, prompts={}, prices={}, usd_per_hour={}, **hashes)


def champion(contender: str = "lora", days: float = 3, **changes: Any) -> ChampionVersion:
    """Version 2, published `days` ago on the data `BEFORE`."""
    about = {
        "name": "tickets",
        "version": 2,
        "previous": 1,
        "sha256": "c" * 64,
        "uri": "s3://bucket/contenders/c",
        "contender": contender,
        "arm": Arm.TUNED,
        "kind": "tuned",
        "fingerprint": "f",
        "run_id": "run-2",
        "published": NOW - timedelta(days=days),
        "publisher": "somebody@somewhere",
        "decision": Decision.PUBLISH,
        "reason": "It was better.",
        "dataset": "rows",
        "comparison": None,
        "contenders": {contender: "f"},
        "config": config().model_dump(mode="json"),
        "scores": {"test": {"accuracy": 0.9, "n": 400}},
        "lineage": lineage(),
    }
    return ChampionVersion.model_validate({**about, **changes})


def answer(decision: Decision, data: str, asked: BakeoffConfig, days: float = 1, reasons: Any = ()) -> Answer:
    """What a verdict of `days` ago dealt with."""
    question = digest(question_of(asked))
    when = NOW - timedelta(days=days)
    return Answer(run_id="0a1b2c3d4e", when=when, decision=decision, data=data, question=question, reasons=list(reasons))


def model(day: str | None) -> AskedModel:
    prices = dict.fromkeys(("usd_per_million_input", "usd_per_million_cached", "usd_per_million_output"), 1)
    about = {"endpoint": "there", "model": "m-1", "priced_by": "settings", "priced_on": None, "shutdown_date": day}
    return AskedModel.model_validate({**prices, **about})


def find(
    asked: BakeoffConfig | None = None,
    holder: ChampionVersion | None = None,
    answers: Any = (),
    revision: str = BEFORE,
    models: Any = (),
) -> dict[Trigger, Signal]:
    """The signals by kind."""
    standing = Standing(asked or config(), holder, recorded_by(holder), Answers(answers=list(answers)), revision)
    return {signal.kind: signal for signal in find_changes(standing, {each.endpoint: each for each in models}, NOW)}
