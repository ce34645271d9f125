from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Method, Tuned
from tasks.settings import load_settings
from tasks.tuning import attention, faster
from tasks.tuning.batches import NEAREST, logits_of, pad, quick_logits_of
from tasks.tuning.faster import CheapDropout, compile_where_it_pays, hold_rounded, read_first_token_alone, speed_up
from tasks.tuning.methods import choose_weights, load_base
from tests.tiny_model import LABELS, make_base

ROWS = [[2, 7, 9, 11, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 12, 3]]


def make_models(base: ResolvedBase, method: Method = Method.LORA, vocabulary: int = 0) -> tuple[Any, Any]:
    """The same model plain and sped up, without dropout, so that their gradients can be compared."""
    made = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = load_base(base.path, LABELS, vocabulary, 0, attention_dropout=0.0)
        model = choose_weights(model, Tuned(name="tiny", method=method, rank=2), base)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first, and so would be the gradients of A
                torch.nn.init.normal_(weight, std=0.1)
        made.append(speed_up(model) if fast else model)
    return made[0], made[1]


def gradients(model: Any, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    model.train()
    torch.nn.functional.cross_entropy(model(**pad(rows, 0)).logits, torch.tensor([0, 1, 1][: len(rows)])).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_last_layer_for_the_first_token_alone_gives_the_same_logits_and_gradients(kind: str, tmp_path: Path) -> None:
    plain, fast = make_models(make_base(tmp_path, kind))
    assert "forward" in vars(faster._last_layer(fast.get_base_model()))
    said = [logits_of(model, lambda rows: [ROWS[row] for row in rows], [*map(len, ROWS)], 0) for model in (plain, fast)]
    torch.testing.assert_close(said[0], said[1])
    expected, found = gradients(plain, ROWS), gradients(fast, ROWS)
    assert set(found) == set(expected)
    assert all(float(gradient.abs().sum()) > 0 for name, gradient in expected.items() if "lora" in name)
    torch.testing.assert_close(found, expected)


def test_full_tuning_of_a_sped_up_model_has_the_same_gradients(tmp_path: Path) -> None:
    plain, fast = make_models(make_base(tmp_path, "bert"), Method.FULL)
    expected, found = gradients(plain, ROWS), gradients(fast, ROWS)
    assert set(found) == set(expected)
    torch.testing.assert_close(found, expected)


def test_the_packaged_base_is_sped_up_and_answers_the_same() -> None:
    base = resolve_base("sentence-transformers/all-MiniLM-L6-v2", "", load_settings())
    plain, fast = make_models(base)
    assert "forward" in vars(faster._last_layer(fast.get_base_model()))
    rows = [[101, *range(2000, 2000 + length), 102] for length in (40, 9)]
    torch.testing.assert_close(plain.eval()(**pad(rows, 0)).logits, fast.eval()(**pad(rows, 0)).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients(fast, rows), gradients(plain, rows), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_in_bfloat16_a_model_says_the_same_and_its_gradients_are_as_near_to_float32s_as_torchs_own(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path, kind)
    ours = []
    products = attention._Attention.apply
    monkeypatch.setattr(attention._Attention, "apply", lambda *given: ours.append(given) or products(*given))
    plain, fast = make_models(base)
    exact = gradients(make_models(base)[0], ROWS)
    assert not ours, "float32 goes torch's way"
    hold_rounded(fast)
    with torch.autocast("cpu", torch.bfloat16):
        logits = [model.eval()(**pad(ROWS, 0)).logits for model in (plain, fast)]
        found = [gradients(model, ROWS) for model in (plain, fast)]
    assert ours
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0.03)  # products add in another order
    off = [{name: float((each[name] - exact[name]).norm() / exact[name].norm()) for name in exact} for each in found]
    assert found[1].keys() == exact.keys()
    for name in exact:
        assert off[1][name] < 0.2, name  # a model of random weights has small gradients in its last layer
    assert sum(off[1].values()) < 1.3 * sum(off[0].values())


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_weights_held_rounded_give_the_same_gradients_to_the_bit_and_come_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faster, "join", lambda model, whole: lambda: None)
    (_, plain), (_, held) = (make_models(make_base(tmp_path / name, kind=kind)) for name in ("plain", "held"))
    before = {name: weight.clone() for name, weight in held.named_parameters()}
    put_back = hold_rounded(held)
    assert all(layer.weight.dtype == torch.bfloat16 for layer in held.modules() if hasattr(layer, "weight") and _is_frozen(layer))
    assert {weight.dtype for weight in held.parameters() if weight.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = gradients(plain, ROWS), gradients(held, ROWS)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    put_back()
    assert all(torch.equal(weight, before[name]) and weight.dtype == torch.float32 for name, weight in held.named_parameters())


def _is_frozen(layer: torch.nn.Module) -> bool:
    return type(layer) is torch.nn.Linear and not layer.weight.requires_grad


def test_quick_predictions_have_float32s_labels_and_leave_the_weights_as_they_were(tmp_path: Path) -> None:
    model = make_models(make_base(tmp_path))[1]
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    ids = [[2, *torch.randint(5, 20, (length % 9 + 1,)).tolist(), 3] for length in range(300)]
    fetch, lengths = lambda rows: [ids[row] for row in rows], [*map(len, ids)]
    exact = logits_of(model, fetch, lengths, 0)
    quick = quick_logits_of(model, fetch, lengths, 0, "bfloat16")
    assert torch.equal(exact.argmax(-1), quick.argmax(-1))
    assert 0 < (exact - quick).abs().max() < 0.1, "most rows were computed in bfloat16 alone"
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_rows_whose_labels_hang_by_least_are_computed_again_in_float32(tmp_path: Path) -> None:
    model = make_models(make_base(tmp_path))[1]
    ids = [[2, *torch.randint(5, 20, (length % 9 + 1,)).tolist(), 3] for length in range(300)]
    fetch, lengths = lambda rows: [ids[row] for row in rows], [*map(len, ids)]
    exact = logits_of(model, fetch, lengths, 0)
    quick = quick_logits_of(model, fetch, lengths, 0, "bfloat16")
    again = torch.isclose(exact, quick, rtol=0, atol=1e-5).all(-1)  # no rounding of bfloat16 is that small
    moved = (exact - quick).diff(dim=-1).abs().flatten()
    apart = exact.diff(dim=-1).abs().flatten()
    assert NEAREST <= again.sum() < 300
    assert again[apart.argsort()[: NEAREST // 2]].all()
    assert (apart > 1.5 * moved)[~again].all(), "where rounding moves logits by about as much as they are apart, they are float32's"


def test_quick_predictions_of_a_model_that_says_no_numbers_are_float32s(tmp_path: Path) -> None:
    model = make_models(make_base(tmp_path))[1]
    ids = [[2, *([5] if row % 50 else [6]), 3] for row in range(200)]
    with torch.no_grad():
        model.get_input_embeddings().weight[6] = torch.nan
    fetch, lengths = lambda rows: [ids[row] for row in rows], [*map(len, ids)]
    quick = quick_logits_of(model, fetch, lengths, 0, "bfloat16")
    assert torch.equal(quick.isnan().any(-1), torch.tensor([row % 50 == 0 for row in range(200)]))
    torch.testing.assert_close(quick, logits_of(model, fetch, lengths, 0), equal_nan=True, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_first_token_sees_the_same_without_a_key_and_a_value_for_every_token(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = speed_up(load_base(make_base(tmp_path, kind).path, LABELS, 0, 0)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zero at first
            torch.nn.init.normal_(weight, std=0.3)
    folded, plain = [], faster._attend_folded
    monkeypatch.setattr(faster, "_attend_folded", lambda *given: folded.append(given) or plain(*given))
    batch = pad(ROWS, 0)
    with torch.inference_mode():
        exact = model(**batch).logits
        assert not folded, "float32 stays as it was"
        hold_rounded(model, whole=True)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch).logits
            assert len(folded) == 1
            monkeypatch.setattr(faster, "_is_held", lambda *_: False)
            wanted = model(**batch).logits
            assert len(folded) == 1
    assert (found - exact).abs().max() < 2 * max(0.005, float((wanted - exact).abs().max()))


def test_rows_of_very_different_length_train_a_base_that_looks_at_its_neighbours_alone(tmp_path: Path) -> None:
    base = make_base(tmp_path, "modernbert", num_hidden_layers=4)
    _, fast = make_models(base)
    hold_rounded(fast)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(fast, [[2, *[5, 6, 7, 8] * 50, 3], [2, 5, 3], [2, 7, 8, 9, 3]])
    assert found
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_an_architecture_that_is_not_known_stays_as_it_was(tmp_path: Path) -> None:
    base = make_base(tmp_path, "gpt2")
    assert not read_first_token_alone(load_base(base.path, LABELS, 0, 0))


def test_a_head_that_reads_every_token_keeps_the_whole_last_layer(base: ResolvedBase) -> None:
    model = load_base(base.path, LABELS, 0, 0).eval()
    whole = model.distilbert.forward

    def mean_first(*given: Any, **more: Any) -> Any:
        said = whole(*given, **more)
        said.last_hidden_state = said.last_hidden_state.mean(1, keepdim=True)
        return said

    model.distilbert.forward = mean_first
    assert not read_first_token_alone(model)
    assert "forward" not in vars(faster._last_layer(model))


def test_cheap_dropout_drops_its_share_scales_the_rest_and_passes_the_gradient_of_what_is_left() -> None:
    torch.manual_seed(0)
    values = torch.ones(1000, 101, requires_grad=True)
    dropped = CheapDropout(0.1)(values)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())  # type: ignore[arg-type]
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.9], rel=1e-4)
    for part in dropped.detach().flatten()[: 4 * (dropped.numel() // 4)].view(-1, 4).T:  # four masks come from one number
        assert float((part == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert CheapDropout(0.1).eval()(values) is values
    assert float(CheapDropout(1.0)(values).detach().sum()) == 0


def test_where_few_are_dropped_each_element_is_dropped_with_the_same_chance_and_the_gradient_passes_what_is_left() -> None:
    torch.manual_seed(0)
    values, drop = torch.ones(100, 30, requires_grad=True), CheapDropout(0.02)
    dropped = drop(values.T)  # strided
    dropped.sum().backward()
    assert torch.equal(values.grad.T, dropped.detach())  # type: ignore[union-attr]
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.98], rel=1e-5)
    times = torch.stack([drop(torch.ones(50)) == 0 for _ in range(20_000)]).double()
    assert torch.allclose(times.mean(0), torch.tensor(0.02).double(), atol=0.005)  # five standard errors
    counts = times.sum(1)
    assert float(counts.var()) == pytest.approx(50 * 0.02 * 0.98, rel=0.06)  # as of independent draws
    assert CheapDropout(0.0)(values) is values


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_cheap_dropout_follows_torchs_generator(share: float) -> None:
    values, drop = torch.ones(640, 3), CheapDropout(share)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = drop(values)
    assert not torch.equal(drop(values), first)
    torch.set_rng_state(state)
    assert torch.equal(drop(values), first)


def test_nothing_is_compiled_off_cuda(base: ResolvedBase) -> None:
    model = load_base(base.path, LABELS, 0, 0)
    assert not compile_where_it_pays(model, 10**6)
