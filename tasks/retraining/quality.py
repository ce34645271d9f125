"""Quality: is the champion still as right on fresh labelled rows as it was on test?"""

from collections.abc import Sequence

from tasks.config import Quality
from tasks.contenders.usable import fault_of
from tasks.data.answers import same_text
from tasks.records import Answer, Record, Trigger
from tasks.retraining.champion import Reigning
from tasks.retraining.records import Answers, Signal, State
from tasks.retraining.rows import FILE, REFERENCE, RowsRecord
from tasks.retraining.statistics import fall
from tasks.verdict.wording import p_value, percent
from tasks.workspace import Building, Stage, Workspace, digest

STAGE = Stage("quality", 1, ("tasks.retraining.quality", "tasks.retraining.statistics"))
LEVELS = 20
"""Steps of a fall from 0 to 1: one that was answered is a reason again where it is a step deeper."""


class QualityRecord(Record):
    """How right the champion is on fresh rows."""

    right: int
    rows: int
    p_value: float
    """One-sided, that it is less than the margin below what it was."""


def find_quality(asked: Quality, reigning: Reigning, rows: RowsRecord, answers: Answers, workspace: Workspace) -> Signal:
    """Whether the champion's accuracy has fallen by more than the margin. Rows without a usable answer count as wrong.

    Raises:
        BudgetReached, EndpointError: the champion is a prompt, and could not be asked about all of them.
    """
    kind, test = Trigger.QUALITY, reigning.champion.scores.get("test")
    if rows.usable < asked.least_rows:
        words = f"{rows.usable} fresh labelled rows are too few to tell a fall (triggers.quality.least_rows is {asked.least_rows})"
        return Signal(kind=kind, state=State.UNKNOWN, words=words, figures={"rows": rows.usable})
    if not test:
        words = "the champion's record does not say how right it was on test, so a fall cannot be told"
        return Signal(kind=kind, state=State.UNKNOWN, words=words)
    if reigning.config and reigning.config.grader:
        words = "a grader went over the champion's answers on test, and none goes over fresh ones, so a fall cannot be told"
        return Signal(kind=kind, state=State.UNKNOWN, words=words)
    before, tested = float(test["accuracy"]), int(test["n"])

    def build(building: Building) -> QualityRecord:
        right = sum(_is_right(*each) for each in _pairs(rows, reigning))
        p = fall(right, rows.rows, round(before * tested), tested, asked.margin, asked.alpha)
        return QualityRecord(right=right, rows=rows.rows, p_value=p)

    made_from = [rows.fingerprint, reigning.champion.sha256]
    config = {"before": before, "tested": tested, "margin": asked.margin, "alpha": asked.alpha}
    found = workspace.produce(STAGE, made_from, config, QualityRecord, build, "quality")
    return _signal(asked, found, before, tested, digest([reigning.champion.sha256]), answers)


def _signal(asked: Quality, found: QualityRecord, before: float, tested: int, subject: str, answers: Answers) -> Signal:
    kind, now = Trigger.QUALITY, found.right / found.rows
    figures: dict[str, float | str] = {
        "accuracy": round(now, 4),
        "rows": found.rows,
        "accuracy_before": round(before, 4),
        "rows_before": tested,
        "p_value": found.p_value,
    }
    said = f"{percent(now)} right on {found.rows:,} fresh rows, {percent(before)} on {tested:,} test rows when it was chosen"
    asks = f"{p_value(found.p_value)} for a fall of more than {100 * asked.margin:g} points"
    if found.p_value >= asked.alpha:
        return Signal(kind=kind, state=State.QUIET, words=f"the champion holds: {said} ({asks})", figures=figures)
    words, level = f"the champion has fallen: {said} ({asks})", int(LEVELS * (before - now))
    tried = answers.to(kind, subject, level)
    if tried:
        words = f"{words}; {tried.words()} dealt with it"
        return Signal(kind=kind, state=State.ANSWERED, words=words, figures=figures, subject=subject, level=level)
    return Signal(kind=kind, state=State.DUE, words=words, figures=figures, subject=subject, level=level)


def _pairs(rows: RowsRecord, reigning: Reigning) -> list[tuple[Answer, str, Sequence[str]]]:
    """Each answer, with what is right and what may be answered."""
    import pyarrow.parquet

    right = pyarrow.parquet.read_table(rows.folder / FILE, columns=[REFERENCE])[REFERENCE].to_pylist()
    labels = reigning.manifest.labels
    return [(answer, reference, labels) for answer, reference in zip(reigning.says(rows), right, strict=True)]


def _is_right(answer: Answer, reference: str, labels: Sequence[str]) -> bool:
    if fault_of(answer, labels):
        return False
    return answer.label == reference if labels else same_text(answer.answer, reference)
