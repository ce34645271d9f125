"""The OpenAI protocol over a champion: a chat that asks for a label is answered by whichever contender is champion.

A client of a prompted LLM changes its base URL and nothing else: the row is found in its messages (`tasks/prompting/reverse.py`),
and the answer comes in the form that it asks for. What the champion cannot give (another schema, tools to call) is refused.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from tasks.manifest import ContenderManifest
from tasks.records import Answer, Failure


class Refusal(Exception):
    """A chat that cannot be answered, in the protocol's words."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code

    def body(self) -> dict[str, Any]:
        """As OpenAI words an error."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Lenient(BaseModel):
    """Clients send more than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Part(Lenient):
    """One part of a message."""

    type: str
    text: str = ""


class Said(Lenient):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def text(self) -> str:
        """What it says. Raises Refusal where it shows more than text."""
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise Refusal("a message holds more than text, which is all that the champion reads", "messages")
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Lenient):
    include_usage: bool = False


class ChatRequest(Lenient):
    """What of a chat completion's request is read; temperature, seeds, limits and penalties change nothing here."""

    model: str = Field("", max_length=300)
    messages: list[Said] = Field(min_length=1, max_length=1000)
    response_format: dict[str, Any] | None = None
    n: int = Field(1, ge=1, le=128)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tool_choice: Any = None

    def questions(self) -> list[str]:
        """What the user said, turn by turn."""
        return [message.text() for message in self.messages if message.role == "user"]


class Form:
    """The form that an answer is to have.

    Raises:
        Refusal: one that the champion cannot fill.
    """

    def __init__(self, request: ChatRequest, labels: Sequence[str]) -> None:
        self.key = ""
        """The JSON key that the label stands under; empty for the label alone."""
        if request.tool_choice not in (None, "none", "auto"):
            raise Refusal("the champion calls no tools: leave tool_choice out", "tool_choice")
        asked = request.response_format or {"type": "text"}
        if asked.get("type") == "json_object":
            self.key = "label"
        elif asked.get("type") == "json_schema":
            self.key = _key(asked, labels)
        elif asked.get("type") != "text":
            raise Refusal(f"response_format {str(asked.get('type'))[:40]!r} is not known", "response_format")

    def tokens(self, text: str) -> list[str]:
        """The answer in pieces, the label (or text) one of them."""
        if not self.key:
            return [text]
        return [f'{{"{self.key}": "', json.dumps(text, ensure_ascii=False)[1:-1], '"}']


def _key(asked: dict[str, Any], labels: Sequence[str]) -> str:
    """The one property of a schema that a label can fill."""
    schema = (asked.get("json_schema") or {}).get("schema") if isinstance(asked.get("json_schema"), dict) else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        raise Refusal("response_format has no schema with properties", "response_format")
    required = schema.get("required") or list(properties)  # type: ignore[union-attr]
    if len(required) != 1 or required[0] not in properties or not _plain(str(required[0])):
        raise Refusal(f"the champion gives a label and no more, but the schema requires {required!r:.200}", "response_format")
    value = properties[required[0]] if isinstance(properties[required[0]], dict) else {}
    if value.get("type", "string") != "string":
        raise Refusal(f"the schema requires {required[0]!r} to be a {value['type']!r:.40}, and a label is text", "response_format")
    allowed = value.get("enum")
    unknown = [label for label in labels if allowed is not None and label not in allowed]
    if unknown:
        raise Refusal(f"the champion may answer {unknown[0]!r}, which the schema does not allow", "response_format")
    return str(required[0])


def _plain(name: str) -> bool:
    return json.dumps(name) == f'"{name}"'


def completion(request: ChatRequest, form: Form, answer: Answer, manifest: ContenderManifest, model: str) -> dict[str, Any]:
    """A chat completion.

    Raises:
        Refusal: the champion has no usable answer.
    """
    tokens, refusal, reason = _said(form, answer, manifest)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None if refusal else "".join(tokens), "refusal": refusal},
        "logprobs": _logprobs(request, tokens, answer, manifest) if request.logprobs and not refusal else None,
        "finish_reason": reason,
    }
    usage = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens}
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice | {"index": index} for index in range(request.n)],
        "usage": usage | {"total_tokens": answer.input_tokens + answer.output_tokens},
    }


def events(whole: dict[str, Any], with_usage: bool) -> Iterator[str]:
    """A completion as the events of a stream; it comes at once, since a label is not thought of word by word."""
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for choice in whole["choices"]:
        said = {key: value for key, value in choice["message"].items() if value is not None}
        first = {"index": choice["index"], "delta": said, "logprobs": choice["logprobs"], "finish_reason": None}
        last = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        for part in (first, last):
            yield _event(head | {"choices": [part]})
    if with_usage:
        yield _event(head | {"choices": [], "usage": whole["usage"]})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _said(form: Form, answer: Answer, manifest: ContenderManifest) -> tuple[list[str], str | None, str]:
    """The answer in pieces, the refusal if it is one, and why it ended."""
    if answer.failure is Failure.REFUSED:
        return [], answer.answer or "refused", "stop"
    if answer.failure is Failure.TOO_LONG:
        raise Refusal("the row is longer than the champion takes", "messages", 400, "context_length_exceeded")
    if answer.failure:
        raise Refusal(f"the champion has no usable answer to this row ({answer.failure.value})", None, 502, answer.failure.value)
    text = answer.label if manifest.labels and answer.label is not None else answer.answer
    return form.tokens(text), None, "stop"


def _logprobs(request: ChatRequest, tokens: Sequence[str], answer: Answer, manifest: ContenderManifest) -> dict[str, Any]:
    """Each piece as one token: the label's with its log-probability and the other labels beside; the rest is certain."""
    likely = _likely(answer, manifest)
    told = []
    for token in tokens:
        own = likely.get(answer.label or "", 0.0) if token == answer.label else 0.0
        beside = likely if token == answer.label else {token: 0.0}
        top = sorted(beside.items(), key=lambda each: -each[1])[: request.top_logprobs or 0]
        told.append(_token(token, own) | {"top_logprobs": [_token(*each) for each in top]})
    return {"content": told, "refusal": None}


def _likely(answer: Answer, manifest: ContenderManifest) -> dict[str, float]:
    """The labels' log-probabilities; of the given label alone where the champion tells no more."""
    if answer.logits and len(answer.logits) == len(manifest.labels):
        most = max(answer.logits)
        total = most + math.log(sum(math.exp(value - most) for value in answer.logits))
        return {label: value - total for label, value in zip(manifest.labels, answer.logits, strict=True)}
    return {answer.label or "": math.log(answer.probability) if answer.probability else 0.0}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
