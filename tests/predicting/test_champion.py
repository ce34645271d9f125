"""A champion from a real S3 server predicts files, a whole folder of them."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from services.bench import Bench, opened
from tasks.bases import resolve_base
from tasks.config import BakeoffConfig, Trivial, Tuned
from tasks.contenders.trivial import build_trivial
from tasks.predicting.files import find_files
from tasks.predicting.predict import Seat, predict_file
from tasks.records import ContenderRecord
from tasks.registry.champion import champion_contender
from tasks.tuning.tune import tune
from tests.champions import crown
from tests.tiny_model import examples, make_base, make_dataset, make_tokens

ROWS = examples("any", 50)
CONFIG = BakeoffConfig(name="tiny", dataset="rows.csv")


def contender(kind: str, folder: Path, bench: Bench) -> ContenderRecord:
    dataset = make_dataset(folder / "data")
    if kind == "tfidf":
        return build_trivial(Trivial.TFIDF, dataset, bench.workspace)
    make_base(folder / "tiny")
    base = resolve_base("tiny", "", bench.settings)
    recipe = Tuned(name="lora", base="tiny", learning_rate=0.01, epochs=4, batch_size=8)
    return tune(recipe, dataset, make_tokens(bench.workspace.root, base, dataset), base, bench.workspace)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tfidf", "tuned"])
def test_a_folder_of_files_goes_into_a_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(row.inputs) + "\n" for row in ROWS))
    pyarrow.parquet.write_table(pyarrow.table({"text": [row.inputs["text"] for row in ROWS]}), tmp_path / "in" / "b.parquet")
    with opened(CONFIG, tmp_path) as bench:
        crown(bench.places, "local", "tiny", contender(kind, tmp_path, bench))
        champion = champion_contender(bench.places, "local", "tiny", bench.workspace)
        assert champion
        seat = Seat(champion, bench.asking, bench.settings, bench.workspace, rows_a_chunk=20)
        files = find_files("in", str(tmp_path / "out"), True, bench.settings, seat.manifest.inputs)
        done = [predict_file(seat, file, 1000) for file in files]
    assert [(each.rows, each.failures, sum(each.labels.values())) for each in done] == [(50, {}, 50)] * 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "out" / "b.parquet").to_pylist()
    assert [line["label"] for line in lines] == [row["label"] for row in table]
    assert [line["text"] for line in lines] == [row.inputs["text"] for row in ROWS]
    assert sum(line["label"] == row.label for line, row in zip(lines, ROWS, strict=True)) > 30
    assert all(0 < line["probability"] <= 1 for line in lines)
