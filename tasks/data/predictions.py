"""Predictions on disk (`predictions.parquet`), the same for every contender and task: a row a `Prediction`."""

from collections.abc import Sequence
from pathlib import Path

from tasks.records import Prediction, PredictionsRecord

FILE = "predictions.parquet"


def read_predictions(record: PredictionsRecord, split: str | None = None) -> list[Prediction]:
    """The rows of a predictions product, of one split or of both, in order."""
    return read_table(record.folder / FILE, split)


def read_table(path: Path, split: str | None = None) -> list[Prediction]:
    """The rows of one file, in order; with `split` those of other splits are passed over unread."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(path, filters=[("split", "=", split)] if split else None).to_pylist()
    return [Prediction.model_validate(row) for row in rows]


def write_table(path: Path, rows: Sequence[Prediction]) -> None:
    """Write predictions as parquet, with the same columns and types whatever the rows hold."""
    import pyarrow
    import pyarrow.parquet as parquet

    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    types = dict.fromkeys(Prediction.model_fields, text)
    types |= dict.fromkeys(("score", "probability", "latency_ms", "cost_usd"), number)
    types |= {"input_tokens": whole, "output_tokens": whole, "correct": pyarrow.bool_()}
    schema = pyarrow.schema(list(types.items()))
    parquet.write_table(pyarrow.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=schema), path)
