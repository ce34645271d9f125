"""A small data set, and a model on loopback that can be interviewed and asked to rewrite its instructions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.data.examples import write_examples
from tasks.records import DatasetRecord, Example, Split
from tests.prompting.loopback import Say, completion

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def small_dataset(folder: Path, rows: int = 40) -> DatasetRecord:
    """As many rows a split, every second one good."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        texts = [f"{split} row {n}: a {'good' if n % 2 else 'bad'} film" for n in range(rows)]
        labels = ["positive" if n % 2 else "negative" for n in range(rows)]
        made = [
            Example(example=f"{split}{n}", row=n + 1, inputs={"text": text}, label=label)
            for n, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        write_examples(folder / f"{split}.parquet", made)
    return DatasetRecord(
        fingerprint="d" * 64,
        folder=folder,
        source="s",
        revision="r",
        inputs=["text"],
        labels=["negative", "positive"],
        rows=dict.fromkeys(SPLITS, rows),
        label_rows={},
    )


def interviewer(questions: Sequence[str]) -> Any:
    """A model that asks these, one after the other, and is then ready; of other turns it says the right answer."""

    def behave(request: dict[str, Any], _number: int) -> Say | None:
        turn = request["messages"][-1]["content"]
        if "interview the owner" not in turn:
            return None
        asked = turn.count("\nQuestion: ")
        return Say(completion(questions[asked] if asked < len(questions) else "READY"))

    return behave
