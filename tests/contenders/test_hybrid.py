"""A tuned model and a prompt as one contender: who answers which row, on what evidence, and at what price."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.config import BakeoffConfig, Combination, Hybrid, Prompt, Task, Technique
from tasks.contenders.hybrid import ALWAYS, CHART, NEVER, Point, build_hybrid, check_hints, confidence, read_spec, routing_curve
from tasks.contenders.loader import load_contender
from tasks.data.examples import read_examples
from tasks.data.predictions import read_predictions, write_table
from tasks.errors import BadConfig, EndpointError, IntegrityError
from tasks.evaluation.predictions import predict
from tasks.evaluation.scores import score
from tasks.manifest import FILE, read_manifest, write_manifest
from tasks.predicting.files import find_files
from tasks.predicting.predict import Seat, predict_file
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord, DatasetRecord, Example, Failure, Prediction, PredictionsRecord
from tasks.registry.verify import example_request, messages_sha256
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion, error
from tests.tiny_model import GOOD, SIZES, examples

ROUTED = Hybrid(name="routed", tuned="lora", prompt="asked")
TOLD = Hybrid(name="told", tuned="lora", prompt="asked", combination=Combination.IN_PROMPT)


def knowing(request: dict[str, Any], number: int) -> Say:
    """A model that knows every telling word."""
    label = "positive" if any(word in request["messages"][-1]["content"] for word in GOOD) else "negative"
    return Say(completion(json.dumps({"label": label})))


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback(knowing) as server:
        yield server


@pytest.fixture(scope="module")
def places(settings: Settings, server: Loopback) -> NamedPlaces:
    return NamedPlaces(settings, {"there": make_endpoint(server.url, usd_per_hour=3.6)})


@pytest.fixture(scope="module")
def asked(dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace) -> ContenderRecord:
    return build_prompt(Prompt(name="asked", endpoint="there"), Task(), dataset, places, Cap(0), workspace)


@pytest.fixture(scope="module")
def of_tuned(lora: ContenderRecord, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace) -> PredictionsRecord:
    return predict(lora, dataset, places, Cap(0), workspace)


@pytest.fixture(scope="module")
def of_prompt(asked: ContenderRecord, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace) -> PredictionsRecord:
    return predict(asked, dataset, places, Cap(1), workspace)


@pytest.fixture(scope="module")
def parts(
    lora: ContenderRecord, of_tuned: PredictionsRecord, asked: ContenderRecord, of_prompt: PredictionsRecord
) -> tuple[Any, ...]:
    return lora, of_tuned, asked, of_prompt


@pytest.fixture(scope="module")
def routed(parts: Any, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace) -> ContenderRecord:
    return build_hybrid(ROUTED, *parts, dataset, places, Cap(1), workspace)


def sure_of_half(routed: ContenderRecord, rows: list[Example], settings: Settings, folder: Path) -> ContenderRecord:
    """A routing hybrid whose tuned part is sure enough of half the rows, however it was trained."""
    shutil.copytree(routed.folder, folder)
    sure = sorted(confidence(answer) for answer in load_contender(folder / "tuned", settings=settings).predict(rows))
    middle = sure[len(sure) // 2]
    assert sure[0] < middle, "it is as sure of one row as of another"
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"spec": {**manifest.spec, "threshold": middle}}))
    return routed.model_copy(update={"folder": folder})


def test_a_hybrid_predicts_a_file(routed: ContenderRecord, places: NamedPlaces, tmp_path: Path) -> None:
    rows = examples("hybrid", 30)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row.inputs) + "\n" for row in rows))
    context = AskContext(places.endpoint("there"), Cap(1), tmp_path / "journal.sqlite")
    seat = Seat(
        sure_of_half(routed, rows, places.settings, tmp_path / "half"),
        lambda _: context,
        places.settings,
        Workspace(tmp_path / "workspace"),
        20,
    )
    here = places.settings.model_copy(update={"roots": [tmp_path]})
    (file,) = find_files("rows.jsonl", str(tmp_path / "out.jsonl"), True, here, seat.manifest.inputs)
    done = predict_file(seat, file, 1000)
    lines = [json.loads(line) for line in file.to.read_text().splitlines()]
    assert (done.rows, done.failures, len(lines)) == (30, {}, 30)
    assert done.cost_usd == pytest.approx(sum(line["cost_usd"] for line in lines)) == pytest.approx(context.cap.spent_usd)
    assert 0 < sum(line["cost_usd"] > 0 for line in lines) < 30, "the prompt is asked about some"


def row(sure: float | None, right: bool, cost: float = 0.0, failure: Failure | None = None) -> Prediction:
    said = {"answer": "a", "label": None if failure else "a", "reference": "a" if right else "b", "score": float(right)}
    facts = {"latency_ms": None, "input_tokens": 0, "output_tokens": 0, "cost_usd": cost, "failure": failure}
    return Prediction(contender="c", split="dev", example="e", correct=right, probability=sure, **said, **facts)  # type: ignore[arg-type]


def by_hand(routed: list[Prediction], prompted: list[Prediction]) -> list[tuple[float, float, float, float | None]]:
    curve = routing_curve(routed, prompted, 0.001, 0.002)
    return [(point.threshold, point.share_asked, point.accuracy, point.usd_per_1000) for point in curve]


def test_every_threshold_gives_on_dev_what_one_computes_by_hand() -> None:
    tuned = [row(0.9, True), row(0.6, False), row(0.6, True), row(None, False, failure=Failure.INVALID)]
    prompted = [row(None, False, 0.01), row(None, True, 0.02), row(None, True, 0.03), row(None, False, 0.04)]
    assert by_hand(tuned, prompted) == [
        (NEVER, 0, 0.5, pytest.approx(1)),
        (pytest.approx(0.3), 0.25, 0.5, pytest.approx(1 + 1000 * (0.04 + 0.002) / 4)),  # what has no answer is the least sure
        (pytest.approx(0.75), 0.75, 0.75, pytest.approx(1 + 1000 * (0.09 + 0.006) / 4)),  # equally sure rows go together
        (ALWAYS, 1, 0.5, pytest.approx(1 + 1000 * (0.1 + 0.008) / 4)),
    ]
    assert {point.usd_per_1000 for point in routing_curve(tuned, prompted, None, 0.0)} == {None}


def test_a_threshold_lies_above_the_rows_that_are_asked_however_close_the_next_one_is() -> None:
    import math

    low = 0.7
    curve = routing_curve([row(low, True), row(math.nextafter(low, 1), True)], [row(None, True)] * 2, 0, 0)
    assert low < curve[1].threshold <= math.nextafter(low, 1)


def test_a_long_dev_split_gives_a_short_curve_with_both_ends() -> None:
    rows = [row(place / 5000, True) for place in range(1, 5000)]
    curve = routing_curve(rows, rows, 0, 0)
    assert len(curve) == 200
    assert (curve[0].threshold, curve[-1].threshold) == (NEVER, ALWAYS)


def best_of(spec: dict[str, Any]) -> Point:
    return max((Point(**point) for point in spec["curve"]), key=lambda point: (point.accuracy, -point.share_asked))


def test_the_threshold_is_the_best_on_dev_that_asks_least(routed: ContenderRecord, of_tuned: PredictionsRecord) -> None:
    manifest = read_manifest(routed.folder)
    wrong = [confidence(row) for row in read_predictions(of_tuned, "dev") if not row.correct]
    surer = [confidence(row) for row in read_predictions(of_tuned, "dev") if confidence(row) > max(wrong)]
    assert read_spec(manifest).threshold == pytest.approx((max(wrong) + min(surer)) / 2)  # the prompted part is never wrong
    best = best_of(manifest.spec)
    assert (best.threshold, best.accuracy) == (manifest.spec["threshold"], 1)
    assert best.share_asked == 1 - len(surer) / SIZES["dev"]
    assert routed.findings[0].count == SIZES["dev"] - len(surer)
    assert "1.000 on dev" in routed.findings[0].message
    assert (routed.folder / CHART).read_text().startswith("<?xml")
    assert CHART in manifest.files


def tampered(record: PredictionsRecord, folder: Path) -> PredictionsRecord:
    """The same product with every test row turned round."""
    rows = read_predictions(record)
    turned = [
        row.model_copy(update={"correct": not row.correct, "probability": 0.5, "reference": "?", "cost_usd": 9.0})
        if row.split == "test"
        else row
        for row in rows
    ]
    folder.mkdir()
    write_table(folder / "predictions.parquet", turned)
    return record.model_copy(update={"folder": folder})


def test_test_rows_have_no_say_in_the_threshold(
    routed: ContenderRecord, parts: Any, dataset: DatasetRecord, places: NamedPlaces, tmp_path: Path
) -> None:
    lora, of_tuned, asked, of_prompt = parts
    turned = lora, tampered(of_tuned, tmp_path / "a"), asked, tampered(of_prompt, tmp_path / "b")
    elsewhere = build_hybrid(ROUTED, *turned, dataset, places, Cap(1), Workspace(tmp_path / "w"))
    assert (elsewhere.folder / FILE).read_bytes() == (routed.folder / FILE).read_bytes()


def test_parts_that_were_asked_about_other_rows_are_refused(
    parts: Any, dataset: DatasetRecord, places: NamedPlaces, tmp_path: Path
) -> None:
    lora, of_tuned, asked, of_prompt = parts
    write_table(tmp_path / "predictions.parquet", read_predictions(of_prompt)[1:])
    fewer = of_prompt.model_copy(update={"folder": tmp_path})
    with pytest.raises(IntegrityError, match="32 dev rows and asked 31"):
        build_hybrid(ROUTED, lora, of_tuned, asked, fewer, dataset, places, Cap(1), Workspace(tmp_path / "w"))


def test_evaluating_a_hybrid_repeats_neither_training_rows_nor_paid_calls(
    routed: ContenderRecord, parts: Any, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace, server: Loopback
) -> None:
    _, of_tuned, _, of_prompt = parts
    sent, cap = len(server.requests), Cap(0.0)
    record = predict(routed, dataset, places, cap, workspace)
    assert (len(server.requests), record.requests, cap.spent_usd) == (sent, 0, 0)
    assert "predictions lora" in workspace.reused
    threshold = read_manifest(routed.folder).spec["threshold"]
    triples = zip(read_predictions(record), read_predictions(of_tuned), read_predictions(of_prompt), strict=True)
    for both, tuned, prompted in triples:
        if confidence(tuned) >= threshold:
            assert (both.label, both.probability, both.latency_ms) == (tuned.label, tuned.probability, tuned.latency_ms)
            assert (both.draft, both.cost_usd) == (None, 0)
        else:
            assert (both.label, both.draft, both.cost_usd) == (prompted.label, tuned.label, prompted.cost_usd)
            assert prompted.latency_ms
            known = None if tuned.latency_ms is None else tuned.latency_ms + prompted.latency_ms
            assert both.latency_ms == known
    assert predict(routed, dataset, places, cap, workspace).reused


def test_a_thousand_rows_cost_the_device_for_all_and_the_endpoint_for_those_it_was_asked(
    routed: ContenderRecord, parts: Any, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace
) -> None:
    _, of_tuned, _, of_prompt = parts
    record = predict(routed, dataset, places, Cap(1), workspace)
    settings = places.settings.model_copy(update={"usd_per_hour": {of_tuned.machine: 0.36}})
    test = score(routed, record, dataset, 0.05, settings, workspace).test
    rows = read_predictions(record)
    share = sum(row.draft is not None for row in rows) / len(rows)
    seconds = record.beside["endpoint:there"]
    assert 0 < share < 1
    assert seconds == pytest.approx(share / of_prompt.rows_per_second, rel=0.5)
    tokens = sum(row.cost_usd for row in rows if row.split == "test") / SIZES["test"]
    assert tokens > 0
    assert test.cost_usd_per_1000 == pytest.approx(1000 * (tokens + 0.36 / 3600 / of_tuned.rows_per_second + 3.6 / 3600 * seconds))


def test_a_copy_of_the_folder_answers_the_same_and_asks_only_about_rows_that_it_is_not_sure_of(
    routed: ContenderRecord, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace, server: Loopback, tmp_path: Path
) -> None:
    expected = read_predictions(predict(routed, dataset, places, Cap(1), workspace), "test")
    shutil.copytree(routed.folder, tmp_path / "alone")
    sent = len(server.requests)
    alone = load_contender(tmp_path / "alone", AskContext(places.endpoint("there"), Cap(1)), places.settings)
    answers = alone.predict(read_examples(dataset, "test"))
    assert [(answer.label, answer.draft) for answer in answers] == [(row.label, row.draft) for row in expected]
    assert len(server.requests) - sent == sum(row.draft is not None for row in expected) < SIZES["test"]
    with pytest.raises(BadConfig, match=r"is a hybrid: give the endpoint to ask \(endpoint:there\)"):
        load_contender(tmp_path / "alone", settings=places.settings)


@pytest.mark.parametrize("part", ["tuned/contender.json", "prompt/contender.json", "tuned/adapter/adapter_model.safetensors"])
def test_the_hybrids_manifest_vouches_for_its_parts(part: str, routed: ContenderRecord, tmp_path: Path) -> None:
    shutil.copytree(routed.folder, tmp_path / "copy")
    path = tmp_path / "copy" / part
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=part):
        read_manifest(tmp_path / "copy")


def test_in_prompt_shows_what_the_tuned_part_says_and_the_prompted_part_answers(
    parts: Any, dataset: DatasetRecord, places: NamedPlaces, workspace: Workspace, server: Loopback
) -> None:
    told = build_hybrid(TOLD, *parts, dataset, places, Cap(1), workspace)
    sent = len(server.requests)
    record = predict(told, dataset, places, Cap(1), workspace)
    bodies = [request["messages"][-1]["content"] for request in server.requests[sent:]]
    rows = read_predictions(record)
    assert len(bodies) == len(rows) == SIZES["dev"] + SIZES["test"]
    first = read_predictions(parts[1])
    hints = [f"A fine-tuned classifier says: {row.label} ({100 * confidence(row):.0f} % sure)." for row in first]
    assert sorted(body.splitlines()[-1] for body in bodies) == sorted(hints)
    assert [row.draft for row in rows] == [row.label for row in first]
    assert all(row.correct for row in rows)
    assert "<label> (<percent> % sure)" in example_request(told.folder)["messages"][-1]["content"]


def leaning(request: dict[str, Any], number: int) -> Say:
    """A model that knows every telling word, and leans to `positive` once somebody tells it anything."""
    asked = request["messages"][-1]["content"]
    good, told = any(word in asked for word in GOOD), "fine-tuned classifier" in asked
    share = (0.9 if good else 0.7) if told else (0.7 if good else 0.3)
    top = [{"token": name, "logprob": math.log(each)} for name, each in (("positive", share), ("negative", 1 - share))]
    reply = completion("positive" if share > 0.5 else "negative")
    reply["choices"][0]["logprobs"] = {
        "content": [{**top[0], "bytes": None, "top_logprobs": [each | {"bytes": None} for each in top]}]
    }
    return Say(reply)


def test_a_prompt_that_scores_labels_is_calibrated_for_what_it_is_told_in_a_hybrid(
    lora: ContenderRecord, of_tuned: PredictionsRecord, dataset: DatasetRecord, settings: Settings, tmp_path: Path
) -> None:
    workspace, cap = Workspace(tmp_path), Cap(1)
    shutil.copytree(of_tuned.folder, tmp_path / "products" / "predictions" / of_tuned.fingerprint)
    with Loopback(leaning) as server:
        places = NamedPlaces(settings, {"there": make_endpoint(server.url)})
        scoring = Prompt(name="asked", endpoint="there", techniques=[Technique.LOG_PROBABILITY])
        prompt = build_prompt(scoring, Task(), dataset, places, cap, workspace)
        alone = predict(prompt, dataset, places, cap, workspace)
        with Loopback(lambda request, number: error(500)) as out:
            away = NamedPlaces(settings, {"there": make_endpoint(out.url, attempts=1)})
            with pytest.raises(EndpointError, match="so told cannot be calibrated"):
                build_hybrid(TOLD, lora, of_tuned, prompt, alone, dataset, away, cap, workspace)
        told = build_hybrid(TOLD, lora, of_tuned, prompt, alone, dataset, places, cap, workspace)
        sent = len(server.requests)
        together = predict(told, dataset, places, cap, workspace)
        assert len(server.requests) - sent == SIZES["test"], "dev was asked to calibrate, and is not asked again"
    assert all(row.correct for row in read_predictions(alone))
    assert all(row.correct for row in read_predictions(together)), "its own calibration calls every row positive"


def test_a_row_that_the_endpoint_fails_is_a_failed_row_and_not_the_tuned_parts_answer(
    routed: ContenderRecord, of_tuned: PredictionsRecord, dataset: DatasetRecord, places: NamedPlaces, tmp_path: Path
) -> None:
    shutil.copytree(of_tuned.folder, tmp_path / "products" / "predictions" / of_tuned.fingerprint)

    def cut(request: dict[str, Any], number: int) -> Say:
        return Say(completion('{"label": "positive"}', "length"))

    with Loopback(cut) as broken:
        elsewhere = NamedPlaces(places.settings, {"there": make_endpoint(broken.url)})
        record = predict(routed, dataset, elsewhere, Cap(1), Workspace(tmp_path))
    rows = read_predictions(record)
    asked = [row for row in rows if row.failure]
    assert record.failures == {"cut": len(asked)} == {"cut": len(broken.requests)}
    assert all((row.label, row.correct) == (None, False) and row.draft for row in asked)
    assert all(row.draft is None for row in rows if not row.failure)


def test_the_messages_of_a_hybrid_are_those_of_the_rows_it_asks_about(
    routed: ContenderRecord, of_tuned: PredictionsRecord, dataset: DatasetRecord, tmp_path: Path
) -> None:
    request = {"examples": str(dataset.folder / "test.parquet"), "first": str(of_tuned.folder / "predictions.parquet")}
    threshold = read_manifest(routed.folder).spec["threshold"]
    below = sum(confidence(row) < threshold for row in read_predictions(of_tuned, "test"))
    found = messages_sha256(request | {"contender": str(routed.folder)})
    assert found["rows"] == below
    shutil.copytree(routed.folder, tmp_path / "other")
    values = json.loads((tmp_path / "other" / FILE).read_text())
    values["spec"]["threshold"] = ALWAYS
    (tmp_path / "other" / FILE).write_text(json.dumps(values))
    other = messages_sha256(request | {"contender": str(tmp_path / "other")})
    assert (other["rows"], other["sha256"] == found["sha256"]) == (SIZES["test"], False)


def test_a_template_that_leaves_the_hint_out_is_refused_before_anybody_is_paid(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ text }}?")
    prompts = [Prompt(name="asked", template="own.jinja")]
    config = BakeoffConfig(name="n", dataset="rows.csv", prompts=prompts, hybrids=[TOLD])  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match=r"'told' tells its prompt .* put {{ hint }} into it"):
        check_hints(config, Settings(roots=[tmp_path]))
    (tmp_path / "own.jinja").write_text("{{ text }} {{ hint }}")
    check_hints(config, Settings(roots=[tmp_path]))
