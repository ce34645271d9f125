"""Scores and costs follow from the rows."""

import json
import subprocess
import sys

import pytest
from scipy.stats import binomtest

from tasks.config import BakeoffConfig, Trivial
from tasks.contenders.trivial import build_trivial
from tasks.errors import BadConfig
from tasks.evaluation.cost import usd_per_1000
from tasks.evaluation.predictions import predict
from tasks.evaluation.scores import Evaluation, evaluate, latency, score, score_rows
from tasks.prompting.budget import Cap
from tasks.records import Decision, Failure, Judgement, Prediction
from tasks.settings import Settings, load_settings
from tasks.verdict.judge import judge
from tests.evaluation.conftest import examples
from tests.evaluation.test_predictions import prompted
from tests.prompting.loopback import Loopback, Say, completion


def row(label: str | None, reference: str = "a", cost: float = 0.0, failure: Failure | None = None, ms: float | None = None):
    return Prediction(
        contender="c",
        split="test",
        example="e",
        answer=label or "",
        label=label,
        reference=reference,
        score=float(label == reference),
        correct=label == reference,
        probability=None,
        latency_ms=ms,
        input_tokens=0,
        output_tokens=0,
        cost_usd=cost,
        failure=failure,
    )


ROWS = [row("a", "a"), row("b", "b"), row("a", "b"), row(None, "a", failure=Failure.CUT)]


def test_scores_count_failed_rows_as_wrong():
    scores = score_rows(ROWS, 10, 0.1, 0.05, True)
    assert (scores.accuracy, scores.n, scores.failed) == (0.5, 4, 1)
    assert scores.macro_f1 == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_interval_is_wilsons(alpha):
    expected = binomtest(2, 4).proportion_ci(1 - alpha, method="wilson")
    assert score_rows(ROWS, 10, 0.1, alpha, True).interval == pytest.approx((expected.low, expected.high))


def test_free_text_has_no_f1():
    assert score_rows(ROWS, 10, 0.1, 0.05, False).macro_f1 is None


def test_latency_is_that_of_the_rows_that_were_timed():
    assert latency([10, 20, 30, 40, 50]).p50 == 30
    assert latency([10, 20, 30, 40, 50]).p95 == pytest.approx(48)
    assert latency([]).p50 is None
    assert score_rows([row("a", ms=7), row("a")], 1, 0, 0.05, True).latency_ms.p50 == 7


def test_a_thousand_rows_cost_what_was_paid_and_the_machines_time():
    paid = [row("a", cost=0.002), row("a", cost=0.004)]
    assert usd_per_1000(paid, 0, 0) == pytest.approx(3)
    assert usd_per_1000(paid, 10, 3.6) == pytest.approx(3 + 0.1)
    assert usd_per_1000([row("a")], 100, 0.1) == pytest.approx(1000 * 0.1 / 3600 / 100)


@pytest.mark.parametrize(("speed", "price"), [(0, 1.0), (float("nan"), 1.0), (10, None)])
def test_a_cost_that_cannot_be_known_is_null(speed, price):
    assert usd_per_1000([row("a")], speed, price) is None


def test_rows_that_were_never_asked_do_not_make_the_others_cheaper():
    asked, stopped = row("a", cost=0.002), row(None, failure=Failure.STOPPED)
    assert usd_per_1000([asked, stopped], 0, 0) == pytest.approx(2)
    assert usd_per_1000([stopped], 0, 0) is None


def test_the_operator_says_what_an_hour_costs():
    settings = load_settings().model_copy(update={"usd_per_hour": {"cuda": 2.5}})
    assert settings.hourly_price("cuda") == 2.5
    assert settings.hourly_price("cpu") is None
    assert settings.hourly_price("endpoint:local") == settings.endpoints["local"].usd_per_hour
    with pytest.raises(BadConfig, match="gone"):
        settings.hourly_price("endpoint:gone")


def test_another_price_makes_new_scores_and_no_new_predictions(dataset, places, workspace):
    contender = build_trivial(Trivial.TFIDF, dataset, workspace)
    predictions = predict(contender, dataset, places, Cap(0), workspace)

    def cost(settings: Settings) -> float:
        found = score(contender, predictions, dataset, 0.05, settings, workspace).test.cost_usd_per_1000
        assert found
        return found

    dearer = places.settings.model_copy(update={"usd_per_hour": {"cpu": 0.2}})
    assert cost(dearer) == pytest.approx(2 * cost(places.settings))


def test_the_whole_is_scored_where_dev_and_test_are_halves(dataset, places, workspace):
    contender = build_trivial(Trivial.MAJORITY, dataset, workspace)
    config = BakeoffConfig(dataset={"source": "made"})
    assert evaluate(contender, dataset, places, Cap(0), config, workspace).scores.whole is None
    halved = dataset.model_copy(update={"halved": True, "fingerprint": "e" * 64})
    whole = evaluate(contender, halved, places, Cap(0), config, workspace).scores.whole
    assert whole is not None
    assert whole.n == 100


def test_from_contenders_to_a_judgement_and_again_without_doing_anything(dataset, workspace):
    config = BakeoffConfig(dataset={"source": "made"}, budget={"usd": 1})
    rights = {example.inputs["text"]: example.label for split in ("dev", "test") for example in examples(split)}

    def all_knowing(request, number):
        label = next(label for text, label in rights.items() if text in request["messages"][-1]["content"])
        return Say(completion(json.dumps({"label": label})))

    def run(champion: Evaluation | None) -> tuple[Evaluation, Judgement]:
        contenders = [build_trivial(Trivial.MAJORITY, dataset, workspace), prompt]
        evaluations = [evaluate(contender, dataset, places, Cap(1), config, workspace) for contender in contenders]
        return evaluations[-1], judge(config.gate, evaluations, champion, workspace)

    with Loopback(all_knowing) as server:
        prompt, places = prompted(dataset, workspace, server.url)
        champion, first = run(None)
    assert (first.decision, first.winner, first.comparison.against) == (Decision.PUBLISH, "zero_shot", "majority")
    assert [(line.name, line.test.accuracy) for line in first.contenders] == [("zero_shot", 1), ("majority", 0.5)]
    workspace.reused.clear()
    assert run(None)[1].model_dump() == first.model_dump()
    made_once = [
        "trivial majority",
        *(f"{what} {name}" for name in ("majority", "zero_shot") for what in ("predictions", "scores")),
    ]
    assert workspace.reused == [*made_once, "verdict"]
    _, again = run(champion)
    assert (again.decision, again.winner, again.comparison) == (Decision.KEEP_CHAMPION, "zero_shot", first.comparison)


def test_what_is_imported_to_find_that_all_is_done_is_cheap():
    heavy = {"torch", "transformers", "datasets", "evaluate", "sklearn", "statsmodels", "scipy", "pandas", "openai"}
    code = "import sys, tasks.evaluation.scores, tasks.verdict.decision, tasks.verdict.report; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not heavy & set(found)
