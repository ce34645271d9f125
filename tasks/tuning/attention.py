"""Attention in bfloat16 on the CPU by matrix products of whole batches, forwards and backwards.

torch's fused kernel is made for long rows and wide heads. At the rows of classification (512 tokens at most, heads of 32 or 64
numbers) plain products, at the processor's full bfloat16 rate, take about half of its time with the gradient: `python -m
benchmarks.attention` measures it. Scores and probabilities then lie in memory, rounded to bfloat16; probabilities are kept for the
gradient where they are few, and computed once more where they are many.

Where nobody wants a gradient, exponentials of the scores do: the values' product finds their sums in one more column, and is then
divided by them. That leaves out softmax's passes for the greatest score, the sum and the quotient, and the mask's: the keys that it
hides have values of zero and no part in the sums.

Only processes that train or predict import this module: it loads torch.
"""

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PRODUCTS = "products"
"""This attention's name in transformers' registry."""
KEPT_BYTES = 32 * 2**20
"""A layer's probabilities of more are computed once more for the gradient: 4 rows of 512 tokens in 12 heads are kept."""
MOST_BYTES = 256 * 2**20
"""Where they are of more than this, torch's kernel, which holds none, does the work."""
FAR = 100.0
"""Powers of two between 2**-100 and 2**100 leave room in bfloat16's range of 2**-126 to 2**127, for sums and for what is small.
Scores beyond (a first layer's may be) are softmax's: to shift them by what bounds them would round them more than it does."""


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **more: Any) -> Any:
    """Attention as transformers calls it: by products in bfloat16 on the CPU, where all tokens see all; else as torch does it.

    Args:
        query, key, value: [rows, heads, tokens, width].
        attention_mask: [rows, 1, tokens or 1, tokens]; true, or 0 to be added, where a token is seen. What a token that sees none
            gets is a number, and no more is said of it.

    Returns: [rows, tokens, heads, width], and None for the weights.
    """
    ours = query.dtype is torch.bfloat16 and query.device.type == "cpu" and query.shape == key.shape == value.shape
    learned = more.get("position_bias") is not None or (attention_mask is not None and attention_mask.requires_grad)
    plain = not (more.get("dropout") or more.get("is_causal") or learned)
    if not (ours and plain and _bytes(query) <= MOST_BYTES and not getattr(module, "is_causal", True)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    scale = more.get("scaling") or query.shape[-1] ** -0.5
    if not (torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))):
        found = by_exponentials(query, key, value, attention_mask, scale)
        if found is not None:
            return found, None
    return by_softmax(query, key, value, attention_mask, scale), None


def by_softmax(query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
    """As `attend`, with a gradient: [rows, tokens, heads, width]."""
    if mask is not None:
        least = torch.finfo(query.dtype).min  # not infinity: a row of nothing else has no softmax
        if mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, least)
        else:
            mask = mask.clamp_min(least).to(query.dtype)
    return _Attention.apply(query, key, value, mask, scale).transpose(1, 2).contiguous()


AttentionInterface.register(PRODUCTS, attend)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)


def by_exponentials(query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
    """As `attend`, without a gradient: [rows, tokens, heads, width]. None where tokens see different keys, where one sees none, and
    where exponentials might be too large or too small for their sum to be right."""
    rows, heads, tokens, width = value.shape
    seen = None if mask is None else _seen(mask)
    if mask is not None and seen is None:
        return None
    query, key, scale = _flat(query), _flat(key), scale * math.log2(math.e)
    longest = [torch.linalg.vector_norm(each, dim=-1).amax(-1) for each in (query, key)]
    if not (longest[0] * longest[1]).amax() * abs(scale) < FAR:  # no score is greater; also where one is not a number
        return None
    values = torch.cat([value, value.new_ones(1).expand(rows, heads, tokens, 1)], -1)
    if seen is not None:
        values = values * seen
    scores = torch.baddbmm(query.new_empty(()).expand(len(query), tokens, tokens), query, key.transpose(1, 2), beta=0, alpha=scale)
    found = torch.bmm(torch.exp2(scores, out=scores), _flat(values)).view(rows, heads, tokens, width + 1).transpose(1, 2)
    if not found[..., width:].amin() > 0:
        return None
    made = query.new_empty(rows, tokens, heads, width)
    return torch.div(found[..., :width], found[..., width:], out=made)


def _seen(mask: Any) -> Any:
    """Which keys every token sees: [rows, 1, tokens, 1]; None where tokens see different ones, or where a mask is added."""
    keys = mask[:, :, :1]
    same = mask.dtype is torch.bool and mask.shape[1] == 1 and bool((mask == keys).all())
    return keys.transpose(2, 3) if same else None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
        probabilities = _probabilities(query, key, mask, scale)
        found = torch.bmm(probabilities, _flat(value)).view(query.shape)
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, mask, found, probabilities if _bytes(query) <= KEPT_BYTES else None)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        query, key, value, mask, found, probabilities = ctx.saved_tensors
        if probabilities is None:
            probabilities = _probabilities(query, key, mask, ctx.scale)
        shape, (wants_query, wants_key, wants_value) = query.shape, ctx.needs_input_grad[:3]
        query, key, value, found, gradient = map(_flat, (query, key, value, found, gradient))
        by_value = torch.bmm(probabilities.transpose(1, 2), gradient) if wants_value else None
        # The gradient of softmax takes from each score what its row receives on the whole: two more columns of the product, since a
        # number of bfloat16 alone would round it.
        whole = (gradient.float() * found.float()).sum(-1, keepdim=True)
        rounded = whole.to(gradient.dtype)
        gradient = torch.cat([gradient, -rounded, (rounded - whole).to(gradient.dtype)], -1)
        value = torch.cat([value, value.new_ones(*value.shape[:-1], 2)], -1)
        by_score = torch.bmm(gradient, value.transpose(1, 2)).mul_(probabilities)
        by_query = torch.bmm(by_score, key).mul_(ctx.scale) if wants_query else None
        by_key = torch.bmm(by_score.transpose(1, 2), query).mul_(ctx.scale) if wants_key else None
        return *(each if each is None else each.view(shape) for each in (by_query, by_key, by_value)), None, None


def _probabilities(query: Any, key: Any, mask: Any, scale: float) -> Any:
    """With which probability each token looks at each: [rows x heads, tokens, tokens]."""
    rows, heads, tokens, _ = query.shape
    nothing = query.new_empty(()).expand(rows * heads, tokens, tokens)
    scores = torch.baddbmm(nothing, _flat(query), _flat(key).transpose(1, 2), beta=0, alpha=scale)
    if mask is not None:
        scores.view(rows, heads, tokens, tokens).add_(mask)
    return torch.softmax(scores, -1)


def _flat(each: Any) -> Any:
    """[rows, heads, tokens, width] as [rows x heads, tokens, width]."""
    return each.reshape(-1, *each.shape[-2:])


def _bytes(query: Any) -> int:
    """Of the probabilities."""
    rows, heads, tokens, _ = query.shape
    return int(rows * heads * tokens * tokens * query.element_size())
