"""Probabilities that can be believed: one temperature, fitted on dev, by which logits are divided before they become probabilities.

It changes no label, since it changes no order (Guo et al., 2017: "On Calibration of Modern Neural Networks").
"""

from typing import TYPE_CHECKING

from tasks.metrics import brier, calibration_error
from tasks.records import Calibration, TrainingFacts

if TYPE_CHECKING:
    import numpy

LOWEST, HIGHEST = 0.05, 20.0


def calibrate(logits: "numpy.ndarray", labels: "numpy.ndarray") -> Calibration:
    """The temperature that makes dev's labels likeliest, and what it does. Where halves of dev would not gain by each other's
    temperature, or dev is too small to have any, it is 1: probabilities stay as they are.

    Args:
        logits: [rows, labels], of dev.
        labels: int [rows], the right ones.
    """
    halves = [slice(0, None, 2), slice(1, None, 2)]
    tried = logits.copy()
    for fitted, other in (halves, halves[::-1]):
        tried[other] = logits[other] / (temperature_of(logits[fitted], labels[fitted]) if len(labels) > 1 else 1.0)
    helps = _surprise(tried, labels) < _surprise(logits, labels)
    after = tried if helps else logits
    return Calibration(
        temperature=temperature_of(logits, labels) if helps else 1.0,
        rows=len(labels),
        ece_before=calibration_error(*_confidence(logits, labels)),
        ece_after=calibration_error(*_confidence(after, labels)),
        brier_before=brier(*_confidence(logits, labels)),
        brier_after=brier(*_confidence(after, labels)),
    )


def calibration_words(facts: TrainingFacts) -> list[str]:
    """Such as `confidence on dev: calibration error 0.083, then 0.031; Brier 0.171, then 0.158 (temperature 1.43)`."""
    found = facts.calibration
    if not found:
        return []
    error = f"calibration error {found.ece_before:.3f}, then {found.ece_after:.3f}"
    score = f"Brier {found.brier_before:.3f}, then {found.brier_after:.3f}"
    return [f"confidence on dev: {error}; {score} (temperature {found.temperature:g})"]


def temperature_of(logits: "numpy.ndarray", labels: "numpy.ndarray") -> float:
    """The temperature under which these labels are likeliest, their targets softened as Platt does (1 - 1/(rows + 2) for the right
    label), so that a few rows without an error do not make it boundless."""
    import numpy
    from scipy.optimize import minimize_scalar

    doubt = 1 / (len(labels) + 2)
    found = minimize_scalar(
        lambda log: _surprise(logits / numpy.exp(log), labels, doubt),
        bounds=(numpy.log(LOWEST), numpy.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return round(float(numpy.exp(found.x)), 4)


def _surprise(logits: "numpy.ndarray", labels: "numpy.ndarray", doubt: float = 0.0) -> float:
    """The mean negative log-likelihood of the labels, a share `doubt` of each target on the other labels."""
    import numpy
    from scipy.special import log_softmax

    said = log_softmax(logits.astype("float64"), axis=1)
    right = said[numpy.arange(len(labels)), labels]
    others = (said.sum(1) - right) / max(said.shape[1] - 1, 1)
    return float(-((1 - doubt) * right + doubt * others).mean())


def _confidence(logits: "numpy.ndarray", labels: "numpy.ndarray") -> "tuple[numpy.ndarray, numpy.ndarray]":
    """The probability of the label that is answered, and whether it is right."""
    from scipy.special import softmax

    return softmax(logits.astype("float64"), axis=1).max(1).clip(0, 1), logits.argmax(1) == labels
