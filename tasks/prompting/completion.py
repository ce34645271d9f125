"""What an endpoint's body says: a chat completion, read whole and closed to everything that is none."""

import json
import math
from dataclasses import dataclass
from typing import Any

from tasks.prompting.prices import Usage
from tasks.records import Failure


class Fault(Exception):
    """An attempt that brought no reply."""

    def __init__(
        self,
        failure: Failure,
        detail: str,
        retry: bool = False,
        billed: bool = False,
        wait_s: float | None = None,
        crowded: bool = False,
    ) -> None:
        super().__init__(detail)
        self.failure, self.detail, self.retry, self.billed, self.wait_s = failure, detail, retry, billed, wait_s
        self.crowded = crowded
        """The endpoint had too much to do: all should slow down."""


@dataclass(frozen=True)
class Completion:
    """A chat completion's first choice."""

    text: str
    finish_reason: str | None
    refusal: str | None
    usage: Usage | None
    """None when it was not told, or told in a way that cannot be."""
    logprobs: str | None
    """As `Reply.logprobs`."""


def read_completion(body: str, logprobs: bool = False) -> Completion:
    """Read the body of a chat completion, with the first token's log-probabilities where they were asked for.

    Raises:
        Fault: it is none: HTML, broken JSON, no choices. It may have been billed.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal, finish_reason = message.get("content") or "", message.get("refusal"), choice.get("finish_reason")
        candidates = _read_logprobs(choice.get("logprobs")) if logprobs else None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise _no_completion(f"not a chat completion: {body[:60]!r}") from None
    if not all(isinstance(value, str | None) for value in (text, refusal, finish_reason)):
        raise _no_completion("a chat completion without text")
    clean = text.encode("utf-8", "replace").decode()  # half a surrogate pair fits no file
    return Completion(clean, finish_reason, refusal or None, _read_usage(reply.get("usage")), candidates)


def _no_completion(detail: str) -> Fault:
    return Fault(Failure.PROTOCOL, detail, retry=True, billed=True)


def _read_usage(told: Any) -> Usage | None:
    """The usage that a completion tells; None when a count is missing, no count, or more than the whole that it is part of."""
    if not isinstance(told, dict):
        return None
    counts: list[Any] = [
        told.get("prompt_tokens"),
        told.get("completion_tokens", 0),
        told.get("total_tokens") or 0,
        _detail(told, "prompt_tokens_details", "cached_tokens"),
        _detail(told, "prompt_tokens_details", "cache_write_tokens"),
        _detail(told, "completion_tokens_details", "reasoning_tokens"),
    ]
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return None
    read, written, total, cached, stored, reasoning = counts
    written = max(written, total - read)  # some leave hidden reasoning out of the answer's tokens, though not of the total
    if cached + stored > read or reasoning > written:
        return None
    return Usage(read, written, cached, stored, reasoning)


def _detail(told: dict[str, Any], group: str, name: str) -> Any:
    """A count in a group; 0 where the group or the count is not given."""
    details = told.get(group)
    if details is None:
        return 0
    return (details.get(name) or 0) if isinstance(details, dict) else None


def _read_logprobs(told: Any) -> str | None:
    """The candidates for the answer's first token, the likeliest first, as JSON.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: they are not as the protocol has them.
    """
    if not told or not told.get("content"):
        return None
    first = told["content"][0]
    candidates = [{"token": each["token"], "logprob": each["logprob"]} for each in first.get("top_logprobs") or [first]]
    for each in candidates:
        token, logprob = each["token"], each["logprob"]
        if not isinstance(token, str) or isinstance(logprob, bool) or not math.isfinite(logprob):
            raise ValueError(f"no log-probability: {each}")
    return json.dumps(sorted(candidates, key=lambda each: each["logprob"], reverse=True))
