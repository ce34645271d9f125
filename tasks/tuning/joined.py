"""Query, key and value by one product: they have the same input, which is then rounded once, and their weights lie side by side.

For attention whose weights are held in bfloat16 (`tasks/tuning/faster.py`), with LoRA's updates added in place of PEFT's own
forward pass: a step of BERT's kind copies and converts less.

Only processes that train or predict import this module: it loads torch.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BERTS = dict.fromkeys(
    ("BertSelfAttention", "RobertaSelfAttention", "XLMRobertaSelfAttention", "CamembertSelfAttention", "ElectraSelfAttention"),
    ("query", "key", "value"),
)
KINDS = BERTS | {"DistilBertSelfAttention": ("q_lin", "k_lin", "v_lin")}
"""Self-attentions known to do what `_join` does in their place, by class: what they call the three. Others (ALBERT's adds and
normalizes, ESM's turns by position) have layers of these names too."""


def join(model: Any, whole: bool = False) -> Callable[[], None]:
    """Let every self-attention that can do so make query, key and value by one product, in place.

    Args:
        whole: the model only predicts, so that weights which could train are joined too.

    Returns: what undoes it. Weights then still share memory; whoever held them rounded puts others in their place.
    """
    joined = [module for module in model.modules() if _join(module, whole)]

    def undo() -> None:
        for module in joined:
            vars(module).pop("forward", None)

    return undo


def _join(module: Any, whole: bool) -> bool:
    """Whether it is a self-attention of a known kind, whose three linear layers do not train themselves."""
    layers = [getattr(module, name) for name in KINDS.get(type(module).__name__, ())]
    bare = [getattr(layer, "base_layer", layer) for layer in layers]
    can = bool(bare) and "forward" not in vars(module) and all(_can_join(*each, whole) for each in zip(layers, bare, strict=True))
    if not can or len({each.weight.shape for each in bare}) > 1:
        return False
    weight, bias = torch.cat([each.weight.data for each in bare]), torch.cat([each.bias.data for each in bare])
    for each, rows in zip(bare, weight.chunk(3), strict=True):
        each.weight.data = rows
    plain = module.forward

    def attend(own: Any, hidden: Any, attention_mask: Any = None, past_key_values: Any = None, **more: Any) -> Any:
        apart = any(getattr(layer, "merged", False) or getattr(layer, "disable_adapters", False) for layer in layers)
        if apart or past_key_values is not None or own.config._attn_implementation == "eager":
            return plain(hidden, attention_mask, past_key_values=past_key_values, **more)
        rounded = hidden.to(weight.dtype)
        parts = linear(rounded, weight, bias).chunk(3, dim=-1)
        found = (_updated(layer, part, rounded) for layer, part in zip(layers, parts, strict=True))
        heads = (each.unflatten(-1, (-1, own.attention_head_size)).transpose(1, 2) for each in found)
        way = ALL_ATTENTION_FUNCTIONS[own.config._attn_implementation]
        dropout = own.dropout.p if own.training else 0.0
        seen, weights = way(own, *heads, attention_mask, dropout=dropout, scaling=own.scaling, **more)
        seen = seen.flatten(2)
        return (own.out_lin(seen) if hasattr(own, "out_lin") else seen), weights

    module.forward = MethodType(attend, module)
    return True


def _can_join(layer: Any, bare: Any, whole: bool) -> bool:
    """Whether a linear layer is held rounded, and has no update or LoRA's own kind alone."""
    held = type(bare) is torch.nn.Linear and bare.weight.dtype is torch.bfloat16 and bare.bias is not None
    frozen = whole or not any(weight.requires_grad for weight in bare.parameters())
    return held and frozen and (layer is bare or not (layer.lora_variant or any(layer.lora_bias.values())))


def _updated(layer: Any, found: Any, hidden: Any) -> Any:
    """What a frozen layer found, with LoRA's update where it has one: [rows, tokens, width]."""
    for name in getattr(layer, "active_adapters", ()):
        if name in layer.lora_A:
            low = layer.lora_A[name](layer.lora_dropout[name](hidden)).flatten(0, 1)
            update = layer.lora_B[name].weight.t()
            found = torch.addmm(found.flatten(0, 1), low, update, alpha=layer.scaling[name]).view(found.shape)
    return found
