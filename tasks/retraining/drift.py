"""Drift: are incoming rows, and what the champion says of them, still like those of the training set?"""

import heapq
from collections.abc import Iterator
from pathlib import Path

from tasks.config import Drift
from tasks.data.examples import input_text, read_example_file, split_path
from tasks.records import DatasetRecord, Record, Trigger
from tasks.retraining.champion import NO_ANSWER, Reigning
from tasks.retraining.records import Answers, Signal, State
from tasks.retraining.rows import FILE, RowsRecord
from tasks.retraining.statistics import count, label_shift, text_shift
from tasks.verdict.statistics import holm
from tasks.verdict.wording import p_value
from tasks.workspace import Building, Stage, Workspace, digest

STAGE = Stage("drift", 1, ("tasks.retraining.drift", "tasks.retraining.statistics"))
LEVELS = 10
"""Steps of an effect from 0 to 1: a drift that was answered is a reason again where it is a step further."""


class DriftRecord(Record):
    """How far incoming rows are from those of the training set."""

    text: float
    """How well a classifier tells them apart: the area under its curve; 0.5 is chance."""
    text_p: float
    """Corrected by Holm over both tests."""
    labels: float | None
    """The share of the champion's predictions that went from some labels to others; null for free text."""
    labels_p: float | None
    rows: int
    """Incoming ones that were looked at."""
    before: int
    """Training rows that were looked at."""


def find_drift(asked: Drift, reigning: Reigning, rows: RowsRecord, answers: Answers, workspace: Workspace) -> Signal:
    """Whether incoming rows have drifted from those that the champion learned from.

    Raises:
        BudgetReached, EndpointError: the champion is a prompt, and could not be asked about all of them.
    """
    kind = Trigger.DRIFT
    if rows.usable < asked.least_rows:
        words = f"{rows.usable} usable incoming rows are too few to tell a drift (triggers.drift.least_rows is {asked.least_rows})"
        return Signal(kind=kind, state=State.UNKNOWN, words=words, figures={"rows": rows.usable})
    learned, said = reigning.learned_from(), reigning.said()
    if learned is None or said is None:
        words = "the rows that the champion learned from are not in this workspace, so a drift from them cannot be told"
        return Signal(kind=kind, state=State.UNKNOWN, words=words)

    def build(building: Building) -> DriftRecord:
        answered = reigning.says(rows)
        now = count([None if answer.failure else answer.label for answer in answered], NO_ANSWER)
        before = [input_text(example) for example in _some(learned, asked.most_rows)]
        text = text_shift(before, list(_texts(rows.folder / FILE, learned.inputs)))
        labels = label_shift(said.labels, now) if learned.labels else None
        p_values = holm([text.p_value, *([labels.p_value] if labels else [])])
        return DriftRecord(
            text=text.effect,
            text_p=p_values[0],
            labels=labels.effect if labels else None,
            labels_p=p_values[1] if labels else None,
            rows=rows.rows,
            before=len(before),
        )

    made_from = [rows.fingerprint, learned.fingerprint, said.fingerprint, reigning.champion.sha256]
    found = workspace.produce(STAGE, made_from, {"most": asked.most_rows}, DriftRecord, build, "drift")
    return _signal(asked, found, digest([learned.fingerprint, reigning.champion.sha256]), answers)


def _signal(asked: Drift, found: DriftRecord, subject: str, answers: Answers) -> Signal:
    """Only what is both sure and large has drifted: with many rows a trifle is sure."""
    kind = Trigger.DRIFT
    texts = found.text_p < asked.alpha and found.text >= asked.text
    predictions = found.labels is not None and (found.labels_p or 0.0) < asked.alpha and found.labels >= asked.labels
    figures: dict[str, float | str] = {"rows": found.rows, "text": round(found.text, 4), "text_p": found.text_p}
    said = [
        f"a classifier tells {found.rows:,} incoming rows from training rows with an area under the curve of {found.text:.2f} "
        f"({p_value(found.text_p)}; drifted from {asked.text:g} on)"
    ]
    if found.labels is not None and found.labels_p is not None:
        figures |= {"labels": round(found.labels, 4), "labels_p": found.labels_p}
        said.append(
            f"{100 * found.labels:.1f} % of the champion's predictions went to other labels ({p_value(found.labels_p)}; "
            f"drifted from {100 * asked.labels:g} % on)"
        )
    words = ", and ".join(said)
    if not texts and not predictions:
        return Signal(kind=kind, state=State.QUIET, words=f"no drift: {words}", figures=figures)
    what = " and ".join(each for each, drifted in (("texts", texts), ("predictions", predictions)) if drifted)
    words = f"incoming {what} have drifted: {words}"
    level = max(int(LEVELS * (2 * found.text - 1)) if texts else 0, int(LEVELS * (found.labels or 0.0)) if predictions else 0)
    tried = answers.to(kind, subject, level)
    if tried:
        words = f"{words}; {tried.words()} dealt with it, and new labelled rows are what is missing"
        return Signal(kind=kind, state=State.ANSWERED, words=words, figures=figures, subject=subject, level=level)
    return Signal(kind=kind, state=State.DUE, words=words, figures=figures, subject=subject, level=level)


def _some(learned: DatasetRecord, most: int) -> list[dict[str, str]]:
    """Training rows, those with the lowest hashes."""
    rows = ((example.example, example.inputs) for example in read_example_file(split_path(learned, "train")))
    return [inputs for _, inputs in heapq.nsmallest(most, rows, key=lambda row: row[0])]


def _texts(path: Path, columns: list[str]) -> Iterator[str]:
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(path, columns=columns).to_pylist():
        yield input_text({column: row[column] for column in columns})
