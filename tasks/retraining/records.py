"""The small records of this room."""

from datetime import datetime
from enum import StrEnum

from tasks.records import Decision, Model, Reason, Trigger, Verdict, Why


class State(StrEnum):
    """What was found of a trigger."""

    DUE = "due"
    """A reason for a bake-off."""
    ANSWERED = "answered"
    """It would be one, but a verdict has dealt with it."""
    QUIET = "quiet"
    """Nothing changed."""
    UNKNOWN = "unknown"
    """It cannot be told, and is no reason."""


class Signal(Reason):
    """What was found of one trigger."""

    state: State

    def reason(self) -> Reason:
        """As it stands in a verdict."""
        return Reason(**self.model_dump(exclude={"state"}))


class Looked(Model):
    """Everything that was looked at."""

    name: str
    """The bake-off's."""
    signals: list[Signal]

    @property
    def why(self) -> Why | None:
        """Why a bake-off is due; None where none is."""
        reasons = [signal.reason() for signal in self.signals if signal.state is State.DUE]
        return Why(words="; ".join(reason.words for reason in reasons), reasons=reasons) if reasons else None

    def retraining(self, run_id: str = "", verdict: Verdict | None = None) -> "Retraining":
        """What came of it."""
        return Retraining(
            run_id=run_id, name=self.name, due=self.why is not None, words=self.words, signals=self.signals, verdict=verdict
        )

    @property
    def words(self) -> str:
        """What was found, in a sentence."""
        if self.why:
            return f"A new bake-off of {self.name} is due: {self.why.words}."
        kinds = ", ".join(dict.fromkeys(signal.kind.value for signal in self.signals)) or "nothing"
        return f"Nothing changed, so no bake-off of {self.name} is due (looked at: {kinds})."


class Retraining(Model):
    """What `bakeoff retrain` came to. The documented JSON of `--output json`."""

    run_id: str
    """Of the flow run; empty for a dry run."""
    name: str
    due: bool
    words: str
    signals: list[Signal]
    verdict: Verdict | None
    """Of the bake-off that ran; null where none was due, and for a dry run."""


class Answer(Model):
    """What a verdict dealt with."""

    run_id: str
    when: datetime
    decision: Decision
    data: str
    """The source's revision: a commit, or a hash of the files."""
    question: str
    """Hash of what the config asked (`question_of`)."""
    reasons: list[tuple[Trigger, str, int]] = []
    """Kind, subject and level of the reasons for which it ran."""

    def words(self) -> str:
        """Such as `run 0a1b2c3d of 2026-11-25 (keep champion)`."""
        return f"run {self.run_id[:8]} of {self.when:%Y-%m-%d} ({self.decision.value.replace('_', ' ')})"


class Answers(Model):
    """What the verdicts of one bake-off dealt with, the newest last."""

    answers: list[Answer] = []

    def to(self, kind: Trigger, subject: str, level: int = 0) -> Answer | None:
        """The newest verdict of a run that had this very reason, or more of it."""
        wanted = (
            answer for answer in reversed(self.answers) if any(_covers(given, kind, subject, level) for given in answer.reasons)
        )
        return next(wanted, None)


def _covers(given: tuple[Trigger, str, int], kind: Trigger, subject: str, level: int) -> bool:
    return given[:2] == (kind, subject) and given[2] >= level
