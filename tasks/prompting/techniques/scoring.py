"""`log_probability`: labels are scored by how probable the model finds their first token, and calibrated on dev."""

import logging
import math
from collections.abc import Sequence

from tasks.data.examples import read_examples
from tasks.errors import BadConfig, EndpointError
from tasks.prompting.ask import UNREACHED, answer_questions, questions_of
from tasks.prompting.messages import PromptSpec
from tasks.prompting.techniques.drafting import Drafting
from tasks.prompting.techniques.examples import MAX_UNREACHED
from tasks.records import Answer, Example

logger = logging.getLogger(__name__)
FEWEST_ROWS = 20
"""Dev rows with an answer below which nothing is fitted."""


def log_probability(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """One token is asked for instead of a whole answer, with the probabilities of its alternatives.

    Raises:
        BadConfig: two labels begin alike, so that their first token does not tell them apart.
    """
    for label in spec.labels:
        alike = [other for other in spec.labels if other != label and other.casefold()[:1] == label.casefold()[:1]]
        if any(other.casefold().split()[:1] == label.casefold().split()[:1] for other in alike):
            raise BadConfig(
                f"labels {label!r} and {alike[0]!r} begin alike, so log_probability cannot tell them apart: give them other names "
                "in dataset.labels, or leave the technique out"
            )
    return spec.model_copy(update={"scored": True, "structured": False})


def calibrate(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """Fit the scale and the labels' bias to dev (Platt scaling, as multinomial logistic regression over the labels' scores). Raises
    as `fit_to` and asking do."""
    dev = [row for row in read_examples(drafting.dataset, "dev") if row.label is not None]
    answers = answer_questions(spec, questions_of(drafting.folder, spec, dev), drafting.ask())
    return fit_to(spec, dev, answers, drafting.prompt.name)


def fit_to(spec: PromptSpec, rows: Sequence[Example], answers: Sequence[Answer], name: str) -> PromptSpec:
    """The prompt with the calibration that suits what it answered about labelled rows while it had none; as it was where too few
    of them gave probabilities.

    Raises:
        EndpointError: too many rows had no reply, so the prompt would stay uncalibrated for want of an endpoint.
    """
    unreached = sum(answer.failure in UNREACHED for answer in answers)
    if unreached > MAX_UNREACHED * len(rows):
        raise EndpointError(
            f"{spec.model} gave no reply to {unreached} of {len(rows)} dev rows, so {name} cannot be calibrated; what was answered "
            f"is kept: run again when the endpoint {spec.endpoint!r} answers"
        )
    pairs = [(answer.logits, str(row.label)) for row, answer in zip(rows, answers, strict=True) if answer.logits]
    if len(pairs) < FEWEST_ROWS:
        logger.warning("%s: %d of %d dev rows gave probabilities; nothing is calibrated", name, len(pairs), len(rows))
        return spec
    scale, bias = fit_calibration([logits for logits, _ in pairs], [label for _, label in pairs], spec.labels)
    logger.info("%s: scale %.3f, bias %s, fitted on %d dev rows", name, scale, bias, len(pairs))
    return spec.model_copy(update={"scale": scale, "bias": bias})


def fit_calibration(
    logits: Sequence[Sequence[float]], labels: Sequence[str], names: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """The scale and the bias of each label that make dev's labels most probable; a light penalty keeps them finite.

    Args:
        logits: a row a list, one number a label, in the order of `names`.
        labels: the right label of each row.
    """
    import numpy
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    scores = numpy.asarray(logits)
    right = numpy.asarray([names.index(label) for label in labels])

    def loss(parameters: "numpy.ndarray") -> float:
        shifted = math.exp(parameters[0]) * scores + parameters[1:]
        likelihood = shifted[numpy.arange(len(right)), right] - logsumexp(shifted, axis=1)
        return float(-likelihood.mean() + 0.5 / len(right) * (parameters**2).sum())

    found = minimize(loss, numpy.zeros(1 + len(names)), method="BFGS").x
    bias = found[1:] - found[1:].mean()
    return round(math.exp(found[0]), 6), {name: round(float(value), 6) for name, value in zip(names, bias, strict=True)}
