import json
import shutil
from pathlib import Path

import pytest
import torch

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.errors import BadConfig, IntegrityError
from tasks.tuning.check import check_recipe
from tasks.tuning.methods import all_parameters, choose_weights, linear_names, load_base, restore, store, trained_by_part
from tasks.workspace import Workspace
from tests.tiny_model import LABELS, make_base

SEED_RECIPE = Tuned(name="seed", rank=4, alpha=32, dropout=0.01, targets=["q_lin"], attention_dropout=None, batch_size=4)


def trained(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def classifier(base: ResolvedBase, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return load_base(base.path, LABELS, 25, 0)


def test_the_seeds_recipe_trains_628994_parameters_of_the_full_size_distilbert() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    with torch.device("meta"):
        model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))
        model.lacked = ["pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"]
        model = choose_weights(model, SEED_RECIPE, ResolvedBase("distilbert-base-uncased", "main", Path(), ""))
    assert trained(model) == 628_994


def test_lora_adapts_all_linear_layers_of_the_encoder_by_default(base: ResolvedBase) -> None:
    model = choose_weights(classifier(base), Tuned(name="t"), base)
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2 * 6
    assert not any("classifier" in name for name in adapted)


def test_targets_that_the_base_lacks_are_refused_with_the_candidates(base: ResolvedBase) -> None:
    with pytest.raises(BadConfig, match=r"no modules named query, wv; .*k_lin, lin1, lin2, out_lin, q_lin, v_lin"):
        choose_weights(classifier(base), Tuned(name="t", targets=["q_lin", "query", "wv"]), base)


def test_head_trains_what_stands_outside_the_encoder_and_full_trains_all(base: ResolvedBase) -> None:
    head = choose_weights(classifier(base), Tuned(name="t", method=Method.HEAD), base)
    assert {name.split(".")[0] for name, weight in head.named_parameters() if weight.requires_grad} == {
        "pre_classifier",
        "classifier",
    }
    full = choose_weights(classifier(base), Tuned(name="t", method=Method.FULL), base)
    assert trained(full) == sum(weight.numel() for weight in full.parameters())


def test_what_a_base_lacks_inside_its_encoder_is_trained_and_stored_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = make_base(tmp_path / "base", kind="bert")
    weights = load_file(base.path / "model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "pooler" not in name},
        base.path / "model.safetensors",
        {"format": "pt"},
    )
    model = choose_weights(classifier(base), Tuned(name="t"), base)
    assert any("pooler" in name for name, weight in model.named_parameters() if weight.requires_grad)
    (tmp_path / "made").mkdir()
    store(model, Tuned(name="t"), base, tmp_path / "made")
    _same(model, restore(tmp_path / "made", Method.LORA, base.path, LABELS, 25, 0))


@pytest.mark.parametrize("method", list(Method))
def test_a_stored_contender_predicts_as_it_did(method: Method, base: ResolvedBase, tmp_path: Path) -> None:
    tuned = Tuned(name="t", method=method)
    model = choose_weights(classifier(base), tuned, base)
    _disturb(model)
    store(model, tuned, base, tmp_path)
    torch.manual_seed(99)  # whatever is not stored would come out otherwise
    _same(model, restore(tmp_path, method, base.path, LABELS, 25, 0))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".safetensors"}


@pytest.mark.parametrize("switch", ["dora", "rslora"])
def test_ways_of_lora_are_stored_and_predict_as_they_did(switch: str, base: ResolvedBase, tmp_path: Path) -> None:
    tuned = Tuned.model_validate({"name": "t", switch: True, "rank": 16})
    model = choose_weights(classifier(base), tuned, base)
    _disturb(model)
    store(model, tuned, base, tmp_path)
    torch.manual_seed(99)
    _same(model, restore(tmp_path, Method.LORA, base.path, LABELS, 25, 0))
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())[f"use_{switch}"] is True


def test_what_trains_is_told_apart_into_updates_and_head(base: ResolvedBase) -> None:
    head = 32 * 32 + 32 + 2 * 32 + 2
    lora = choose_weights(classifier(base), Tuned(name="t", rank=2, targets=["q_lin"]), base)
    assert trained_by_part(lora) == {"lora": 2 * 2 * (32 + 32), "head": head}
    assert trained_by_part(choose_weights(classifier(base), Tuned(name="t", method=Method.HEAD), base)) == {"head": head}
    full = choose_weights(classifier(base), Tuned(name="t", method=Method.FULL), base)
    assert trained_by_part(full) == {"head": head, "encoder": trained(full) - head}
    assert all_parameters(lora) == trained(full) + 2 * 2 * (32 + 32)  # the head counts once


def test_all_linear_is_the_same_as_no_target() -> None:
    assert Tuned.model_validate({"name": "t", "targets": "all-linear"}) == Tuned(name="t")
    assert Tuned.model_validate({"name": "t", "targets": "query"}).targets == ["query"]


def test_a_way_of_lora_with_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match="dora is a way of LoRA, but the method is head"):
        Tuned(name="t", method=Method.HEAD, dora=True)


def test_a_base_in_four_bits_is_refused_before_training_where_there_is_no_cuda(base: ResolvedBase, home: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(BadConfig, match=r"'t' is quantized .* needs CUDA; this machine trains on (cpu|mps)"):
        check_recipe(Tuned(name="t", quantized=True), base, Workspace(home))


def test_the_adapter_names_the_base_publicly_and_loads_with_plain_peft(base: ResolvedBase, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    public = ResolvedBase("owner/tiny", "abc123", base.path, base.config_sha256)
    model = choose_weights(classifier(base), SEED_RECIPE, public)
    _disturb(model)
    store(model, SEED_RECIPE, public, tmp_path)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "abc123")
    assert str(base.path) not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    plain = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=2)
    _same(model, PeftModel.from_pretrained(plain, tmp_path / "adapter"))


def test_an_adapter_that_names_code_to_import_is_read_without_it(base: ResolvedBase, tmp_path: Path) -> None:
    model = choose_weights(classifier(base), Tuned(name="t"), base)
    store(model, Tuned(name="t"), base, tmp_path)
    path = tmp_path / "adapter/adapter_config.json"
    hostile = {"megatron_config": {"a": 1}, "megatron_core": "no.such.module", "auto_mapping": {"parent_library": "no.such.module"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    _same(model, restore(tmp_path, Method.LORA, base.path, LABELS, 25, 0))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "BONE"}))
    with pytest.raises(IntegrityError, match="no LoRA classifier"):
        restore(tmp_path, Method.LORA, base.path, LABELS, 25, 0)


def test_remote_code_and_pickle_weights_are_refused(base: ResolvedBase, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path / "remote")
    config = json.loads((base.path / "config.json").read_text())
    remote = {"model_type": "unheard_of", "auto_map": {"AutoConfig": "evil.Evil"}}
    (tmp_path / "remote/config.json").write_text(json.dumps(config | remote))
    (tmp_path / "remote/evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadConfig, match="cannot be loaded as a classifier"):
        load_base(tmp_path / "remote", LABELS, 25, 0)
    shutil.copytree(base.path, tmp_path / "pickle")
    (tmp_path / "pickle/model.safetensors").unlink()
    torch.save({}, tmp_path / "pickle/pytorch_model.bin")
    with pytest.raises(BadConfig, match="cannot be loaded as a classifier"):
        load_base(tmp_path / "pickle", LABELS, 25, 0)


def test_the_labels_stand_in_the_models_config_by_name(base: ResolvedBase) -> None:
    model = classifier(base)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert "q_lin" in linear_names(model)


def test_embeddings_grow_for_a_pad_token_beyond_them_and_predictions_do_not_depend_on_it(
    base: ResolvedBase, tmp_path: Path
) -> None:
    tuned = Tuned(name="t")
    torch.manual_seed(3)
    model = choose_weights(load_base(base.path, LABELS, 26, 25), tuned, base)
    store(model, tuned, base, tmp_path)
    back = restore(tmp_path, Method.LORA, base.path, LABELS, 26, 25)
    ids, mask = torch.tensor([[2, 7, 3, 25]]), torch.tensor([[1, 1, 1, 0]])
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(ids, attention_mask=mask).logits, back(ids, attention_mask=mask).logits)


def _disturb(model: torch.nn.Module) -> None:
    """As training would: LoRA's updates start at zero."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)


def _same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ids = torch.tensor([[2, 6, 9, 12, 3], [2, 5, 10, 14, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(one.eval()(ids).logits, other.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_unknown_targets_are_refused_before_training_and_known_ones_are_checked_once(tmp_path: Path) -> None:
    base, workspace = make_base(tmp_path / "base"), Workspace(tmp_path / "space")
    with pytest.raises(BadConfig, match=r"no modules named query; its linear layers are k_lin, lin1"):
        check_recipe(Tuned(name="a", targets=["q_lin", "query"]), base, workspace)
    check_recipe(Tuned(name="a", targets=["q_lin"]), base, workspace)
    check_recipe(Tuned(name="b", targets=["q_lin"], rank=2), base, workspace)
    assert workspace.reused == ["check b"]
