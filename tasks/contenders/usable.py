"""An answer is used only if it is one: a label that is known, with numbers that are numbers."""

import math
from collections.abc import Collection

from tasks.records import Answer, Failure


def fault_of(answer: Answer, labels: Collection[str]) -> Failure | None:
    """Why an answer cannot be used; None where it can.

    Logits that are not numbers name no label, whatever their largest is; and a class is either known or no answer.

    Args:
        labels: what may be answered; empty for free text.
    """
    if answer.failure:
        return answer.failure
    numbers = [*(answer.logits or []), *([] if answer.probability is None else [answer.probability])]
    if not all(map(math.isfinite, numbers)):
        return Failure.INVALID
    return Failure.INVALID if labels and answer.label not in labels else None


def closed(answer: Answer, labels: Collection[str]) -> Answer:
    """The answer, without a label and its probability where it cannot be used."""
    fault = fault_of(answer, labels)
    return answer.model_copy(update={"label": None, "probability": None, "failure": fault}) if fault else answer
