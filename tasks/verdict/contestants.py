"""Who stands at the gate: a contender's scores, and its answers to the test rows; and what else is known of those rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.config import Metric
from tasks.data.examples import input_text, read_examples
from tasks.evaluation.clusters import effective_clusters
from tasks.evaluation.scores import Evaluation
from tasks.records import Arm, DatasetRecord, Example, ScoresRecord
from tasks.workspace import digest

if TYPE_CHECKING:
    import numpy

LENGTH = "length"
"""The column of `by_length`."""
NONE, RARE = "(none)", "(rare)"
"""The slices of rows without a value, and of values with few rows."""


@dataclass(frozen=True)
class Contestant:
    """One contender at the gate."""

    scores: ScoresRecord
    examples: tuple[str, ...]
    """The test rows, in order."""
    correct: tuple[bool | None, ...]
    """Whether each was right; None where its score is not a number."""
    labels: tuple[str | None, ...] = ()
    """What was answered; None where there is no usable answer, and for free text."""
    references: tuple[str | None, ...] = ()
    """What is right."""
    probabilities: tuple[float | None, ...] = ()
    """Of the answered labels; None where the contender gave none."""

    @property
    def name(self) -> str:
        return self.scores.contender

    @property
    def trivial(self) -> bool:
        return self.scores.arm is Arm.TRIVIAL

    @property
    def cost(self) -> float | None:
        """Dollars for 1,000 predictions, as it runs."""
        return self.scores.test.cost_usd_per_1000

    def rank(self, metric: Metric = Metric.ACCURACY) -> tuple[float, float, str]:
        """Sorts the best on dev first; ties go to the cheaper, then to the earlier name."""
        cost = self.scores.dev.cost_usd_per_1000
        figure = self.scores.dev.by(metric)
        known = figure is not None and math.isfinite(figure)
        return -figure if known and figure is not None else math.inf, math.inf if cost is None else cost, self.name

    @cached_property
    def right(self) -> "numpy.ndarray":
        """Whether each row was right."""
        import numpy

        return numpy.asarray([right is True for right in self.correct])


@dataclass(frozen=True)
class Rows:
    """What is known of the test rows beside the answers."""

    clusters: tuple[int, ...] | None = None
    """For each row the number of its cluster, from 0; None where each stands alone."""
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each column that rows are sliced by, each row's value."""

    def codes(self, places: Sequence[int] | None = None) -> "numpy.ndarray | None":
        """The clusters of rows (of all, or those at these places), numbered anew from 0; None where each row stands alone."""
        import numpy

        if self.clusters is None:
            return None
        codes = numpy.asarray(self.clusters)
        return numpy.unique(codes if places is None else codes[list(places)], return_inverse=True)[1]

    def worth(self, places: Sequence[int]) -> float:
        """How many rows these are; where rows come in clusters, how many clusters of equal size they are worth."""
        import numpy

        codes = self.codes(places)
        return len(places) if codes is None or not len(codes) else effective_clusters(numpy.bincount(codes))

    def lacking(self, places: Sequence[int], wanted: int) -> int:
        """How many more rows like these there must be, for them to be worth as many as are wanted."""
        return max(0, math.ceil(wanted * len(places) / self.worth(places)) - len(places)) if len(places) else wanted

    def fingerprint(self) -> str:
        """Of all this."""
        return digest([self.clusters, dict(self.slices)])

    def of(self, column: str, fewest: int) -> dict[str, list[int]]:
        """The rows of each value of a column, by place; values with fewer rows than `fewest` are taken together."""
        groups: dict[str, list[int]] = {}
        for place, value in enumerate(self.slices[column]):
            groups.setdefault(value, []).append(place)
        rare = [value for value, places in groups.items() if len(places) < fewest]
        if len(rare) > 1:
            together = sorted(place for value in rare for place in groups.pop(value))
            groups[RARE] = together
        return dict(sorted(groups.items(), key=lambda group: (_third(column, group[0]), group[0])))


def contestant(evaluation: Evaluation) -> Contestant:
    """Read what the gate needs of an evaluation: the test rows, and the answers to them."""
    import pyarrow.parquet as parquet

    columns = ["split", "example", "score", "correct", "label", "reference", "probability"]
    rows = parquet.read_table(evaluation.predictions.folder / "predictions.parquet", columns=columns).to_pylist()
    rows = [row for row in rows if row["split"] == "test"]
    correct = (row["correct"] if row["score"] is not None and math.isfinite(row["score"]) else None for row in rows)
    return Contestant(
        evaluation.scores,
        tuple(row["example"] for row in rows),
        tuple(correct),
        tuple(row["label"] for row in rows),
        tuple(row["reference"] for row in rows),
        tuple(_number(row["probability"]) for row in rows),
    )


def read_rows(dataset: DatasetRecord) -> Rows:
    """What the data say of the test rows."""
    examples = read_examples(dataset, "test")
    slices = {"label": tuple(example.label or NONE for example in examples)} if dataset.labels else {}
    slices |= {LENGTH: by_length(examples)}
    slices |= {column: tuple(example.columns.get(column) or NONE for example in examples) for column in dataset.slices}
    return Rows(clusters_of(examples, dataset.cluster), slices)


def _third(column: str, value: str) -> int:
    """Sorts the thirds of `by_length` by length, and leaves other values to their names."""
    return (not value.startswith("up to ")) + value.startswith("over ") if column == LENGTH else 0


def clusters_of(examples: Sequence[Example], column: str) -> tuple[int, ...] | None:
    """For each row the number of its cluster, in order of appearance; None without a column, or where each row stands alone."""
    if not column:
        return None
    names = [example.columns[column] for example in examples]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names) if len(numbers) < len(names) else None


def by_length(examples: Sequence[Example]) -> tuple[str, ...]:
    """For each row which third of the rows it is in, by the characters of its text."""
    import numpy

    lengths = [len(input_text(example.inputs)) for example in examples]
    low, high = (int(bound) for bound in numpy.quantile(lengths, [1 / 3, 2 / 3], method="lower"))
    names = f"up to {low} characters", f"{low + 1} to {high} characters", f"over {high} characters"
    return tuple(names[(length > low) + (length > high)] for length in lengths)


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
