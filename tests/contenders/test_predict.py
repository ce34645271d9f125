from pathlib import Path

import pyarrow.parquet
import pytest

from tasks.child import run_child
from tasks.contenders.loader import load_contender
from tasks.data.examples import read_examples
from tasks.records import Answer, ContenderRecord, DatasetRecord
from tasks.settings import Settings


def ask(
    contender: ContenderRecord, dataset: DatasetRecord, settings: Settings, out: Path, latency_rows: int = 5
) -> dict[str, object]:
    splits = {split: str(dataset.folder / f"{split}.parquet") for split in ("dev", "test")}
    request = {"contender": str(contender.folder), "splits": splits, "out": str(out), "latency_rows": latency_rows}
    return dict(run_child("tasks.contenders.predict", request | {"roots": [str(root) for root in settings.roots]}))


def answers(path: Path) -> list[Answer]:
    return [Answer.model_validate(row) for row in pyarrow.parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("kind", ["majority", "tfidf", "lora"])
def test_a_clean_process_answers_every_row_in_order_and_times_some_alone(
    kind: str, request: pytest.FixtureRequest, dataset: DatasetRecord, settings: Settings, tmp_path: Path
) -> None:
    contender: ContenderRecord = request.getfixturevalue(kind)
    said = ask(contender, dataset, settings, tmp_path)
    assert said["rows"] == {"dev": 32, "test": 40}
    assert said["device"] in {"cpu", "cuda", "mps"}
    assert float(str(said["rows_per_second"])) > 0
    assert all(answer.latency_ms is None for answer in answers(tmp_path / "dev.parquet"))
    timed = [answer.latency_ms is not None for answer in answers(tmp_path / "test.parquet")]
    assert timed == [True] * 5 + [False] * 35


def test_two_clean_processes_and_this_one_give_equal_logits(
    lora: ContenderRecord, dataset: DatasetRecord, settings: Settings, tmp_path: Path
) -> None:
    for run in ("one", "two"):
        ask(lora, dataset, settings, tmp_path / run, latency_rows=0)
    one, two = (answers(tmp_path / run / "test.parquet") for run in ("one", "two"))
    assert one == two
    here = load_contender(lora.folder, settings=settings).predict(read_examples(dataset, "test"))
    for there, mine in zip(one, here, strict=True):
        assert there.label == mine.label
        assert there.logits == pytest.approx(mine.logits, abs=1e-6)
