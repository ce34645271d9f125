"""What a model says in free text while a prompt is being made: the questions of an interview, a rewritten instruction.

It goes the way of every row (`tasks/prompting/ask.py`): journal, cap, limits and retries are the same.
"""

from dataclasses import replace

from tasks.errors import EndpointError
from tasks.prompting.ask import UNREACHED, AskContext, Question, answer_questions
from tasks.prompting.conversation import Request
from tasks.prompting.messages import PromptSpec, build_request
from tasks.records import Answer, Example
from tasks.workspace import digest


def say(text: str, max_tokens: int, spec: PromptSpec, context: AskContext, temperature: float = 0.0) -> Answer:
    """What the prompt's model says to one user turn. `failure` is `cut` where it was stopped, `refused`, `too_long`; a whole text
    counts as `invalid`, since it is no label.

    Args:
        text: the turn, as it is to be sent: it is never rendered.
        max_tokens: where the model is stopped.
        spec: the prompt that is being made; it names endpoint and model.

    Raises:
        EndpointError: there was no reply.
        BadConfig, BudgetReached: as asking raises them.
    """
    turn = Example(example=digest(text), row=1, inputs={"text": text}, label=None)
    now = replace(context, endpoint=context.endpoint.model_copy(update={"batch": False}))  # the next step waits for it
    [answer] = answer_questions(_bare(spec, max_tokens, temperature), [Question(turn)], now)
    if answer.failure in UNREACHED:
        raise EndpointError(
            f"{spec.model} gave no reply ({answer.failure}); what was answered is kept: run again when the endpoint "
            f"{spec.endpoint!r} answers"
        )
    return answer


def turn_request(text: str, max_tokens: int, spec: PromptSpec, temperature: float = 0.0) -> Request:
    """The request that `say` sends."""
    return build_request(_bare(spec, max_tokens, temperature), {"text": text})


def _bare(spec: PromptSpec, max_tokens: int, temperature: float) -> PromptSpec:
    """A prompt that shows its one input and nothing else."""
    return PromptSpec(
        endpoint=spec.endpoint,
        model=spec.model,
        techniques=spec.techniques,
        labels=[],
        inputs=["text"],
        instructions="",
        template="{{ text }}",
        structured=False,
        temperature=temperature,
        max_answer_tokens=max_tokens,
    )
