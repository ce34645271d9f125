"""The same model with less work: the last layer for the first token alone; cheaper dropout, attention by products, and weights
that are rounded once, on the CPU.

Only processes that train or predict import this module: it loads torch.
"""

import logging
import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tasks.tuning.attention import PRODUCTS
from tasks.tuning.cores import generator
from tasks.tuning.joined import join

logger = logging.getLogger(__name__)
FIRST_TOKEN_TOLERANCE = 1e-4
"""How far the logits of the probe may move: float32 rounding of another order of additions."""
PROBE_LENGTHS = (9, 5)
"""Tokens of the probe's rows: one is padded."""
FEW = 0.03
"""Dropout of at most this draws the dropped elements one by one."""
CHANCES = 32_768
"""Of which dropout takes a whole number: 15 random bits."""
WHOLE_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes."""
STEPS_WORTH_COMPILING = 2_000
"""Below so many steps, compiling on CUDA (a minute or so) costs more than it gives."""


def speed_up(model: Any) -> Any:
    """The same model, in place: its last layer computes only what the head reads, where the head reads the first token and the
    architecture is known; on the CPU its dropout draws cheaper bits, and attention in bfloat16 goes by products."""
    whole = getattr(model, "get_base_model", lambda: model)()
    read_first_token_alone(whole)
    if model.device.type == "cpu":
        if getattr(whole.config, "_attn_implementation", "") == "sdpa":
            whole.set_attn_implementation(PRODUCTS)
        for module in model.modules():
            if type(module) is torch.nn.Dropout:
                module.__class__ = CheapDropout
    return model


def read_first_token_alone(model: Any) -> bool:
    """Let the last layer compute the first token alone; whether that was possible.

    A probe decides: where its logits change, the layer stays as it was.
    """
    layer = _last_layer(model)
    own = _own_forward(layer)
    if own is None or getattr(model.config, "_attn_implementation", "") not in ("sdpa", "eager"):
        return False
    before = _probe(model)
    layer.forward = MethodType(own, layer)
    try:
        after = _probe(model)
        same = before.shape == after.shape and bool((before - after).abs().max() <= FIRST_TOKEN_TOLERANCE)
    except (RuntimeError, IndexError, TypeError, AttributeError):
        same = False  # a head that wants all tokens
    if not same:
        del layer.forward
        logger.info("the head of %s reads more than the first token: the last layer computes all", type(model).__name__)
    return same


def hold_rounded(model: Any, whole: bool = False) -> Callable[[], None]:
    """Hold weights in bfloat16, in place, so that no step rounds them anew.

    Args:
        whole: all weights, for a model that only predicts: what layers hand on is then half as wide, and rounded too. Else those of
            linear layers that do not train; under autocast, which the others still want, all numbers stay what they were.

    Returns: what puts the float32 weights back.
    """
    modules = [module for module in model.modules() if whole or type(module) is torch.nn.Linear]
    weights = {id(weight): weight for module in modules for weight in module.parameters(recurse=False)}
    held = [(weight, weight.data) for weight in weights.values() if whole or not weight.requires_grad]
    updated = [module for module in model.modules() if hasattr(module, "lora_A")]
    apart: list[Callable[[], None]] = []

    def put_back() -> None:
        for part in apart:
            part()
        for weight, exact in held:
            weight.data = exact
        for module in updated:
            module.cast_input_dtype_enabled = True

    try:
        for weight, exact in held:
            if exact.is_floating_point():
                weight.data = exact.to(torch.bfloat16)
        for module in updated:
            module.cast_input_dtype_enabled = False  # PEFT would widen what comes in to the dtype of its updates
        apart.append(join(model, whole))
    except BaseException:
        put_back()
        raise
    return put_back


def compile_where_it_pays(model: Any, steps: int) -> bool:
    """Compile a model on CUDA for a long training; whether it was. What the compiler cannot do runs uncompiled, and is logged."""
    from torch.utils._triton import has_triton

    if model.device.type != "cuda" or steps < STEPS_WORTH_COMPILING or not has_triton():
        return False
    torch._dynamo.config.suppress_errors = True
    model.compile(dynamic=True)
    logger.info("compiled for %d steps; what the compiler cannot do runs as it is", steps)
    return True


class CheapDropout(torch.nn.Dropout):
    """Dropout whose random numbers are cheap: where few elements are dropped, these alone are drawn; else 15 bits an element, not a
    number of 32 drawn and scaled singly.

    The mask's probability is rounded to 1/32,768. All comes from torch's generator, so checkpoints keep and restore it, or from one
    that it seeds (`tasks/tuning/cores.py`).
    """

    draws_from_generator = True

    def forward(self, input: Any) -> Any:
        """As `torch.nn.Dropout`."""
        if not self.training or self.p == 0 or input.numel() == 0:
            return input
        if self.p <= FEW:
            return _DropFew.apply(input, self.p)
        return _Drop.apply(input, round(self.p * CHANCES))


class _DropFew(torch.autograd.Function):
    """A Poisson number of places with repetition: each is hit with probability p, independently of all others."""

    @staticmethod
    def forward(ctx: Any, values: Any, p: float) -> Any:
        drawn, mean = generator(), torch.tensor(-values.numel() * math.log1p(-p), dtype=torch.float64)
        hits = int(torch.poisson(mean, drawn))
        ctx.places, ctx.scale = torch.randint(values.numel(), (hits,), generator=drawn, device=values.device), 1 / (1 - p)
        return _without(values, ctx.places, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return _without(gradient, ctx.places, ctx.scale), None


def _without(values: Any, places: Any, scale: float) -> Any:
    scaled = (values * scale).contiguous()
    scaled.view(-1).index_fill_(0, places, 0.0)
    return scaled


class _Drop(torch.autograd.Function):
    """A mask over the bits of each number, all ones or all zeros, made of 15 random bits by arithmetic of whole numbers: choosing
    by truth values takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, values: Any, dropped: int) -> Any:
        count = values.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64, device=values.device).random_(-(2**63), None, generator=generator())
        drawn = bits.view(torch.int16)[:count].view(values.shape).bitwise_and_(CHANCES - 1)
        ctx.mask = drawn.neg_().add_(dropped - 1).bitwise_right_shift_(15).to(torch.int8)  # kept until the gradient comes
        ctx.scale = CHANCES / (CHANCES - dropped) if dropped < CHANCES else 0.0
        return _masked(values, ctx.mask, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return _masked(gradient, ctx.mask, ctx.scale), None


def _masked(values: Any, mask: Any, scale: float) -> Any:
    scaled = values * scale
    whole = WHOLE_NUMBERS[scaled.element_size()]
    scaled.view(whole).bitwise_and_(mask.to(whole))
    return scaled


def _last_layer(model: Any) -> Any:
    """The last of the encoder's layers, where they stand in a list called `layer`; else None."""
    encoder = getattr(model, model.base_model_prefix, None)
    lists = [module for name, module in encoder.named_modules() if name.split(".")[-1] == "layer"] if encoder is not None else []
    return lists[0][-1] if len(lists) == 1 and isinstance(lists[0], torch.nn.ModuleList) and len(lists[0]) else None


def _own_forward(layer: Any) -> Any:
    """How a layer of a known family computes its first token alone; None for another."""
    attention = getattr(layer, "attention", None)
    if hasattr(getattr(attention, "self", None), "query") and hasattr(layer, "feed_forward_chunk"):
        return None if getattr(layer, "is_decoder", False) else _bert_layer
    return _distilbert_layer if hasattr(attention, "q_lin") and hasattr(layer, "sa_layer_norm") else None


def _bert_layer(layer: Any, hidden: Any, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
    """A layer as BERT, RoBERTa and ELECTRA have it, for the first token: [rows, 1, width]."""
    own, first = layer.attention.self, hidden[:, :1]
    found = _attend(own, first, hidden, (own.query, own.key, own.value), attention_mask)
    return layer.feed_forward_chunk(layer.attention.output(found, first))


def _distilbert_layer(layer: Any, hidden: Any, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
    own, first = layer.attention, hidden[:, :1]
    found = own.out_lin(_attend(own, first, hidden, (own.q_lin, own.k_lin, own.v_lin), attention_mask))
    attended = layer.sa_layer_norm(found + first)
    return layer.output_layer_norm(layer.ffn(attended) + attended)


def _attend(own: Any, first: Any, hidden: Any, layers: tuple[Any, Any, Any], mask: Any) -> Any:
    """What the first token sees of all: [rows, 1, width]. `layers` make query, key and value."""
    mask = None if mask is None else mask[:, :, :1]
    dropout = own.dropout.p if own.training else 0.0
    by_hand = hidden.device.type == "cpu" and not dropout and (mask is None or mask.dtype is torch.bool)
    if by_hand and not torch.is_grad_enabled() and all(_is_held(layer, hidden) for layer in layers):
        return _attend_folded(own, first, hidden, layers, mask)
    made = (layer(tokens) for layer, tokens in zip(layers, (first, hidden, hidden), strict=True))
    query, key, value = (tensor.unflatten(-1, (-1, own.attention_head_size)).transpose(1, 2) for tensor in made)
    if by_hand:  # torch's kernel for the CPU takes several times as long for one query, most of it backwards
        found = _probabilities((query * own.scaling) @ key.transpose(2, 3), mask).to(value.dtype) @ value
    else:
        found = scaled_dot_product_attention(query, key, value, mask, dropout, scale=own.scaling)
    return found.transpose(1, 2).flatten(2)


def _attend_folded(own: Any, first: Any, hidden: Any, layers: tuple[Any, Any, Any], mask: Any) -> Any:
    """The same where keys and values are linear in what all tokens have: the one query is taken back through the keys' weights, and
    what it sees through the values', in place of a key and a value for every token."""
    query, key, value = layers
    heads = query(first[:, 0]).unflatten(-1, (-1, own.attention_head_size)) * own.scaling  # [rows, heads, width of one]
    by_key, by_value = (layer.weight.unflatten(0, heads.shape[1:]) for layer in (key, value))
    asked = torch.einsum("rhd,hdw->rhw", heads, by_key)  # a key's bias adds the same to all scores, which softmax takes out
    seen = _probabilities((asked @ hidden.transpose(1, 2))[:, :, None], mask)[:, :, 0].to(hidden.dtype) @ hidden
    return (torch.einsum("rhw,hdw->rhd", seen, by_value).flatten(1) + value.bias)[:, None]


def _is_held(layer: Any, hidden: Any) -> bool:
    """Whether it is a plain linear layer whose weights are rounded as its input is."""
    return type(layer) is torch.nn.Linear and layer.bias is not None and layer.weight.dtype is hidden.dtype is torch.bfloat16


def _probabilities(scores: Any, mask: Any) -> Any:
    """float32, [rows, heads, 1, tokens]."""
    scores = scores.float() if mask is None else scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return torch.softmax(scores, -1)


def _probe(model: Any) -> Any:
    """Logits of two made-up rows in float32; draws no random numbers."""
    pad_id, vocabulary = model.config.pad_token_id or 0, model.get_input_embeddings().num_embeddings
    known = [token for token in range(min(vocabulary, 2 * max(PROBE_LENGTHS))) if token != pad_id]
    tokens = torch.full((len(PROBE_LENGTHS), max(PROBE_LENGTHS)), pad_id)
    for row, length in enumerate(PROBE_LENGTHS):
        tokens[row, :length] = torch.tensor([known[(row + place) % len(known)] for place in range(length)])
    mask = torch.arange(tokens.shape[1]) < torch.tensor(PROBE_LENGTHS)[:, None]
    was = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=tokens.to(model.device), attention_mask=mask.long().to(model.device)).logits
    model.train(was)
    return logits.float().cpu()
