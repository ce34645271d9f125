"""Attention by products says what torch's says, and has its gradient."""

from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tasks.tuning import attention
from tasks.tuning.attention import attend

Tensors = list[torch.Tensor]


class Module:
    is_causal = False


def drawn(rows: int, heads: int, tokens: int, width: int, spread: float = 1.0) -> Tensors:
    """Query, key, value, and what comes back through the gradient."""
    dice = torch.Generator().manual_seed(0)
    return [spread * torch.randn(rows, heads, tokens, width, generator=dice) for _ in range(4)]


def both_ways(way: Any, wide: Tensors, dtype: torch.dtype, mask: torch.Tensor | None, **more: Any) -> Tensors:
    """What attention finds, and the gradients of query, key and value, as float32."""
    *inputs, back = (tensor.clone().to(dtype) for tensor in wide)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    found = way(Module(), *inputs, mask, **more)[0]
    found.backward(back.transpose(1, 2))
    return [found.detach().float(), *(tensor.grad.float() for tensor in inputs)]


def off(found: Tensors, exact: Tensors) -> list[float]:
    return [float((one - two).norm() / two.norm()) for one, two in zip(found, exact, strict=True)]


def hidden(rows: int, tokens: int, added: bool) -> torch.Tensor:
    """Which tokens are seen, as transformers has it: the first row's last three are padding."""
    seen = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool)
    seen[0, :, :, -3:] = False
    return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, -torch.inf) if added else seen


@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize("shape", [(3, 2, 9, 8), (2, 12, 96, 32), (4, 2, 33, 64)])
def test_it_finds_what_float32_finds_within_roundings_of_bfloat16(shape: tuple[int, ...], spread: float) -> None:
    wide = drawn(*shape, spread)
    exact = both_ways(sdpa_attention_forward, wide, torch.float32, None)
    ours = off(both_ways(attend, wide, torch.bfloat16, None), exact)
    torchs = off(both_ways(sdpa_attention_forward, wide, torch.bfloat16, None), exact)
    assert all(one < max(0.012, 2 * two) for one, two in zip(ours, torchs, strict=True)), (ours, torchs)


@pytest.mark.parametrize("added", [False, True])
def test_padding_is_not_seen_and_has_no_gradient(added: bool) -> None:
    wide = drawn(3, 2, 12, 8)
    mask = hidden(3, 12, added)
    found = both_ways(attend, wide, torch.bfloat16, mask)
    exact = both_ways(sdpa_attention_forward, wide, torch.float32, mask.float() if added else mask)
    assert max(off(found, exact)) < 0.012
    assert not found[2][0, :, -3:].any(), "keys of padding"
    assert not found[3][0, :, -3:].any(), "values of padding"


@pytest.mark.parametrize("added", [False, True])
def test_a_token_that_sees_nothing_spoils_no_other(added: bool) -> None:
    wide, mask = drawn(2, 2, 9, 8), torch.ones(2, 1, 9, 9, dtype=torch.bool)
    mask[0, :, 7:] = False  # the first row's last two tokens see none,
    mask[0, :, :, 7:] = False  # and are seen by none
    if added:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    wide[3][0, :, 7:] = 0.0  # what they find is read by nobody
    found = both_ways(attend, wide, torch.bfloat16, mask)
    exact = both_ways(sdpa_attention_forward, wide, torch.float32, mask)
    assert all(each.isfinite().all() for each in found)
    found[0][0, 7:] = exact[0][0, 7:] = 0.0
    assert max(off(found, exact)) < 0.012


def without_gradient(wide: Tensors, mask: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch, goes: bool = True) -> torch.Tensor:
    """What attention finds where nobody wants a gradient; `goes` tells whether exponentials do, or softmax has to."""
    took: list[bool] = []
    plain = attention.by_exponentials

    def told(*given: Any) -> Any:
        found = plain(*given)
        took.append(found is not None)
        return found

    monkeypatch.setattr(attention, "by_exponentials", told)
    query, key, value = (tensor.to(torch.bfloat16) for tensor in wide[:3])
    found = attend(Module(), query, key, value, mask)[0]
    assert took == [goes]
    return found.float()


def exactly(wide: Tensors, mask: torch.Tensor | None) -> torch.Tensor:
    """float32's, of the same rounded inputs."""
    query, key, value = (tensor.to(torch.bfloat16).float() for tensor in wide[:3])
    found: torch.Tensor = sdpa_attention_forward(Module(), query, key, value, mask)[0]
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 9, 8), (2, 12, 96, 32), (4, 2, 33, 64)])
def test_without_a_gradient_exponentials_find_what_float32_finds(
    shape: tuple[int, ...], padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, mask = drawn(*shape), hidden(shape[0], shape[2], added=False) if padded else None
    found = without_gradient(wide, mask, monkeypatch)
    if mask is not None:
        with monkeypatch.context() as patch:
            assert torch.equal(found, without_gradient(wide, mask[:, :, :1], patch)), "one line of the mask for all tokens"
    assert found.shape == (shape[0], shape[2], shape[1], shape[3])
    assert max(off([found], [exactly(wide, mask)])) < 0.012


def test_without_a_gradient_softmax_does_what_exponentials_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = drawn(2, 2, 12, 8)
    first_layer = [tensor.clone() for tensor in wide]
    first_layer[0][:, :, 0], first_layer[1][:, :, 3] = 18.0, 4.0  # one score of 300, where others are around 1
    against = [tensor.clone() for tensor in wide]
    against[0][:], against[1][:, :, 3] = 18.0, -4.0  # no score is that large, but some could be
    backwards = torch.ones(12, 12, dtype=torch.bool).tril().expand(2, 1, 12, 12)  # tokens see different ones
    blind = torch.ones(2, 1, 12, 12, dtype=torch.bool)
    blind[0] = False
    for inputs, mask in (
        (first_layer, None),
        (against, None),
        (wide, backwards),
        (wide, hidden(2, 12, added=True)),
        (wide, blind),
    ):
        with monkeypatch.context() as patch:
            found = without_gradient(inputs, mask, patch, goes=False)
        exact = exactly(inputs, mask.float() if mask is not None and mask.is_floating_point() else mask)
        seen = 1 if mask is blind else 0
        assert found.isfinite().all()
        assert max(off([found[seen:]], [exact[seen:]])) < 0.012


def test_probabilities_computed_once_more_give_the_same_bits_as_kept_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, mask = drawn(3, 2, 12, 8), hidden(3, 12, added=False)
    kept = both_ways(attend, wide, torch.bfloat16, mask)
    monkeypatch.setattr(attention, "KEPT_BYTES", 0)
    assert all(torch.equal(one, two) for one, two in zip(both_ways(attend, wide, torch.bfloat16, mask), kept, strict=True))


def test_a_frozen_key_gets_no_gradient_and_the_others_theirs() -> None:
    query, key, value, back = (tensor.to(torch.bfloat16) for tensor in drawn(2, 2, 9, 8))
    whole = both_ways(attend, [query, key, value, back], torch.bfloat16, None)
    attend(Module(), query.requires_grad_(), key, value.requires_grad_())[0].backward(back.transpose(1, 2))
    assert key.grad is None
    assert torch.equal(query.grad.float(), whole[1])
    assert torch.equal(value.grad.float(), whole[3])


def test_what_looks_back_only_has_a_bias_dropout_or_very_many_tokens_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Causal(Module):
        is_causal = True

    query, key, value = (tensor.to(torch.bfloat16) for tensor in drawn(1, 2, 5, 8)[:3])
    bias = torch.randn(1, 2, 5, 5, dtype=torch.bfloat16)

    def never(*_: Any) -> Any:
        raise AssertionError("by products")

    monkeypatch.setattr(attention._Attention, "apply", never)
    monkeypatch.setattr(attention, "by_exponentials", never)
    for wants in (False, True):
        with pytest.raises(AssertionError, match="by products"):
            attend(Module(), query.clone().requires_grad_(wants), key, value)
    for module, more in ((Causal(), {}), (Module(), {"position_bias": bias}), (Module(), {"is_causal": True})):
        found = attend(module, query, key, value, None, **more)[0]
        assert torch.equal(found, sdpa_attention_forward(module, query, key, value, None, **more)[0])
    attend(Module(), query, key, value, None, dropout=0.5)
    attend(Module(), query, key, value, bias.requires_grad_())
    attend(Module(), query.float(), key.float(), value.float())
    monkeypatch.setattr(attention, "MOST_BYTES", 0)
    attend(Module(), query, key, value)
