"""A small data set on disk, and places without services."""

from pathlib import Path

import pytest

from tasks.data.examples import write_examples
from tasks.records import DatasetRecord, Example
from tasks.settings import load_settings
from tasks.workspace import Workspace, digest
from tests.places import NamedPlaces

ROWS = {"train": 60, "dev": 40, "test": 60}
WORDS = {"positive": "good warm lively charming", "negative": "bad dull tired clumsy"}


def examples(split: str) -> list[Example]:
    """Short reviews whose words give the label away, positive and negative in turn."""
    made = []
    for row in range(1, ROWS[split] + 1):
        label = list(WORDS)[row % 2]
        text = f"a {WORDS[label].split()[row % 4]} film, number {row} of {split}"
        made.append(Example(example=digest(text), row=row, inputs={"text": text}, label=label))
    return made


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetRecord:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split in ROWS:
        write_examples(folder / f"{split}.parquet", examples(split))
    return DatasetRecord(
        fingerprint="d" * 64,
        folder=folder,
        source="made",
        revision="",
        inputs=["text"],
        labels=["negative", "positive"],
        rows=ROWS,
        label_rows={},
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def places() -> NamedPlaces:
    return NamedPlaces(load_settings())
