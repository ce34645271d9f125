"""Every contender's answers end in one table, and no row is lost on the way."""

import math

import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from tasks.config import Prompt, Task, Trivial
from tasks.contenders.trivial import build_trivial
from tasks.data.predictions import read_predictions, write_table
from tasks.errors import BudgetReached, IntegrityError
from tasks.evaluation.predictions import concurrent_speed, join, predict
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import Answer, Example, Failure, Prediction
from tasks.settings import Endpoint, load_settings
from tests.evaluation.conftest import ROWS, examples
from tests.places import NamedPlaces
from tests.prompting.loopback import Loopback, Say, completion, error

LABELS = ["negative", "positive"]


def said(label: str | None, **others) -> Answer:
    return Answer(**{"answer": label or "?", "label": label, **others})


def joined(answer: Answer, reference: str | None = "positive", labels=LABELS) -> Prediction:
    return join("lora", "test", [Example(example="e", row=1, inputs={"text": "t"}, label=reference)], [answer], labels)[0]


def test_an_answer_is_right_when_its_label_is_the_references():
    right, wrong = joined(said("positive")), joined(said("negative"))
    assert (right.correct, right.score, right.failure) == (True, 1, None)
    assert (wrong.correct, wrong.score, wrong.failure) == (False, 0, None)


def test_a_failed_row_is_wrong_and_has_no_label_whatever_it_said():
    row = joined(said("positive", failure=Failure.CUT, probability=0.9, cost_usd=0.01))
    assert (row.correct, row.label, row.failure, row.probability) == (False, None, Failure.CUT, None)
    assert row.cost_usd == 0.01


@pytest.mark.parametrize("answer", [said(None), said("neutral"), said("Positive")])
def test_an_answer_that_is_no_label_of_the_data_set_is_invalid(answer):
    assert joined(answer).failure is Failure.INVALID


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_name_no_label(odd):
    assert joined(said("positive", logits=[0.1, odd])).failure is Failure.INVALID
    assert joined(said("positive", probability=odd)).failure is Failure.INVALID


def test_free_text_has_no_label_and_is_scored_by_exact_match():
    right = joined(Answer(answer=" forty-two\n", label=None), "forty-two", labels=[])
    assert (right.correct, right.label, right.failure) == (True, None, None)
    assert not joined(Answer(answer="42", label=None), "forty-two", labels=[]).correct
    assert not joined(Answer(answer="", label=None), None, labels=[]).correct


def test_fewer_answers_than_rows_are_refused():
    with pytest.raises(IntegrityError, match="1 answers for 60 test rows"):
        join("lora", "test", examples("test"), [said("positive")], LABELS)


def test_the_table_has_the_same_columns_and_types_whatever_the_rows_hold(tmp_path):
    full = said("positive", probability=0.5, latency_ms=1, failure=Failure.CUT)
    for name, answer in {"full": full, "bare": said(None)}.items():
        write_table(tmp_path / f"{name}.parquet", [joined(answer, None)])
    schemas = [pyarrow.parquet.read_schema(tmp_path / f"{name}.parquet") for name in ("full", "bare")]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].names == list(Prediction.model_fields)


@pytest.mark.parametrize("kind", list(Trivial))
def test_a_contender_on_a_device_predicts_dev_then_test_in_order(kind, dataset, places, workspace):
    contender = build_trivial(kind, dataset, workspace)
    record = predict(contender, dataset, places, Cap(0), workspace)
    rows = read_predictions(record)
    assert [row.example for row in rows] == [example.example for split in ("dev", "test") for example in examples(split)]
    assert [row.split for row in rows] == ["dev"] * ROWS["dev"] + ["test"] * ROWS["test"]
    assert record.rows == {"dev": 40, "test": 60}
    assert (record.machine, record.failures, record.spent_usd) == ("cpu", {}, 0)
    assert sum(row.latency_ms is not None for row in read_predictions(record, "test")) == 50
    logits = record.folder / "logits.safetensors"
    assert logits.exists() == (kind is Trivial.TFIDF)
    if kind is Trivial.TFIDF:
        assert load_file(logits)["logits"].shape == (100, 2)
        assert sum(row.correct for row in rows) > 90
        best = [LABELS[place] for place in load_file(logits)["logits"].argmax(axis=1)]
        assert best == [row.label for row in rows]


def test_predictions_are_made_once(dataset, places, workspace):
    contender = build_trivial(Trivial.MAJORITY, dataset, workspace)
    first = predict(contender, dataset, places, Cap(0), workspace)
    again = predict(contender, dataset, places, Cap(0), workspace)
    assert again.reused
    assert (again.folder, again.model_dump()) == (first.folder, first.model_dump())


def prompted(dataset, workspace, url: str, **endpoint):
    settings = {"base_url": url, "model": "m", "concurrency": 4, "usd_per_million_input": 1, "usd_per_million_output": 1}
    place = Endpoint(**{**settings, **endpoint})
    prompt = Prompt(name="zero_shot", endpoint="loopback")
    places = NamedPlaces(load_settings(), {"loopback": place})
    return build_prompt(prompt, Task(), dataset, places, Cap(0), workspace), places


def test_a_prompt_is_asked_about_both_splits_and_what_it_takes_is_known(dataset, workspace):
    with Loopback() as server:
        contender, places = prompted(dataset, workspace, server.url)
        cap = Cap(1)
        record = predict(contender, dataset, places, cap, workspace)
    rows = read_predictions(record)
    assert [row.example for row in rows] == [example.example for split in ("dev", "test") for example in examples(split)]
    assert record.requests == len(server.requests) == 100
    assert record.spent_usd == pytest.approx(sum(row.cost_usd for row in rows)) == pytest.approx(cap.spent_usd)
    assert record.machine == "endpoint:loopback"
    assert record.rows_per_second > 0
    again = predict(contender, dataset, places, cap, workspace)
    assert again.reused
    assert places.asked == ["loopback"]
    assert len(server.requests) == 100


def test_rows_that_an_endpoint_fails_are_wrong_and_counted(dataset, workspace):
    def cut_some(request, number):
        return Say(completion("positive", "length")) if "number 7 " in request["messages"][-1]["content"] else None

    with Loopback(cut_some) as server:
        contender, places = prompted(dataset, workspace, server.url)
        record = predict(contender, dataset, places, Cap(1), workspace)
    failed = [row for row in read_predictions(record) if row.failure]
    assert record.failures == {"cut": 2}
    assert [(row.split, row.label, row.correct) for row in failed] == [("dev", None, False), ("test", None, False)]


def test_rows_without_a_reply_are_asked_again_by_the_next_run_and_only_they(dataset, workspace):
    down = True

    def fail_some(request, number):
        return error(500) if down and "number 7 " in request["messages"][-1]["content"] else None

    with Loopback(fail_some) as server:
        contender, places = prompted(dataset, workspace, server.url)
        first = predict(contender, dataset, places, Cap(1), workspace)
        assert first.failures == {"endpoint": 2}
        down, before = False, len(server.requests)
        second = predict(contender, dataset, places, Cap(1), workspace)
        assert len(server.requests) == before + 2
        assert predict(contender, dataset, places, Cap(1), workspace).reused
        assert len(server.requests) == before + 2
    assert (second.failures, second.reused) == ({}, False)
    assert second.fingerprint != first.fingerprint
    assert all(row.failure is None for row in read_predictions(second))


def test_at_the_cap_nothing_is_predicted_and_what_was_paid_for_is_not_asked_again(dataset, workspace):
    with Loopback() as server:
        contender, places = prompted(dataset, workspace, server.url)
        with pytest.raises(BudgetReached):
            predict(contender, dataset, places, Cap(0.002), workspace)
        asked = len(server.requests)
        record = predict(contender, dataset, places, Cap(1), workspace)
    assert 0 < asked < 100
    assert record.requests == 100 - asked
    assert len(server.requests) == 100


def test_the_speed_of_an_endpoint_comes_from_its_latency_and_not_from_the_clock():
    assert concurrent_speed([200.0] * 50, 4) == pytest.approx(20)
    assert concurrent_speed([200.0, None, 200.0], 4) == pytest.approx(10)
    assert concurrent_speed([None], 4) == 0
