"""Query, key and value by one product are what they are by three."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.tuning import faster
from tasks.tuning.batches import pad
from tasks.tuning.faster import hold_rounded, speed_up
from tasks.tuning.joined import BERTS
from tasks.tuning.methods import choose_weights, load_base
from tests.tiny_model import LABELS, make_base

ROWS = [[2, 7, 9, 11, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 12, 3]]


def made(base: ResolvedBase, **changes: Any) -> Any:
    """A model as training has it, with updates that are no longer zero."""
    torch.manual_seed(0)
    tuned = Tuned(name="tiny", **({"method": Method.LORA, "rank": 2} | changes))
    model = choose_weights(load_base(base.path, LABELS, 0, 0, attention_dropout=0.0), tuned, base)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return speed_up(model)


def gradients(model: Any, dropout: float = 0.0, dtype: torch.dtype = torch.bfloat16, only: str = "") -> dict[str, torch.Tensor]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout if only in name else 0.0
    model.zero_grad()
    model.train()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(**pad(ROWS, 0)).logits, torch.tensor([0, 1, 1]))
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def joined(model: Any) -> int:
    """How many self-attentions make all three at once."""
    own = [module.forward for module in model.modules() if "forward" in vars(module)]  # the last layer has one too
    return sum(forward.__func__.__module__ == "tasks.tuning.joined" for forward in own)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_gradients_are_as_near_to_float32s_as_those_of_three_products(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path, kind)
    one = made(base)
    hold_rounded(one)
    assert joined(one) > 0
    monkeypatch.setattr(faster, "join", lambda model, whole: lambda: None)
    three = made(base)
    hold_rounded(three)
    assert joined(three) == 0
    exact = gradients(made(base), dtype=torch.float32)
    found = [gradients(model) for model in (one, three)]
    assert found[0].keys() == found[1].keys() == exact.keys()
    off = [sum(float((each[name] - exact[name]).norm() / exact[name].norm()) for name in exact) for each in found]
    assert off[0] < 1.3 * off[1], off


def test_updates_have_their_dropout(tmp_path: Path) -> None:
    model = made(make_base(tmp_path), dropout=0.1)
    hold_rounded(model)
    without = gradients(model)
    some = gradients(model, dropout=0.5, only="lora_dropout")
    assert any(not torch.equal(without[name], some[name]) for name in without if "lora_A" in name)


def test_an_adapter_that_is_switched_off_is_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(model: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), model.disable_adapter():
            return model(**pad(ROWS, 0)).logits

    base = make_base(tmp_path)
    one = made(base).eval()
    hold_rounded(one)
    assert joined(one) > 0
    monkeypatch.setattr(faster, "join", lambda model, whole: lambda: None)
    three = made(base).eval()
    hold_rounded(three)
    assert torch.equal(off(one), off(three))


@pytest.mark.parametrize("method", [Method.FULL, Method.HEAD])
def test_what_only_predicts_is_joined_whatever_it_trained(method: Method, tmp_path: Path) -> None:
    model = made(make_base(tmp_path), method=method).eval()
    before = model(**pad(ROWS, 0)).logits
    put_back = hold_rounded(model, whole=True)
    assert joined(model) > 0
    assert (model(**pad(ROWS, 0)).logits - before).abs().max() < 0.05
    put_back()
    put_back()
    assert torch.equal(model(**pad(ROWS, 0)).logits, before)


@pytest.mark.parametrize("changes", [{"dora": True}, {"method": Method.FULL}])
def test_what_has_another_update_or_trains_itself_stays_apart(changes: dict[str, Any], tmp_path: Path) -> None:
    model = made(make_base(tmp_path), **changes)
    hold_rounded(model)
    assert joined(model) == 0


def test_put_back_it_answers_to_the_bit_as_before(tmp_path: Path) -> None:
    model = made(make_base(tmp_path)).eval()
    before = model(**pad(ROWS, 0)).logits
    put_back = hold_rounded(model, whole=True)
    assert joined(model) > 0
    quick = model(**pad(ROWS, 0)).logits
    assert 0 < (quick - before).abs().max() < 0.05
    put_back()
    assert joined(model) == 0
    assert torch.equal(model(**pad(ROWS, 0)).logits, before)


def test_every_kind_of_berts_does_what_berts_own_attention_does() -> None:
    from transformers.models import bert, camembert, electra, roberta, xlm_roberta

    kinds = [
        *(bert.modeling_bert.BertSelfAttention, roberta.modeling_roberta.RobertaSelfAttention),
        *(xlm_roberta.modeling_xlm_roberta.XLMRobertaSelfAttention, camembert.modeling_camembert.CamembertSelfAttention),
        electra.modeling_electra.ElectraSelfAttention,
    ]
    assert {kind.__name__ for kind in kinds} == set(BERTS)
    codes = [kind.forward.__code__ for kind in kinds]
    assert len({(code.co_code, code.co_names) for code in codes}) == 1, "one does something else in this release of transformers"
