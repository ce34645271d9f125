"""Where a new head begins: in the direction of a logistic regression on what the base says of train rows, in place of a random one.

From a random one the first epochs of a small base can pass without learning anything: the encoder gets no useful gradient through
a head that knows nothing. The weights are as long as the random ones were: with the regression's own, which can be a hundred times
that where a base's outputs differ little, less was learned (docs/tuning.md). It costs one forward pass over `MOST_ROWS` rows at
most, once a training, and draws no random number of torch's.

Only the child process that trains imports this module: it loads torch.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset

from tasks.config import ClassWeights, Tuned
from tasks.device import Device
from tasks.tuning.batches import logits_of

MOST_ROWS = 4_096
"""A regression of a few hundred weights learns little from more."""
MOST_STEPS = 1_000
"""Of the regression's solver; a head that has not converged is a start all the same."""
FLATTEST = 0.1
"""Of the middle spread: an input that hardly moves is not scaled up beyond this, or its weight would be nearly all of the head."""
logger = logging.getLogger(__name__)


def start_head(model: Any, tuned: Tuned, train: Dataset, pad_id: int, device: Device, told: Callable[[int], None]) -> str:
    """Set the last layer of a classifier's new head, in place; why it stays as it is, empty where it was set.

    Args:
        train: columns `input_ids`, `label`, `length`.
        told: hears of the rows done.
    """
    last = _last_linear(model)
    if last is None:
        return "the head does not end in a new linear layer that trains"
    rows = chosen_rows(len(train), tuned.seed)
    labels = [int(label) for label in train["label"][rows]]
    if len(set(labels)) < 2:
        return "the rows have one label alone"
    said = _inputs_of(model, last, train, rows, pad_id, device, told)
    if not torch.isfinite(said).all():
        return "what the base says is no number"
    balanced, has_bias = tuned.class_weights is ClassWeights.BALANCED, last.bias is not None
    weight, bias, right = regression(said, labels, last.out_features, balanced, has_bias)
    if not weight.any():
        return "what the base says is the same of all rows"
    set_last(last, weight, bias)
    logger.info("the head of %s starts from a regression on %d rows, right on %.1f %% of them", tuned.name, len(rows), 100 * right)
    return ""


def set_last(last: Any, weight: Any, bias: Any) -> None:
    """Turn a layer's weights in a direction; they stay as long as they were."""
    with torch.no_grad():
        shrink = float(last.weight.norm()) / float(weight.norm())  # of no device: the layer may lie on another one
        last.weight.copy_(shrink * weight)
        if last.bias is not None:
            last.bias.copy_(shrink * bias)


def chosen_rows(rows: int, seed: int) -> list[int]:
    """Which train rows the regression sees, in their order."""
    if rows <= MOST_ROWS:
        return list(range(rows))
    return sorted(Random(seed).sample(range(rows), MOST_ROWS))  # noqa: S311  a sample, not a secret


def regression(said: Any, labels: Sequence[int], count: int, balanced: bool, has_bias: bool) -> tuple[Any, Any, float]:
    """Multinomial logistic regression on standardised inputs, under a prior by which logits have a spread of about 1.

    Args:
        said: float32 [rows, width].
        labels: of the rows, below `count`; those that are missing get the lowest bias there is.
        balanced: each label's rows weigh as much as any other's.
        has_bias: else the biases are 0, and inputs are scaled alone.

    Returns: weights [count, width] and biases [count] for inputs as they are, and the share of the rows that they answer rightly.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    middle, spread = said.mean(0) * has_bias, said.std(0, correction=0)
    spread = spread.clamp_min(max(1e-6, FLATTEST * float(spread.median())))
    scaled = ((said - middle) / spread).numpy()
    weights = "balanced" if balanced else None
    fit = LogisticRegression(C=1 / said.shape[1], fit_intercept=has_bias, class_weight=weights, max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit.fit(scaled, labels)
    found, levels = torch.tensor(fit.coef_, dtype=torch.float32), torch.tensor(fit.intercept_, dtype=torch.float32)
    if len(found) == 1:  # of two labels it gives the difference
        found, levels = torch.cat([-found, found]) / 2, torch.cat([-levels, levels]) / 2
    there = torch.tensor(fit.classes_, dtype=torch.long)
    weight, bias = torch.zeros(count, said.shape[1]), levels.min().repeat(count)
    weight[there] = found / spread
    bias[there] = levels - weight[there] @ middle
    return weight, bias, float(fit.score(scaled, labels))


class _Before(torch.nn.Module):
    """A classifier whose logits are what its last layer is given."""

    def __init__(self, model: Any, last: Any) -> None:
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(num_labels=last.in_features)
        self.device = model.device

    def forward(self, **batch: Any) -> Any:
        """Logits [rows, width]."""
        return self.model(**batch)


def _last_linear(model: Any) -> Any:
    """The linear layer that gives a number a label, if it is new and trains; else None."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = None
    for name, layer in inner.named_modules():
        is_new = f"{name.replace('.modules_to_save.default', '')}.weight" in inner.lacked
        if (
            type(layer) is torch.nn.Linear
            and is_new
            and layer.out_features == inner.config.num_labels
            and layer.weight.requires_grad
        ):
            found = layer
    return found


def _inputs_of(
    model: Any, last: Any, train: Dataset, rows: Sequence[int], pad_id: int, device: Device, told: Callable[[int], None]
) -> Any:
    """What the last layer is given for these rows: float32 [rows, width]."""
    lengths, was_training = train["length"][:], model.training
    last.forward = lambda given: given
    try:
        return logits_of(
            _Before(model, last),
            lambda wanted: train[[rows[row] for row in wanted]]["input_ids"],
            [lengths[row] for row in rows],
            pad_id,
            device.dtype,
            told,
            device.threads,
        )
    finally:
        del last.forward
        model.train(was_training)
