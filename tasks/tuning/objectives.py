"""What training minimises. Here: supervised classification; other objectives join it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tasks.config import ClassWeights


def supervised(
    outputs: Any, labels: Any, num_items_in_batch: Any = None, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> Any:
    """Cross-entropy of the right labels, averaged over all rows of the optimiser step.

    Dividing by the rows of the whole step, not by this part of them or by their weights, makes gradient accumulation equal to
    one large batch.

    Args:
        outputs: has `logits` [rows, labels].
        labels: int64 [rows].
        num_items_in_batch: rows in the whole step; None averages over these rows.
        smoothing: share of each target that is spread over all labels.
        weights: what an error counts, by label; None counts all alike.
    """
    import torch

    logits = outputs.logits.float()
    weight = None if weights is None else torch.tensor(weights, device=logits.device)
    total = torch.nn.functional.cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=smoothing)
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def label_weights(chosen: ClassWeights, labels: Sequence[int], count: int) -> list[float] | None:
    """What an error on each of `count` labels counts, 1 on average over the rows; None counts all alike.

    Args:
        labels: of the train rows.
    """
    if chosen is ClassWeights.NONE:
        return None
    rows = Counter(labels)
    return [len(labels) / (len(rows) * rows[label]) if rows[label] else 0.0 for label in range(count)]
