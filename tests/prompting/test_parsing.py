import pytest

from tasks.prompting.parsing import parse_label, parse_reply
from tasks.records import Failure

SENTIMENT = ["negative", "positive"]
GRADES = ["correct", "incorrect", "partly correct"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("  POSITIVE.\n", "positive"),
        ('"Positive"', "positive"),
        ("**positive**", "positive"),
        ("\u201cpositive\u201d", "positive"),
        ('{"label": "positive"}', "positive"),
        ('{"label": "Positive"}', "positive"),
        ('```json\n{"label": "negative"}\n```', "negative"),
        ("The sentiment is positive.", "positive"),
        ("Label: negative", "negative"),
        ("\uff50ositive", "positive"),
    ],
)
def test_one_clear_label_is_read(text: str, label: str) -> None:
    assert parse_label(text, SENTIMENT) == (label, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "neutral",
        "positive or negative",
        "positive, then negative",
        "not positive",
        "It isn't positive.",
        "It isn\u2019t positive.",
        "non-positive",
        "never negative",
        "neither",
        "positively",
        '{"label": "neutral"}',
        '{"label": ["positive"]}',
        '{"answer": "positive"}',
        '{"label": "positive", "label": "negative"}',
        '{"label": "positive"',
        '{"label": "not positive"}',
        "[" * 5000,
        "{" * 5000,
    ],
)
def test_anything_else_is_invalid(text: str) -> None:
    assert parse_label(text, SENTIMENT) == (None, Failure.INVALID)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("incorrect", "incorrect"),
        ("The answer is incorrect.", "incorrect"),
        ("The answer is partly correct", "partly correct"),
        ("The answer is correct", "correct"),
        ("The answer is not correct", None),
        ("incorrect, not correct", None),
    ],
)
def test_a_label_within_another_is_not_taken_for_it(text: str, label: str | None) -> None:
    assert parse_label(text, GRADES).label == label


@pytest.mark.parametrize(
    "text",
    [
        "incorrect",
        "The answer is incorrect.",
        "not wrong",
        "It isn't correct",
        "That is far from correct",
        "partly correct",
        "almost correct",
        "It would be correct for the 36th president.",
        "The student fails to give the correct answer",
        "Is it correct?",
        "correct, wrong",
        "correctly",
        "un-correct",
        "",
    ],
)
def test_a_grade_that_is_named_and_not_given_never_passes(text: str) -> None:
    assert parse_label(text, ["correct", "wrong"]) == (None, Failure.INVALID)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("not spam", "not spam"),
        ("This is not spam.", "not spam"),
        ("spam", "spam"),
        ("This is spam", "spam"),
        ("not not spam", None),
    ],
)
def test_a_label_may_hold_a_negation(text: str, label: str | None) -> None:
    assert parse_label(text, ["spam", "not spam"]).label == label


@pytest.mark.parametrize(("text", "label"), [("1", "1"), ("Score: 10.", "10"), ("1.5", None), ("0.1", None), ("1 or 10", None)])
def test_digits_are_labels_only_as_whole_numbers(text: str, label: str | None) -> None:
    assert parse_label(text, ["1", "10"]).label == label


def test_labels_that_differ_in_case_alone_are_told_apart_exactly_or_not_at_all() -> None:
    assert parse_label("US", ["US", "us"]).label == "US"
    assert parse_label("Us", ["US", "us"]).label is None
    assert parse_label("it is us", ["US", "us"]).label is None


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't help with that.", "I cannot judge this.", "As an AI, I do not", "I won\u2019t say"]
)
def test_a_refusal_is_its_own_class(text: str) -> None:
    assert parse_label(text, SENTIMENT) == (None, Failure.REFUSED)


@pytest.mark.parametrize(
    ("finish_reason", "refusal", "failure"),
    [
        ("stop", None, None),
        ("length", None, Failure.CUT),
        (None, None, Failure.CUT),
        ("content_filter", None, Failure.REFUSED),
        ("stop", "I will not", Failure.REFUSED),
        ("tool_calls", None, Failure.INVALID),
    ],
)
def test_only_a_reply_that_stopped_by_itself_is_an_answer(
    finish_reason: str | None, refusal: str | None, failure: Failure | None
) -> None:
    parsed = parse_reply("positive", finish_reason, refusal, SENTIMENT)
    assert parsed.failure == failure
    assert (parsed.label is None) == (failure is not None)
