"""Preference pairs: for one prompt an answer that is preferred and one that is not.

From a file: `prompt`, `chosen`, `rejected`; or graded answers, `prompt`, `answer`, `grade` (a number, or correct and wrong), where
the best answers to a prompt are preferred to the worst. Or from the train rows: what the supervised model answers is graded against
the row's own completion, which is preferred to every wrong one.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.config import Dataset, Tuned
from tasks.data.answers import same_text
from tasks.data.reading import batches, read_source
from tasks.data.sources import Source, find_source
from tasks.data.validate import as_text
from tasks.errors import BadConfig, BadData
from tasks.settings import Settings

FILE = "pairs.parquet"
PAIRED, GRADED = ("prompt", "chosen", "rejected"), ("prompt", "answer", "grade")
GRADES = {"correct": 1.0, "right": 1.0, "true": 1.0, "wrong": 0.0, "incorrect": 0.0, "false": 0.0}
HELD_OUT = 0.2
"""Share of the prompts whose pairs nothing learns from."""


class Pair(NamedTuple):
    """One preference."""

    prompt: str
    chosen: str
    rejected: str


def find_preferences(tuned: Tuned, settings: Settings) -> Source | None:
    """The file that a recipe names; None where the train rows make the pairs. Errors as of `find_source`."""
    if not tuned.preferences:
        return None
    try:
        return find_source(Dataset(source=tuned.preferences, inputs=["prompt"], label="chosen"), settings)
    except BadConfig as error:
        raise BadConfig(f"tuned contender {tuned.name!r}, preferences: {error}") from None


def read_pairs(tuned: Tuned, source: Source, cache: Path) -> list[Pair]:
    """The pairs in a file, of either form.

    Raises:
        BadData: it has neither form's columns, an empty cell, a grade that is none, or no pair.
    """
    rows: list[dict[str, str]] = []
    for split in read_source(source, cache).values():
        columns = next((form for form in (PAIRED, GRADED) if set(form) <= set(split.columns())), None)
        if columns is None:
            raise BadData(
                f"preferences {tuned.preferences} need columns {', '.join(PAIRED)} or {', '.join(GRADED)}; there are "
                f"{', '.join(split.columns())}"
            )
        for part in split.parts:
            for first, found in batches(part, list(columns)):
                for place, row in enumerate(found, first + 1):
                    cells = {name: as_text(row[name]) for name in columns}
                    empty = [name for name, text in cells.items() if not text.strip()]
                    if empty:
                        raise BadData(f"preferences {tuned.preferences}, row {place}: {empty[0]} is empty")
                    rows.append(cells)
    pairs = [Pair(row["prompt"], row["chosen"], row["rejected"]) for row in rows if "chosen" in row]
    pairs += pairs_of_grades([(row["prompt"], row["answer"], _grade(tuned, row["grade"])) for row in rows if "grade" in row])
    kept = [pair for pair in dict.fromkeys(pairs) if not same_text(pair.chosen, pair.rejected)]
    if len({pair.prompt for pair in kept}) < 2:
        raise BadData(f"preferences {tuned.preferences} hold {len(kept)} usable pairs: two prompts with a pair each are the least")
    return chosen_by_hash(kept, tuned.most_pairs)


def pairs_of_grades(graded: Iterable[tuple[str, str, float]]) -> list[Pair]:
    """Of each prompt, every best answer against every worst one; nothing where all are graded alike."""
    answers: dict[str, dict[str, float]] = defaultdict(dict)
    for prompt, answer, grade in graded:
        answers[prompt][answer] = grade
    made = []
    for prompt, by_answer in answers.items():
        best, worst = max(by_answer.values()), min(by_answer.values())
        if best > worst:
            made += [
                Pair(prompt, good, bad)
                for good, grade in by_answer.items()
                if grade == best
                for bad, other in by_answer.items()
                if other == worst
            ]
    return made


def split_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and pairs of other prompts that are held out; by a hash of the prompt, at least one prompt each."""
    prompts = sorted({pair.prompt for pair in pairs}, key=_hash)
    held = set(prompts[: max(1, round(HELD_OUT * len(prompts)))])
    return [pair for pair in pairs if pair.prompt not in held], [pair for pair in pairs if pair.prompt in held]


def chosen_by_hash(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many, whatever their order was."""
    return sorted(pairs, key=lambda pair: _hash("\x1f".join(pair)))[:most]


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """As parquet."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([pair._asdict() for pair in pairs]), path)


def load_pairs(path: Path) -> list[Pair]:
    """What `write_pairs` wrote."""
    import pyarrow.parquet

    rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return [Pair(**row) for row in rows]


def _grade(tuned: Tuned, text: str) -> float:
    try:
        return GRADES[text.strip().casefold()] if text.strip().casefold() in GRADES else float(text)
    except ValueError:
        raise BadData(f"preferences {tuned.preferences}: grade {text[:40]!r} is neither a number nor correct or wrong") from None


def _hash(text: str) -> bytes:
    return hashlib.sha256(b"pair" + text.encode()).digest()
