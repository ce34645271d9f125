"""Techniques that give a model time: `chain_of_thought`, `reflect`, `self_consistency`."""

from tasks.prompting.messages import PromptSpec, render_text, template_of
from tasks.prompting.techniques.drafting import Drafting


def chain_of_thought(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """Steps first, in free text and in a request of their own, then the label: so steps that run long cost no answer, and the
    label's form does not press on the steps."""
    think = render_text(template_of("think"), labels=spec.labels)
    return spec.model_copy(update={"think": think, "thinking_tokens": drafting.prompt.thinking_tokens})


def reflect(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The model reviews its answer, and may change it, until it stays or the rounds are used up."""
    review = f"{template_of('review')} {spec.answer_form}".strip()
    return spec.model_copy(update={"review": review, "rounds": drafting.prompt.rounds})


def self_consistency(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """Several samples vote; the share of the votes is the label's probability."""
    return spec.model_copy(update={"samples": drafting.prompt.samples, "temperature": drafting.prompt.temperature})
