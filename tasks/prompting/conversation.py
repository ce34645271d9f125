"""What is said about one row, turn by turn: the first request, the label read from its reply, and where the technique wants it the
steps before and the reviews after.

A conversation is a generator: it yields requests, is sent replies, and returns the answer. It neither sends nor waits, so whoever
drives it decides how (`tasks/prompting/ask.py`), and it can be read and tested as plain text.
"""

import json
import math
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from tasks.prompting.journal import Reply
from tasks.prompting.messages import Message, PromptSpec, Shot, label_request, render, text_request
from tasks.prompting.parsing import parse_reply
from tasks.records import Answer, Failure

Request = dict[str, Any]
Conversation = Generator[Request, Reply, Answer]
LEAST_MASS = 0.01
"""Where the labels' first tokens have less probability together, the model meant to say something else."""


def converse(spec: PromptSpec, inputs: Mapping[str, str], shots: Sequence[Shot] | None = None, hint: str = "") -> Conversation:
    """The conversation about one row. Its answer has no tokens, cost or latency yet: who sends the requests knows them."""
    messages = render(spec, inputs, shots, hint)
    answers = []
    for sample in range(spec.samples):
        answers.append((yield from _answer(spec, messages, sample)))
    return answers[0] if len(answers) == 1 else vote(answers)


def most_requests(spec: PromptSpec) -> int:
    """How many requests a row takes at most."""
    return spec.samples * (1 + bool(spec.think) + spec.rounds)


def vote(answers: Sequence[Answer]) -> Answer:
    """The label that most samples gave; among equals the one that was given first. Its share of all samples is its probability.

    Samples without a label count in the share, and win where all are without.
    """
    labels = [answer.label for answer in answers if answer.label is not None]
    if not labels:
        return answers[0]
    label, votes = Counter(labels).most_common(1)[0]
    winner = next(answer for answer in answers if answer.label == label)
    return winner.model_copy(update={"probability": votes / len(answers)})


def _answer(spec: PromptSpec, messages: list[Message], sample: int) -> Conversation:
    """One sample: steps if asked for, the label, reviews if asked for."""
    reason = ""
    if spec.think:
        reply = yield text_request(spec, messages, spec.thinking_tokens, sample)
        refused = _refused(reply)
        if refused:
            return refused
        reason = reply.text
        messages = [*messages, _said(reply.text), {"role": "user", "content": spec.answer_form}]
    reply = yield label_request(spec, messages, sample)
    answer = (_score if spec.scored else _read)(spec, reply).model_copy(update={"reason": reason})
    return (yield from _review(spec, messages, reply, answer, sample)) if spec.rounds else answer


def _review(spec: PromptSpec, messages: list[Message], reply: Reply, answer: Answer, sample: int) -> Conversation:
    """Have the answer reviewed until it stays, or the rounds are used up. A review without a label leaves the answer as it was."""
    draft = answer.label
    for _ in range(spec.rounds):
        messages = [*messages, _said(reply.text), {"role": "user", "content": spec.review}]
        reply = yield label_request(spec, messages, sample)
        reviewed = _read(spec, reply)
        if reviewed.failure or reviewed.label == answer.label:
            break
        answer = reviewed.model_copy(update={"reason": answer.reason})
    return answer.model_copy(update={"draft": draft})


def _read(spec: PromptSpec, reply: Reply) -> Answer:
    label, failure = parse_reply(reply.text, reply.finish_reason, reply.refusal, spec.labels)
    if spec.free and failure is Failure.INVALID and reply.finish_reason == "stop":
        failure = None  # nothing but a label can be invalid
    return Answer(answer=reply.refusal or reply.text, label=label, failure=failure)


def _refused(reply: Reply) -> Answer | None:
    """The answer of a model that declined to think; steps that were cut are steps all the same."""
    if reply.refusal or reply.finish_reason == "content_filter":
        return Answer(answer=reply.refusal or reply.text, label=None, failure=Failure.REFUSED)
    return None


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _score(spec: PromptSpec, reply: Reply) -> Answer:
    """The label whose first token is the most probable, after the calibration that dev gave."""
    raw = label_log_probabilities(reply.logprobs, spec.labels)
    if reply.refusal or raw is None:
        failure = Failure.REFUSED if reply.refusal else Failure.INVALID
        return Answer(answer=reply.refusal or reply.text, label=None, failure=failure)
    logits = [spec.scale * value + spec.bias.get(label, 0.0) for label, value in zip(spec.labels, raw, strict=True)]
    best = max(range(len(logits)), key=logits.__getitem__)
    total = sum(math.exp(value - logits[best]) for value in logits)
    return Answer(answer=reply.text, label=spec.labels[best], probability=1 / total, logits=logits)


def label_log_probabilities(first_token: str | None, labels: Sequence[str]) -> list[float] | None:
    """Log-probability of each label given that the answer begins with one of them.

    Args:
        first_token: the candidates for the answer's first token, as in `Reply.logprobs`. A token counts for the one label that it
            begins; tokens that begin several labels, or none, count for none.

    Returns: one a label; None where the labels have hardly any probability, or the endpoint told none.
    """
    mass = dict.fromkeys(labels, 0.0)
    for candidate in json.loads(first_token) if first_token else []:
        token = candidate["token"].strip(' "\n').casefold()
        begun = [label for label in labels if token and label.casefold().startswith(token)]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(candidate["logprob"])
    total = sum(mass.values())
    if not LEAST_MASS <= total < math.inf:
        return None
    floor = 1e-4  # a label that is not among the candidates is improbable, not impossible
    return [math.log(max(value / total, floor)) for value in mass.values()]
