"""What training minimises. Here: supervised classification; other objectives join it."""

from typing import Any


def supervised(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Cross-entropy of the right labels, averaged over all rows of the optimiser step.

    Dividing by the rows of the whole step, not of this part of it, makes gradient accumulation equal to one large batch.

    Args:
        outputs: has `logits` [rows, labels].
        labels: int64 [rows].
        num_items_in_batch: rows in the whole step; None averages over these rows.
    """
    from torch.nn.functional import cross_entropy

    total = cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
