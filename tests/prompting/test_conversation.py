"""Conversations as plain text: nothing is sent."""

import json
import math
from typing import Any

import pytest

from tasks.prompting.conversation import Conversation, Request, converse, label_log_probabilities, most_requests
from tasks.prompting.journal import Reply
from tasks.prompting.messages import PromptSpec
from tasks.records import Answer, Failure
from tests.prompting.conftest import make_spec

ROW = {"text": "a {{ 7*7 }} film"}


def reply(text: str, finish_reason: str = "stop", refusal: str | None = None, first: dict[str, float] | None = None) -> Reply:
    top = [{"token": token, "logprob": math.log(share)} for token, share in (first or {}).items()]
    return Reply(text, finish_reason, refusal, 10, 5, 0.0, 1.0, 1, logprobs=json.dumps(top) if first else None)


def held(spec: PromptSpec, *replies: Reply) -> tuple[Answer, list[Request]]:
    """The answer of a conversation with these replies, and what was asked; all of them must be used."""
    talk: Conversation = converse(spec, ROW)
    requests = [next(talk)]
    for number, each in enumerate(replies, 1):
        try:
            requests.append(talk.send(each))
        except StopIteration as end:
            assert number == len(replies)
            return end.value, requests
    raise AssertionError(f"it asks on: {requests[-1]['messages'][-1]}")


def label(name: str) -> Reply:
    return reply(json.dumps({"label": name}))


def test_a_plain_prompt_is_one_request() -> None:
    answer, requests = held(make_spec(), label("positive"))
    assert (answer.label, answer.draft, answer.reason, len(requests)) == ("positive", None, "", 1)
    assert "response_format" in requests[0]


def test_steps_come_first_and_the_label_in_a_request_of_its_own() -> None:
    spec = make_spec(think="Think.", thinking_tokens=99, answer_form="Now the label.")
    answer, (first, second) = held(spec, reply("It drags {{ 1 }}.", finish_reason="length"), label("negative"))
    assert (answer.label, answer.reason, answer.failure) == ("negative", "It drags {{ 1 }}.", None)
    assert first["max_tokens"] == 99
    assert "response_format" not in first
    assert first["messages"][-1]["content"].endswith("a {{ 7*7 }} film\n\nThink.")
    assert "Now the label." not in first["messages"][-1]["content"]
    assert [message["content"] for message in second["messages"][1:]] == ["It drags {{ 1 }}.", "Now the label."]


def test_a_model_that_declines_to_think_is_not_asked_for_a_label() -> None:
    answer, _ = held(make_spec(think="Think.", thinking_tokens=9), reply("", refusal="I won't."))
    assert (answer.label, answer.failure) == (None, Failure.REFUSED)


REVIEWED = {"review": "Look again.", "rounds": 2}


def test_a_review_may_change_the_answer_and_the_draft_is_kept() -> None:
    answer, requests = held(make_spec(**REVIEWED), label("negative"), label("positive"), label("positive"))
    assert (answer.label, answer.draft) == ("positive", "negative")
    assert requests[1]["messages"][-1]["content"] == "Look again."
    assert len(requests) == 3


def test_reviews_end_when_the_answer_stays_or_the_rounds_are_used_up() -> None:
    stays, requests = held(make_spec(**REVIEWED), label("negative"), label("negative"))
    assert (stays.label, stays.draft, len(requests)) == ("negative", "negative", 2)
    swings, requests = held(make_spec(**REVIEWED), label("negative"), label("positive"), label("negative"))
    assert (swings.label, swings.draft, len(requests)) == ("negative", "negative", 3)


def test_a_review_without_a_label_leaves_the_answer_as_it_was() -> None:
    answer, _ = held(make_spec(**REVIEWED), label("negative"), reply("well, who knows"))
    assert (answer.label, answer.failure) == ("negative", None)


def test_a_review_may_repair_an_answer_without_a_label() -> None:
    answer, _ = held(make_spec(**REVIEWED), reply("hm"), label("positive"), label("positive"))
    assert (answer.label, answer.draft, answer.failure) == ("positive", None, None)


def test_samples_are_asked_with_seeds_of_their_own_and_vote() -> None:
    spec = make_spec(samples=3, temperature=0.7)
    answer, requests = held(spec, label("negative"), label("positive"), label("positive"))
    assert (answer.label, answer.probability) == ("positive", pytest.approx(2 / 3))
    assert [request["seed"] for request in requests] == [0, 1, 2]
    assert {request["temperature"] for request in requests} == {0.7}


@pytest.mark.parametrize(
    ("said", "label_", "share", "failure"),
    [
        (["negative", "positive", "?"], "negative", 1 / 3, None),
        (["?", "?", "positive"], "positive", 1 / 3, None),
        (["?", "?", "?"], None, None, Failure.INVALID),
    ],
)
def test_ties_go_to_the_first_and_samples_without_a_label_never_count_for_one(
    said: list[str], label_: str | None, share: float | None, failure: Failure | None
) -> None:
    answer, _ = held(make_spec(samples=3, temperature=0.7), *(reply(text) for text in said))
    assert (answer.label, answer.failure) == (label_, failure)
    assert answer.probability == (None if share is None else pytest.approx(share))


def test_techniques_stack_and_the_most_requests_are_known() -> None:
    spec = make_spec(think="Think.", thinking_tokens=9, samples=3, temperature=1.0, **REVIEWED)
    thought = reply("Hm.")
    replies = [thought, label("negative"), label("positive"), label("negative")] * 3
    answer, requests = held(spec, *replies)
    assert len(requests) == len(replies) == most_requests(spec)
    assert answer.label == "negative"


SCORED: dict[str, Any] = {"scored": True, "structured": False}


def test_labels_are_scored_by_their_first_token() -> None:
    answer, requests = held(make_spec(**SCORED), reply("pos", "length", first={"pos": 0.6, " Neg": 0.2, "the": 0.2}))
    assert (answer.label, answer.probability) == ("positive", pytest.approx(0.75))
    assert requests[0]["logprobs"] is True
    assert requests[0]["max_tokens"] == 1


def test_the_bias_fitted_on_dev_decides_with() -> None:
    spec = make_spec(**SCORED, bias={"negative": 1.5, "positive": -1.5}, scale=0.5)
    answer, _ = held(spec, reply("pos", "length", first={"pos": 0.6, "neg": 0.2}))
    assert answer.label == "negative"


@pytest.mark.parametrize("first", [None, {"the": 0.999}, {"p": 0.001, "the": 0.9}])
def test_without_probability_for_any_label_there_is_no_answer(first: dict[str, float] | None) -> None:
    answer, _ = held(make_spec(**SCORED), reply("the", "length", first=first))
    assert (answer.label, answer.failure) == (None, Failure.INVALID)


def test_a_token_that_begins_several_labels_counts_for_none() -> None:
    top = json.dumps([{"token": "n", "logprob": math.log(0.5)}, {"token": "neu", "logprob": math.log(0.3)}])
    scores = label_log_probabilities(top, ["negative", "neutral"])
    assert scores
    assert scores[1] == pytest.approx(0.0)
    assert scores[0] < -9
