"""Who stands at the gate: a contender's scores, and its answers to the test rows."""

import math
from dataclasses import dataclass

from tasks.evaluation.scores import Evaluation
from tasks.records import Arm, PredictionsRecord, ScoresRecord


@dataclass(frozen=True)
class Contestant:
    """One contender at the gate."""

    scores: ScoresRecord
    examples: tuple[str, ...]
    """The test rows, in order."""
    correct: tuple[bool | None, ...]
    """Whether each was right; None where its score is not a number."""

    @property
    def name(self) -> str:
        return self.scores.contender

    @property
    def trivial(self) -> bool:
        return self.scores.arm is Arm.TRIVIAL

    def rank(self) -> tuple[float, float, str]:
        """Sorts the best on dev first; ties go to the cheaper, then to the earlier name."""
        cost = self.scores.dev.cost_usd_per_1000
        accuracy = self.scores.dev.accuracy
        return -accuracy if math.isfinite(accuracy) else math.inf, math.inf if cost is None else cost, self.name


def contestant(evaluation: Evaluation) -> Contestant:
    """Read what the gate needs of an evaluation: the test rows and whether each was right."""
    examples, correct = read_test_rows(evaluation.predictions)
    return Contestant(evaluation.scores, examples, correct)


def read_test_rows(predictions: PredictionsRecord) -> tuple[tuple[str, ...], tuple[bool | None, ...]]:
    """The test rows' examples, and whether each was right (None where its score is missing or not a number)."""
    import pyarrow.parquet as parquet

    columns = ["split", "example", "score", "correct"]
    rows = parquet.read_table(predictions.folder / "predictions.parquet", columns=columns).to_pylist()
    rows = [row for row in rows if row["split"] == "test"]
    correct = (row["correct"] if row["score"] is not None and math.isfinite(row["score"]) else None for row in rows)
    return tuple(row["example"] for row in rows), tuple(correct)
