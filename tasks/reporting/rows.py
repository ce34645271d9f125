"""A contender's answers to the test rows, as columns: a million rows are read without making a million records."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data.predictions import FILE
from tasks.records import DatasetRecord, Example
from tasks.reporting.records import KeptContender

if TYPE_CHECKING:
    import numpy

NONE = -1
"""The code of what is no label: no usable answer."""
COLUMNS = ("example", "label", "reference", "correct", "probability", "failure")


@dataclass(frozen=True)
class Answers:
    """What one contender answered, a value a test row, in the data set's order."""

    contender: KeptContender
    file: Path
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["example"])

    @cached_property
    def correct(self) -> "numpy.ndarray":
        import numpy

        return numpy.asarray(self.columns["correct"], dtype=bool)

    def codes(self, labels: dict[str, int]) -> "numpy.ndarray":
        """The place of each row's answer among the labels; `NONE` where there is none. For free text whether it was right."""
        import numpy

        if not labels:
            return self.correct.astype(int)
        return numpy.asarray([NONE if label is None else labels.get(label, NONE) for label in self.columns["label"]], dtype=int)

    def raw(self, places: Iterable[int]) -> dict[int, str]:
        """What was said to some rows, as it was said."""
        import pyarrow.parquet as parquet

        wanted = list(places)
        said = parquet.read_table(self.file, columns=["answer", "split"], filters=[("split", "=", "test")])["answer"]
        return dict(zip(wanted, said.take(wanted).to_pylist(), strict=True)) if wanted else {}


def read_answers(contender: KeptContender, folder: Path) -> Answers:
    """A contender's answers to the test rows; `folder` holds its predictions."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / FILE, columns=[*COLUMNS, "split"], filters=[("split", "=", "test")])
    return Answers(contender, folder / FILE, {name: table[name].to_pylist() for name in COLUMNS})


def examples_at(dataset: DatasetRecord, places: Iterable[int]) -> dict[int, Example]:
    """The test rows at some places, from 0; the others are passed over."""
    import pyarrow.parquet as parquet

    from tasks.data.examples import ROWS_AT_ONCE, split_path

    wanted, start = sorted(set(places)), 0
    found: dict[int, Example] = {}
    with parquet.ParquetFile(split_path(dataset, "test")) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            here = [place for place in wanted if start <= place < start + len(batch)]
            rows = batch.take([place - start for place in here]).to_pylist() if here else []
            found |= {place: Example.model_validate(row) for place, row in zip(here, rows, strict=True)}
            start += len(batch)
    return found
