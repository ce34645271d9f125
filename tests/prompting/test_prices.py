"""What tokens cost, and what an endpoint says of its model."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from tasks.errors import BadConfig, EndpointError
from tasks.prompting.ask import Meter
from tasks.prompting.budget import Cap, estimate
from tasks.prompting.endpoint import ModelFacts, look_up, preflight, sent_body
from tasks.prompting.journal import Journal
from tasks.prompting.messages import build_request
from tasks.prompting.prices import Usage, price, price_tag, worst_price
from tasks.records import Answer
from tasks.settings import BUILT_IN, Endpoint
from tests.prompting.conftest import make_endpoint, make_examples, make_spec
from tests.prompting.loopback import Loopback, Say, completion, error

Ask = Callable[..., list[Answer]]
MILLION = 10**6


def openai(model: str, **changes: Any) -> Endpoint:
    """An endpoint whose prices only the library knows."""
    return Endpoint.model_validate({"base_url": "https://api.openai.com/v1", "model": model, **changes})


def test_cached_tokens_have_their_own_price_and_reasoning_is_billed_as_part_of_the_answer() -> None:
    endpoint = make_endpoint("http://there/v1", usd_per_million_cached=0.1)
    assert price(endpoint, Usage(MILLION, 0)) == 1.0
    assert price(endpoint, Usage(MILLION, 0, cached_tokens=400_000)) == pytest.approx(0.6 + 0.04)
    assert price(endpoint, Usage(0, MILLION, reasoning_tokens=900_000)) == price(endpoint, Usage(0, MILLION)) == 2.0
    without = make_endpoint("http://there/v1")
    assert price(without, Usage(MILLION, 0, cached_tokens=400_000)) == 1.0


def test_a_batch_costs_half() -> None:
    for endpoint in (make_endpoint("http://there/v1"), openai("gpt-4o-mini")):
        usage = Usage(1000, 100, cached_tokens=200)
        assert price(endpoint, usage, batch=True) == pytest.approx(price(endpoint, usage) / 2)
        [request] = [build_request(make_spec(), example.inputs) for example in make_examples(1)]
        batched = endpoint.model_copy(update={"batch": True})
        assert estimate([request], batched).usd == pytest.approx(estimate([request], endpoint).usd / 2)


def test_no_reply_costs_more_than_the_worst_case_that_was_set_aside() -> None:
    for endpoint in (make_endpoint("http://there/v1", usd_per_million_cached=9.0), openai("gpt-4o-mini"), openai("gpt-5")):
        worst = worst_price(endpoint, 1000, 100)
        for cached, written in ((0, 0), (1000, 0), (300, 0), (0, 1000)):
            assert price(endpoint, Usage(1000, 100, cached, written)) <= worst


def test_the_library_knows_the_built_in_model_at_openai_with_a_day_and_cheaper_cached_tokens() -> None:
    built_in = Endpoint.model_validate(BUILT_IN["endpoints"]["openai"])
    tag = price_tag(built_in)
    assert 0 < tag.cached < tag.input < tag.output
    assert tag.source.startswith("genai-prices ")
    assert tag.priced_on is not None
    assert tag.priced_on <= datetime.now(UTC).date()
    assert str(tag.priced_on) in str(tag)


def test_settings_go_before_the_library() -> None:
    tag = price_tag(openai("gpt-4o-mini", usd_per_million_input=7, usd_per_million_output=8, priced_on="2026-11-01"))
    assert (tag.input, tag.cached, tag.output, tag.source, tag.priced_on) == (7, 7, 8, "settings", date(2026, 11, 1))


@pytest.mark.parametrize(
    "endpoint",
    [
        openai("a-model-of-tomorrow"),
        openai("gpt-4o-mini", base_url="http://127.0.0.1:9/v1"),  # the same name elsewhere has another price
        openai("gpt-4o-mini", usd_per_million_input=1.0),
        openai("gpt-4o-mini", usd_per_million_cached=1.0),
    ],
)
def test_a_price_that_nobody_knows_is_asked_for_and_never_0(endpoint: Endpoint) -> None:
    for ask in (lambda: preflight("there", endpoint), lambda: price(endpoint, Usage(1, 1)), lambda: price_tag(endpoint)):
        with pytest.raises(BadConfig, match="usd_per_million_input and usd_per_million_output"):
            ask()


def test_what_the_provider_says_was_cached_or_thought_is_billed_and_kept(ask_rows: Ask, tmp_path: Any) -> None:
    said = completion('{"label": "negative"}')
    said["usage"] |= {"prompt_tokens_details": {"cached_tokens": 30}, "completion_tokens_details": {"reasoning_tokens": 5}}
    meter = Meter()
    with Loopback(lambda request, number: Say(said)) as server:
        [answer] = ask_rows(server.url, meter=meter, usd_per_million_cached=0.1)
    assert answer.cost_usd == meter.usd == pytest.approx((10 * 1.0 + 30 * 0.1 + 8 * 2.0) / MILLION)
    with Journal(tmp_path / "journal.sqlite") as journal:
        [key] = [row[0] for row in journal._database.execute("SELECT key FROM replies")]
        reply = journal.find(key)
    assert reply
    assert (reply.cached_tokens, reply.reasoning_tokens) == (30, 5)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": -1, "completion_tokens": 8},
        {"prompt_tokens": 40, "completion_tokens": "8"},
        {"prompt_tokens": 40, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 41}},
        {"prompt_tokens": 40, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 9}},
        {"prompt_tokens": True, "completion_tokens": 8},
    ],
)
def test_a_usage_that_cannot_be_is_billed_at_the_worst_case(ask_rows: Ask, usage: Any) -> None:
    cap = Cap(1.0)
    with Loopback(lambda request, number: Say(completion('{"label": "negative"}') | {"usage": usage})) as server:
        [answer] = ask_rows(server.url, cap=cap)
    assert answer.label == "negative"
    assert answer.cost_usd == cap.spent_usd > (40 + 2 * 8) / MILLION


def test_hidden_reasoning_that_only_the_total_tells_is_billed(ask_rows: Ask) -> None:
    said = completion('{"label": "negative"}')
    said["usage"] = {"prompt_tokens": 40, "completion_tokens": 8, "total_tokens": 148}
    with Loopback(lambda request, number: Say(said)) as server:
        [answer] = ask_rows(server.url)
    assert answer.cost_usd == pytest.approx((40 + 2 * 108) / MILLION)


def test_newer_models_get_the_limit_of_an_answer_by_their_name_for_it_and_no_temperature(ask_rows: Ask) -> None:
    with Loopback() as server:
        first = ask_rows(server.url, count=2)
        again = ask_rows(server.url, count=4, answer_limit="max_completion_tokens", temperature=False)
    assert again[:2] == first  # what is asked is the same, so are its keys
    old, new = server.requests[0], server.requests[-1]
    assert (old["max_tokens"], old["temperature"]) == (new["max_completion_tokens"], 0) == (16, 0)
    assert "max_tokens" not in new
    assert "temperature" not in new


def test_a_request_stays_as_it_is_for_an_endpoint_that_takes_it() -> None:
    request = build_request(make_spec(), {"text": "a film"})
    before = json.dumps(request)
    assert sent_body(make_endpoint("http://there/v1"), request) == request
    sent_body(make_endpoint("http://there/v1", answer_limit="max_completion_tokens", temperature=False), request)
    assert json.dumps(request) == before


def facts(*models: Any) -> ModelFacts:
    """What a server with this list of models is taken to say of model `m`."""
    with Loopback(lambda request, number: Say({"object": "list", "data": list(models)})) as server:
        return asyncio.run(look_up(make_endpoint(server.url)))


@pytest.mark.parametrize(
    ("announced", "day"),
    [
        ({"shutdown_date": "2027-02-28"}, date(2027, 2, 28)),
        ({"shutdown_date": "2027-02-28T12:00:00Z"}, date(2027, 2, 28)),
        ({"shutdown_date": 1803816000}, date(2027, 2, 28)),
        ({"deprecation": "2027-02-28"}, date(2027, 2, 28)),
        ({"shutdown_date": None, "deprecated_at": 1803816000}, date(2027, 2, 28)),
        ({"shutdown_date": "some day"}, None),
        ({"shutdown_date": 1e40}, None),
        ({"shutdown_date": {"day": 3}}, None),
        ({"shutdown_date": True}, None),
        ({}, None),
    ],
)
def test_the_announced_end_of_a_model_is_read(announced: dict[str, Any], day: date | None) -> None:
    assert facts({"id": "another", "shutdown_date": "2020-01-01"}, {"id": "m", **announced}) == ModelFacts(True, day)


def test_a_model_that_is_not_on_the_list_is_told_from_a_server_without_a_list() -> None:
    assert facts({"id": "another"}) == ModelFacts(exists=False)
    assert facts("rubbish") == ModelFacts()
    with Loopback(lambda request, number: error(404)) as server:
        assert asyncio.run(look_up(make_endpoint(server.url))) == ModelFacts()
        server.behave = lambda request, number: error(403)
        with pytest.raises(EndpointError, match="refused the key"):
            asyncio.run(look_up(make_endpoint(server.url)))
