"""The one parser: an answer becomes a label here and nowhere else. It fails closed: what is not clearly one label is none."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.records import Failure

NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|non|without|hardly|cannot|\w+n't|isnt|doesnt|dont|cant|wont)\b")
HEDGE = re.compile(
    r"\b(?:partly|partially|almost|nearly|barely|far from|fail(?:s|ed)? to|rather than|instead of|would|could|might|maybe|perhaps"
    r"|unless|whether)\b|\?"
)
"""Words with which a sentence names a label and does not give it: "far from correct", "it would be correct if …"."""
REFUSAL = re.compile(
    r"\W*(?:(?:(?:i'm|i am|we're) )?(?:very |so |really )?sorry\b|i apologi[sz]e|unable to\b|as an ai\b"
    r"|(?:i'm|i am) (?:unable|not able)|i (?:can't|cannot|can not|won't|will not|must decline|refuse))"
)
WRAPPING = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u201c\u201d\u2018\u00ab\u00bb\u201e\u2026\u2013\u2014"
"""Punctuation, quotes and marks that may stand around a label."""


class Parsed(NamedTuple):
    """A label, or why there is none."""

    label: str | None
    failure: Failure | None


def parse_reply(text: str, finish_reason: str | None, refusal: str | None, labels: Sequence[str]) -> Parsed:
    """The label in a whole reply.

    Args:
        text: what the model said.
        finish_reason: why it stopped; only `stop` makes an answer whole.
        refusal: the reply's own field for a refusal.
        labels: what may be answered.
    """
    if refusal or finish_reason == "content_filter":
        return Parsed(None, Failure.REFUSED)
    if finish_reason in (None, "", "length"):
        return Parsed(None, Failure.CUT)
    if finish_reason != "stop":  # such as tool_calls: whatever this is, it is not an answer
        return Parsed(None, Failure.INVALID)
    return parse_label(text, labels)


def parse_label(text: str, labels: Sequence[str]) -> Parsed:
    """The label in an answer: exact, in JSON's `label`, or the only one named in a sentence without a negation or a hedge."""
    text = _without_fence(text)
    label = _exact(text, labels)
    if label is None and text.startswith("{"):
        return _judged(_from_json(text, labels))
    if label is None and REFUSAL.match(_folded(text)):
        return Parsed(None, Failure.REFUSED)
    return _judged(label if label is not None else _only_one_named(text, labels))


def _judged(label: str | None) -> Parsed:
    return Parsed(label, None if label is not None else Failure.INVALID)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").split())


def _without_fence(text: str) -> str:
    match = re.fullmatch(r"\s*```\w*\s*(.*?)\s*```\s*", text, flags=re.DOTALL)
    return (match[1] if match else text).strip()


def _exact(text: str, labels: Sequence[str]) -> str | None:
    """The label that the whole text is, but for case, white space and the punctuation around it."""
    if text in labels:
        return text
    for trimmed in (_folded(text), _folded(text).strip(WRAPPING)):
        found = [label for label in labels if trimmed == _folded(label)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _from_json(text: str, labels: Sequence[str]) -> str | None:
    """The value of `label` in a JSON object; a key that stands twice makes it none."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once).get("label")
    except (ValueError, RecursionError):
        return None
    return _exact(value, labels) if isinstance(value, str) else None


def _only_one_named(text: str, labels: Sequence[str]) -> str | None:
    """The one label that stands in the text as whole words; none where there are two, or a negation or hedge beside it."""
    rest = _folded(text)
    named: list[str] = []
    for folded in sorted(
        {_folded(label) for label in labels}, key=lambda folded: (-len(folded), folded)
    ):  # "not spam" before "spam"
        rest, count = re.subn(rf"(?<![\w-])(?<!\d\.){re.escape(folded)}(?![\w-]|\.\d)", " \0 ", rest)
        named += [label for label in labels if count and _folded(label) == folded]
    return named[0] if len(named) == 1 and not NEGATION.search(rest) and not HEDGE.search(rest) else None
