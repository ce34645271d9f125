"""Rows in, answers out, for files and for the server alike: a row that cannot be asked about has a failure for its answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.contenders.loader import Predictor
from tasks.contenders.usable import closed
from tasks.data.validate import as_text
from tasks.records import Answer, Example, Failure
from tasks.workspace import digest

Inputs = dict[str, str]
"""Text by input column, in the contender's order."""


def read_row(row: Mapping[str, Any], columns: Sequence[str], max_characters: int) -> Inputs | Failure:
    """The inputs of a row, or why it has none that can be asked about."""
    inputs = {}
    for column in columns:
        value = row.get(column)
        if column not in row or isinstance(value, list | dict | bytes):
            return Failure.NOT_TEXT
        inputs[column] = as_text(value)
    if not all(map(_is_text, inputs.values())):
        return Failure.NOT_TEXT
    if not any(text.strip() for text in inputs.values()):
        return Failure.EMPTY
    return Failure.TOO_LONG if sum(map(len, inputs.values())) > max_characters else inputs


def answer_rows(predictor: Predictor, rows: Sequence[Inputs | Failure], labels: Sequence[str], first: int = 1) -> list[Answer]:
    """One answer a row, in order. Rows that say the same are asked about once, and only the first of them costs anything.

    Args:
        labels: what may be answered; empty for free text.
        first: the number of the first row, for what is said about rows.

    Raises:
        BudgetReached, EndpointError: as asking raises them; what was paid for is kept.
    """
    distinct: dict[tuple[str, ...], Example] = {}
    for number, row in enumerate(rows, first):
        if not isinstance(row, Failure):
            distinct.setdefault(tuple(row.values()), Example(example=digest(row), row=number, inputs=row, label=None))
    given = predictor.predict(list(distinct.values())) if distinct else []
    said = {key: closed(answer, labels) for key, answer in zip(distinct, given, strict=True)}
    answers = []
    for number, row in enumerate(rows, first):
        if isinstance(row, Failure):
            answers.append(Answer(answer="", label=None, failure=row))
        else:
            key = tuple(row.values())
            paid = distinct[key].row == number
            answers.append(said[key] if paid else said[key].model_copy(update={"cost_usd": 0.0}))
    return answers


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8 and holds no NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
