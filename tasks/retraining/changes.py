"""What changed since the champion was chosen: the data, the question, the models' announced ends, the calendar."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from tasks.config import BakeoffConfig, Prompt
from tasks.records import AskedModel, Decision, Trigger
from tasks.registry.champion import ChampionVersion
from tasks.registry.history import changed, flat
from tasks.retraining.memory import question_of
from tasks.retraining.records import Answer, Answers, Signal, State
from tasks.workspace import digest

SHOWN = 5
"""Changes that are named."""

CONTENDERS = ("prompts", "tuned", "hybrids")
"""The keys that hold lists of contenders."""


@dataclass(frozen=True)
class Standing:
    """How a bake-off stands."""

    config: BakeoffConfig
    champion: ChampionVersion | None
    recorded: BakeoffConfig | None
    """The config that the champion was chosen by; None where there is no champion, or this release does not know its config."""
    answers: Answers
    revision: str
    """Of the data, as they are now."""

    @property
    def question(self) -> str:
        """What the config asks, as a hash."""
        return digest(question_of(self.config))

    def answer(self, data: str = "", question: str = "") -> Answer | None:
        """The newest verdict over these data, or to this question; of both where both are given."""
        fits = (each for each in reversed(self.answers.answers) if data in ("", each.data) and question in ("", each.question))
        return next(fits, None)


def recorded_by(champion: ChampionVersion | None) -> BakeoffConfig | None:
    """The config that the champion was chosen by; None where this release does not know it, or there is none."""
    try:
        return BakeoffConfig.model_validate(champion.config) if champion else None
    except ValidationError:
        return None


def find_changes(standing: Standing, models: dict[str, AskedModel], now: datetime | None = None) -> Iterator[Signal]:
    """A signal for each trigger that is on and needs no rows.

    Args:
        models: behind the endpoints that the champion or a contender asks, by endpoint.
    """
    triggers, now = standing.config.triggers, now or datetime.now(UTC)
    if triggers.champion:
        yield _champion(standing)
    if triggers.contenders and standing.champion:
        yield _contenders(standing)
    if triggers.data and standing.champion:
        yield _data(standing, standing.champion)
    if triggers.shutdown_days is not None:
        yield from (_shutdown(standing, model, triggers.shutdown_days, now) for model in models.values())
    if triggers.age_days is not None:
        yield _age(standing, triggers.age_days, now)


def _champion(standing: Standing) -> Signal:
    kind, champion = Trigger.CHAMPION, standing.champion
    if champion:
        words = f"{champion.contender} is champion, version {champion.version} of {champion.published:%Y-%m-%d}"
        return Signal(kind=kind, state=State.QUIET, words=words, figures={"version": champion.version})
    tried = standing.answer(standing.revision, standing.question)
    if tried and tried.decision is not Decision.PUBLISH:
        return Signal(kind=kind, state=State.ANSWERED, words=f"no champion yet, as {tried.words()} found on the same data")
    return Signal(kind=kind, state=State.DUE, words="there is no champion yet", figures={"data": standing.revision[:12]})


def _contenders(standing: Standing) -> Signal:
    kind, recorded, subject = Trigger.CONTENDERS, standing.recorded, standing.question
    if recorded and digest(question_of(recorded)) == subject:
        return Signal(kind=kind, state=State.QUIET, words="the config asks what the champion was chosen by")
    tried = standing.answer(question=subject)
    if tried:
        words = f"the config asks for something else than the champion was chosen by, which {tried.words()} answered"
        return Signal(kind=kind, state=State.ANSWERED, words=words, subject=subject)
    if recorded is None and not standing.answers.answers:
        words = "the champion's record holds no config that this release knows, so a change of it cannot be told"
        return Signal(kind=kind, state=State.UNKNOWN, words=words)
    before, after = (flat(question_of(each)) for each in (recorded or standing.config, standing.config))
    found = changed(before, after)
    named = _named(before, after)
    shown = [f"{key}: {_shown(old)} → {_shown(new)}" for key, (old, new) in list(named.items())[:SHOWN]]
    more = f"; {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    words = f"the config asks for something else than the champion was chosen by ({'; '.join(shown) or 'another release'}{more})"
    return Signal(kind=kind, state=State.DUE, words=words, subject=subject, figures={"changed": len(found)})


def _named(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple[object, object]]:
    """What changed, where a contender that came or went is one change, told by its name, and not one a key."""
    found: dict[str, tuple[object, object]] = {}
    for key, values in changed(before, after).items():
        section, _, rest = key.partition(".")
        place = f"{section}.{rest.partition('.')[0]}"
        names = before.get(f"{place}.name"), after.get(f"{place}.name")
        if section in CONTENDERS and any(name is None for name in names):
            if any(names):
                found[place] = names
        else:
            found[key] = values
    return found


def _data(standing: Standing, champion: ChampionVersion) -> Signal:
    kind, now = Trigger.DATA, standing.revision
    known = champion.lineage.data.revision if champion.lineage else ""
    figures: dict[str, float | str] = {"before": known[:12], "now": now[:12]}
    if known == now:
        return Signal(kind=kind, state=State.QUIET, words=f"the data are those of version {champion.version}", figures=figures)
    tried = standing.answer(data=now)
    if tried:
        return Signal(kind=kind, state=State.ANSWERED, words=f"{tried.words()} judged these data", subject=now, figures=figures)
    if not known and not standing.answers.answers:
        words = "the champion's record does not say which data it was chosen on, so new ones cannot be told"
        return Signal(kind=kind, state=State.UNKNOWN, words=words, figures=figures)
    source = standing.config.dataset.source
    words = f"{source} has a new version: {now[:12]}, where the champion was chosen on {known[:12] or 'one not recorded'}"
    return Signal(kind=kind, state=State.DUE, words=words, subject=now, figures=figures)


def _shutdown(standing: Standing, model: AskedModel, within: int, now: datetime) -> Signal:
    kind = Trigger.SHUTDOWN
    if model.shutdown_date is None:
        return Signal(kind=kind, state=State.QUIET, words=f"no end of {model.model} ({model.endpoint}) is announced")
    left = (model.shutdown_date - now.date()).days
    figures: dict[str, float | str] = {"days": left, "day": str(model.shutdown_date)}
    ends = f"{'has ended' if left < 0 else 'ends'} on {model.shutdown_date}" + (f", in {left} days" if left >= 0 else "")
    words = f"{model.model}, which {_who_asks(standing, model.endpoint)}, {ends}"
    if left > within:
        return Signal(kind=kind, state=State.QUIET, words=words, figures=figures)
    subject = digest([model.endpoint, model.model, str(model.shutdown_date)])
    tried = standing.answers.to(kind, subject)
    if tried:
        return Signal(
            kind=kind, state=State.ANSWERED, words=f"{words}; {tried.words()} dealt with it", subject=subject, figures=figures
        )
    return Signal(kind=kind, state=State.DUE, words=words, subject=subject, figures=figures)


def _age(standing: Standing, most: float, now: datetime) -> Signal:
    times = [answer.when for answer in standing.answers.answers] + ([standing.champion.published] if standing.champion else [])
    if not times:
        return Signal(kind=Trigger.AGE, state=State.QUIET, words="there is no verdict yet that could be old")
    days = (now - max(times)) / timedelta(days=1)
    words = f"the newest verdict is {days:.1f} days old (triggers.age_days is {most:g})"
    figures: dict[str, float | str] = {"days": round(days, 2), "most": most}
    return Signal(kind=Trigger.AGE, state=State.DUE if days >= most else State.QUIET, words=words, figures=figures)


def endpoints_asked(standing: Standing) -> list[str]:
    """The endpoints that the champion, a contender or the grader asks."""
    return list(dict.fromkeys([*_champions_endpoint(standing), *(prompt.endpoint for prompt in _asking(standing.config))]))


def _asking(config: BakeoffConfig) -> list[Prompt]:
    return [*config.prompts, *([config.grader.prompt] if config.grader and config.grader.prompt else [])]


def _champions_endpoint(standing: Standing) -> list[str]:
    champion, recorded = standing.champion, standing.recorded
    if not champion or not recorded:
        return []
    parts = {champion.contender, *(each.prompt for each in recorded.hybrids if each.name == champion.contender)}
    return [prompt.endpoint for prompt in recorded.prompts if prompt.name in parts]


def _who_asks(standing: Standing, endpoint: str) -> str:
    if endpoint in _champions_endpoint(standing):
        return "the champion asks"
    return f"{', '.join(prompt.name for prompt in _asking(standing.config) if prompt.endpoint == endpoint)} would ask"


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
