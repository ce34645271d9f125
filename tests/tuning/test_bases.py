"""A user's own base: whatever classifies in transformers can be tuned, by every method, and comes back as it was."""

import json
from pathlib import Path

import pytest
import torch

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Method, Tuned
from tasks.data.tokenize import load_tokenizer
from tasks.errors import BadConfig
from tasks.settings import Settings
from tasks.tuning.batches import logits_of
from tasks.tuning.methods import choose_weights, linear_names, load_base, restore, store
from tests.tiny_model import DECODERS, KINDS, LABELS, make_base

WORKING = [kind for kind in KINDS if kind != "t5"]
ROWS = [[2, 7, 3], [2, 9, 12, 14, 15, 6, 3], [2, 5, 3], [2, 11, 13, 8, 3]]
LINEAR = {
    "distilbert": "k_lin lin1 lin2 out_lin q_lin v_lin",
    "bert": "dense key query value",
    "roberta": "dense key query value",
    "modernbert": "Wi Wo Wqkv",
    "gpt2": "c_attn c_fc c_proj",
    "llama": "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
}


@pytest.fixture(scope="module", params=WORKING)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def own(kind: str, tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return make_base(tmp_path_factory.mktemp(kind), kind)


def says(model: torch.nn.Module, rows: list[list[int]], pad_id: int) -> torch.Tensor:
    found: torch.Tensor = logits_of(model, lambda places: [rows[place] for place in places], [*map(len, rows)], pad_id)
    return found


@pytest.mark.parametrize("method", list(Method))
def test_every_method_learns_on_it_and_what_is_stored_comes_back(
    method: Method, own: ResolvedBase, kind: str, tmp_path: Path
) -> None:
    tokenizer, mended = load_tokenizer(own.path)
    assert [finding.kind for finding in mended] == (["pad_token"] if kind in DECODERS else [])
    pad_id, tuned = tokenizer.pad_token_id, Tuned(name="t", method=method)
    torch.manual_seed(1)
    model = choose_weights(load_base(own.path, LABELS, len(tokenizer), pad_id, 0.0), tuned, own)
    before = says(model, ROWS, pad_id)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    model.train()
    for row, label in zip(ROWS, (0, 1, 0, 1), strict=True):
        torch.nn.functional.cross_entropy(model(torch.tensor([row])).logits, torch.tensor([label])).backward()
    optimizer.step()
    after = says(model, ROWS, pad_id)
    assert (after - before).abs().max() > 1e-3
    store(model, tuned, own, tmp_path)
    torch.manual_seed(99)  # whatever is not stored would come out otherwise
    back = restore(tmp_path, method, own.path, LABELS, len(tokenizer), pad_id)
    torch.testing.assert_close(says(back, ROWS, pad_id), after, rtol=1e-4, atol=1e-4)
    alone = torch.cat([says(back, [row], pad_id) for row in ROWS])  # padding says nothing
    torch.testing.assert_close(alone, after, rtol=1e-4, atol=1e-4)


def test_targets_that_it_lacks_are_refused_with_those_that_it_has(own: ResolvedBase, kind: str) -> None:
    model = load_base(own.path, LABELS, 25, 0)
    assert " ".join(linear_names(model)) == LINEAR[kind]
    with pytest.raises(BadConfig, match=f"no modules named nowhere; its linear layers are {LINEAR[kind].replace(' ', ', ')}"):
        choose_weights(model, Tuned(name="t", targets=["nowhere"]), own)


def test_a_base_that_has_a_head_for_other_labels_gets_a_new_one(own: ResolvedBase, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    load_base(own.path, ["a", "b", "c"], 25, 0).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(json.loads((tmp_path / "config.json").read_text()) | {"pad_token_id": 0}))
    model = load_base(tmp_path, LABELS, 25, 0)
    assert says(model, ROWS, 0).shape == (4, 2)
    head = choose_weights(model, Tuned(name="t", method=Method.HEAD), own)
    assert 0 < sum(weight.numel() for weight in head.parameters() if weight.requires_grad) < 5000


def test_an_encoder_with_a_decoder_behind_it_is_refused(tmp_path: Path) -> None:
    make_base(tmp_path / "t5", "t5")
    with pytest.raises(BadConfig, match=r"in .*t5 has an encoder and a decoder"):
        resolve_base("t5", "", Settings(roots=[tmp_path]))
