"""A real champion in a real store, looked at: what is due, and what that takes."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, tags
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from services.bench import Bench, opened
from tasks.config import BakeoffConfig, Trivial, parse_config
from tasks.contenders.trivial import build_trivial
from tasks.data.load import load
from tasks.data.predictions import FILE
from tasks.errors import BadConfig, BadData, OutsideRoots
from tasks.evaluation.scores import evaluate
from tasks.records import Decision, Trigger, Verdict, Why
from tasks.retraining import stage as stages
from tasks.retraining.look import look
from tasks.retraining.memory import remember_answer
from tasks.retraining.records import Looked, Signal, State
from tasks.store import open_store
from tasks.workspace import file_sha256
from tests.champions import crown
from tests.registry.proxy import serve_proxy
from tests.retraining.making import lineage
from tests.tiny_model import BAD, GOOD, examples
from tests.verdict.test_report import verdict

Rows = list[tuple[str, str]]
CONFIG: dict[str, Any] = {"name": "reigning", "dataset": {"source": "rows.csv", "near_duplicates": 0}, "tuned": [{"name": "lora"}]}
CONFIG |= {"prompts": [], "trivial": ["majority"]}


def rows(split: str, count: int) -> Rows:
    return [(each.inputs["text"], str(each.label)) for each in examples(split, count)]


def write(path: Path, found: Sequence[Sequence[str]], head: Sequence[str] = ("text", "label")) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *found])


@pytest.fixture(scope="module")
def reigning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Path]]:
    """A bench with a champion (TF-IDF) in its store, chosen by `CONFIG` on `rows.csv`; and the folder that it reads."""
    folder = tmp_path_factory.mktemp("reigning")
    write(folder / "rows.csv", rows("any", 500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKEOFF_HOME", str(folder / "home"))
        config = parse_config(CONFIG)
        with opened(config, folder) as bench:
            dataset = load(config.dataset, bench.settings, bench.workspace)
            contender = build_trivial(Trivial.TFIDF, dataset, bench.workspace)
            evaluation = evaluate(contender, dataset, bench.places, bench.cap, config, bench.workspace)
            predictions = evaluation.predictions.folder / FILE
            sha256, client = file_sha256(predictions), open_store(bench.places, "local")
            client.check()
            client.upload(predictions, client.key("evidence", f"{sha256}.parquet"), sha256, lambda _: None)
            recorded = {
                "config": config.model_dump(mode="json"),
                "scores": {"test": evaluation.scores.test.model_dump(mode="json")},
                "lineage": lineage(dataset.revision, dataset.fingerprint, sha256),
            }
            crown(bench.places, "local", "reigning", contender, **recorded)
            yield bench, folder


def found_by(bench: Bench, because: str = "", **triggers: Any) -> Looked:
    config = asked(**triggers)
    return look(config, because, bench.places, bench.workspace, bench.asking)


def asked(**triggers: Any) -> BakeoffConfig:
    return parse_config({**CONFIG, "triggers": triggers})


def of(found: Looked, kind: Trigger) -> Signal:
    return next(signal for signal in found.signals if signal.kind is kind)


def answered(found: Looked) -> Verdict:
    """A verdict of a run for these reasons, which kept the champion."""
    assert found.why
    return verdict().model_copy(update={"why": Why.model_validate(found.why.model_dump()), "decision": Decision.KEEP_CHAMPION})


def test_nothing_changed_and_nothing_is_read_or_made(reigning: tuple[Bench, Path]) -> None:
    bench, _ = reigning
    before = sorted(bench.workspace.root.rglob("*.json"))
    found = found_by(bench)
    assert found.why is None
    assert {signal.state for signal in found.signals} == {State.QUIET}
    assert {path.parent.name for path in {*bench.workspace.root.rglob("*.json")} - {*before}} <= {"hashed"}


def test_what_is_asked_for_is_done_whatever_changed(reigning: tuple[Bench, Path]) -> None:
    found = found_by(reigning[0], because=" the label guide changed ")
    assert found.why
    assert found.why.words == "it was asked for: the label guide changed"


def test_other_bytes_of_the_data_are_a_new_version(reigning: tuple[Bench, Path]) -> None:
    bench, folder = reigning
    whole = (folder / "rows.csv").read_bytes()
    (folder / "rows.csv").write_bytes(whole + b"one more row,negative\r\n")
    try:
        signal = of(found := found_by(bench), Trigger.DATA)
        assert signal.state is State.DUE
        remember_answer(asked(), signal.subject, answered(found), bench.workspace)
        assert of(found_by(bench), Trigger.DATA).state is State.ANSWERED
    finally:
        (folder / "rows.csv").write_bytes(whole)
    assert of(found_by(bench), Trigger.DATA).state is State.QUIET


def test_incoming_rows_like_the_training_set_are_no_drift(reigning: tuple[Bench, Path]) -> None:
    bench, folder = reigning
    write(folder / "same" / "rows.csv", [(text,) for text, _ in rows("other", 300)], ["text"])
    signal = of(found_by(bench, drift={"incoming": "same"}), Trigger.DRIFT)
    assert signal.state is State.QUIET, signal.words
    assert signal.figures["rows"] == 300


def test_drift_is_found_with_its_size_and_is_no_reason_again_once_a_verdict_answered_it(reigning: tuple[Bench, Path]) -> None:
    bench, folder = reigning
    drifted = [
        (f"{text} refund outage {number % 7}",) for number, (text, label) in enumerate(rows("other", 600)) if label == "negative"
    ]
    write(folder / "drifted.csv", drifted, ["text"])
    triggers = {"drift": {"incoming": "drifted.csv"}}
    signal = of(found := found_by(bench, **triggers), Trigger.DRIFT)
    assert signal.state is State.DUE
    assert "incoming texts and predictions have drifted" in signal.words
    assert float(signal.figures["text"]) > 0.9
    assert float(signal.figures["labels"]) > 0.4
    remember_answer(asked(**triggers), "x", answered(found), bench.workspace)
    made = sorted(bench.workspace.root.glob("products/*/*"))
    assert of(found_by(bench, **triggers), Trigger.DRIFT).state is State.ANSWERED
    assert sorted(bench.workspace.root.glob("products/*/*")) == made, "nothing is made again"


def test_a_champion_that_is_wrong_on_fresh_rows_has_fallen(reigning: tuple[Bench, Path]) -> None:
    bench, folder = reigning
    fresh = rows("fresh", 200)
    write(folder / "fresh.csv", fresh)
    wrong = [
        (text, label if number % 3 else {"positive": "negative", "negative": "positive"}[label])
        for number, (text, label) in enumerate(fresh)
    ]
    write(folder / "wrong.csv", wrong)
    holds = of(found_by(bench, quality={"fresh": "fresh.csv"}), Trigger.QUALITY)
    fallen = of(found_by(bench, quality={"fresh": "wrong.csv"}), Trigger.QUALITY)
    assert (holds.state, fallen.state) == (State.QUIET, State.DUE)
    assert float(fallen.figures["accuracy"]) == pytest.approx(float(holds.figures["accuracy"]) - 1 / 3, abs=0.05)


def test_too_few_rows_say_so_and_are_no_reason(reigning: tuple[Bench, Path]) -> None:
    bench, folder = reigning
    write(
        folder / "few.csv", [(text, "") if number < 20 else (text, label) for number, (text, label) in enumerate(rows("few", 60))]
    )
    found = found_by(bench, drift={"incoming": "few.csv"}, quality={"fresh": "few.csv"})
    assert (of(found, Trigger.DRIFT).state, of(found, Trigger.QUALITY).state) == (State.UNKNOWN, State.UNKNOWN)
    assert "60 usable incoming rows are too few" in of(found, Trigger.DRIFT).words
    assert "40 fresh labelled rows are too few" in of(found, Trigger.QUALITY).words
    assert found.why is None


@pytest.mark.parametrize(
    ("triggers", "error", "said"),
    [
        ({"drift": {"incoming": "nowhere.csv"}}, BadConfig, "there is no 'nowhere.csv'"),
        ({"drift": {"incoming": "../rows.csv"}}, OutsideRoots, "lies outside the folders"),
        ({"drift": {"incoming": "odd.txt"}}, BadConfig, "triggers.drift.incoming 'odd.txt' has no ending"),
        ({"drift": {"incoming": "other.csv"}}, BadData, "triggers.drift.incoming: other.csv has no column 'text'; it has body"),
        ({"quality": {"fresh": "unknown.csv"}}, BadData, r"does not know: 'angry' \(row 2\); it knows negative, positive"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(
    reigning: tuple[Bench, Path], triggers: dict[str, Any], error: type[Exception], said: str
) -> None:
    bench, folder = reigning
    (folder / "odd.txt").write_text("text\n")
    write(folder / "other.csv", [("a",)], ["body"])
    write(folder / "unknown.csv", [(GOOD[0], "positive"), (BAD[0], "angry")])
    with pytest.raises(error, match=said):
        found_by(bench, **triggers)


@pytest.mark.slow
def test_a_look_outlives_a_server_that_fails_and_a_run_that_is_begun_again_says_once_why(
    reigning: tuple[Bench, Path], server: str, api: httpx.Client
) -> None:
    bench, _ = reigning

    @flow(name="looking", persist_result=False)
    def looking() -> tuple[Looked, str]:
        return stages.look(asked(), "", bench.places, bench.workspace, bench.asking), str(flow_run.id)

    with serve_proxy(server.removesuffix("/api"), "", "") as proxy, tags("mine", "why:age", "unchanged"):
        proxy.answer = lambda method, path: (500, b"{}") if method == "PATCH" or "artifacts" in path else None
        with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
            found, missed = looking()
        with temporary_settings({PREFECT_API_URL: server}):
            again, told = looking()
    assert found == again
    runs = {run: api.get(f"/flow_runs/{run}").raise_for_status().json() for run in (missed, told)}
    assert (runs[missed]["state_type"], runs[told]["name"]) == ("COMPLETED", "reigning: nothing changed")
    assert sorted(runs[told]["tags"]) == ["mine", "unchanged"]
