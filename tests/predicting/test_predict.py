"""Prediction in chunks: nothing twice, nothing lost."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.config import Trivial
from tasks.contenders.answers import read_answers, write_answers
from tasks.contenders.trivial import build_trivial
from tasks.errors import BadData
from tasks.predicting.files import find_files
from tasks.predicting.predict import Seat, answer_chunks, predict_file
from tasks.predicting.records import PredictFile
from tasks.predicting.rows import answer_rows
from tasks.records import Answer, Example, Failure
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.tiny_model import examples, make_dataset

LABELS = ["negative", "positive"]


class Counting:
    """Answers by the text's length, and knows what it was asked."""

    def __init__(self, failing: int = 0) -> None:
        self.asked: list[str] = []
        self.failing = failing

    def predict(self, rows: Sequence[Example]) -> list[Answer]:
        self.asked += [row.inputs["text"] for row in rows]
        return [self._answer(row) for row in rows]

    def _answer(self, row: Example) -> Answer:
        if self.failing and row.row == self.failing:
            return Answer(answer="", label=None, failure=Failure.ENDPOINT)
        label = LABELS[len(row.inputs["text"]) % 2]
        return Answer(answer=label, label=label, probability=0.5, cost_usd=0.25)


@pytest.fixture
def file(tmp_path: Path) -> PredictFile:
    (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f"{n},{'x' * n}\n" for n in range(11)))
    return find_files("rows.csv", str(tmp_path / "out.csv"), True, Settings(home=tmp_path, roots=[tmp_path]), ["text"])[0]


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    workspace = Workspace(tmp_path / "workspace")
    contender = build_trivial(Trivial.MAJORITY, make_dataset(tmp_path / "data"), workspace)
    return Seat(contender, lambda _: None, Settings(home=tmp_path), workspace, rows_a_chunk=4)


def test_rows_that_say_the_same_are_asked_once_and_cost_once() -> None:
    predictor = Counting()
    a, b = {"text": "a"}, {"text": "bb"}
    answers = answer_rows(predictor, [a, Failure.EMPTY, b, a], LABELS)
    assert predictor.asked == ["a", "bb"]
    assert [answer.label for answer in answers] == ["positive", None, "negative", "positive"]
    assert [answer.cost_usd for answer in answers] == [0.25, 0.0, 0.25, 0.0]


@pytest.mark.parametrize("odd", [{"label": "unheard"}, {"probability": float("nan")}, {"logits": [0.0, float("inf")]}])
def test_an_answer_that_is_none_is_a_failure(odd: dict[str, object]) -> None:
    class Odd(Counting):
        def _answer(self, row: Example) -> Answer:
            return super()._answer(row).model_copy(update=odd)

    (answer,) = answer_rows(Odd(), [{"text": "a"}], LABELS)
    assert (answer.label, answer.probability, answer.failure) == (None, None, Failure.INVALID)


def test_chunks_that_are_there_are_not_predicted_again(seat: Seat, file: PredictFile, tmp_path: Path) -> None:
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    kept = [Answer(answer="kept", label="positive")] * 4
    write_answers(chunks / "000001.parquet", kept)
    predictor = Counting()
    seat.__dict__["predictor"] = predictor
    answer_chunks(seat, file, 100, chunks)
    assert predictor.asked == ["x" * n for n in (1, 2, 3, 8, 9, 10)]
    assert read_answers(chunks / "000001.parquet") == kept
    assert [len(read_answers(chunk)) for chunk in sorted(chunks.iterdir())] == [4, 4, 3]


def test_a_second_run_finds_all_and_loads_nothing(seat: Seat, file: PredictFile) -> None:
    first = predict_file(seat, file, 100)
    assert (first.rows, first.reused, first.failures) == (11, False, {"empty": 1})
    written = file.to.read_text()
    file.to.unlink()
    again = Seat(seat.contender, lambda _: pytest.fail("nobody is to be asked"), seat.settings, seat.workspace, 4)
    second = predict_file(again, file, 100)
    assert second.model_copy(update={"reused": False}) == first
    assert "predictor" not in again.__dict__
    assert file.to.read_text() == written
    assert [line.split(",")[0] for line in written.splitlines()] == ["id", *map(str, range(11))]


def test_rows_whose_endpoint_failed_are_asked_again_by_the_next_run_and_no_others(seat: Seat, file: PredictFile) -> None:
    seat.__dict__["predictor"] = Counting(failing=6)
    assert predict_file(seat, file, 100).failures == {"empty": 1, "endpoint": 1}
    seat.__dict__["predictor"] = again = Counting()
    assert predict_file(seat, file, 100).failures == {"empty": 1}
    assert again.asked == ["x" * n for n in (4, 5, 6, 7)], "the chunk with the failed row"


def test_a_file_that_changed_meanwhile_leaves_nothing_behind(seat: Seat, file: PredictFile) -> None:
    file.path.write_text("id,text\n" + "".join(f"{n},{'y' * n}\n" for n in range(11)))
    with pytest.raises(BadData, match="changed while it was read"):
        predict_file(seat, file, 100)
    assert sorted(path.name for path in file.to.parent.glob("*.csv")) == ["rows.csv"]
    assert not list(file.to.parent.glob(".out*"))


def test_memory_stays_flat_on_a_large_file(seat: Seat, tmp_path: Path) -> None:
    import tracemalloc

    def peak(rows: int) -> int:
        given = tmp_path / f"{rows}.csv"
        given.write_text("text\n" + "".join(f"{row.inputs['text']} {row.row}\n" for row in examples("any", 500)) * (rows // 500))
        files = find_files(given.name, str(tmp_path / f"out-{rows}.csv"), True, Settings(home=tmp_path, roots=[tmp_path]), ["text"])
        wide = Seat(seat.contender, lambda _: None, seat.settings, seat.workspace, 500)
        tracemalloc.start()
        predict_file(wide, files[0], 1000)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)  # imports
    assert peak(10_000) < 2 * peak(1_000)
