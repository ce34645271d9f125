"""QLoRA's own code on a CPU, by bitsandbytes' plain kernels: a base in 4 bits trains, and its adapter answers on the base in
float32. What CUDA's kernels do is not seen here.

`make test` runs this by itself with bitsandbytes on the path: PEFT loads it wherever it is installed, which takes a second.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.bases import ResolvedBase
from tasks.config import Method
from tasks.data.tokenize import load_tokenizer, tokenize
from tasks.records import DatasetRecord
from tasks.tuning.faster import speed_up
from tasks.tuning.language import complete
from tasks.tuning.methods import all_parameters, choose_weights, load_base, restore, trained_by_part
from tasks.tuning.train import train
from tasks.workspace import Workspace
from tests.tiny_model import LABELS, make_base, make_tokens
from tests.tuning.test_tune import RECIPE, job

pytest.importorskip("bitsandbytes")
QUANTIZED = RECIPE.model_copy(update={"quantized": True, "epochs": 6, "rank": 8})
BLOCK = {"hidden_size": 64, "intermediate_size": 128}
"""bitsandbytes quantizes 64 weights together."""


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with AVX512-BF16 an evaluation repacks the weights, and training on is an error then; CUDA repacks nothing."""
    from bitsandbytes.nn import modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)


def kinds(model: Any) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__}


def test_the_encoder_is_in_four_bits_and_head_and_pooler_are_not(tmp_path: Path) -> None:
    base = make_base(tmp_path / "bert", "bert", **BLOCK)
    tokenizer = load_tokenizer(base.path).tokenizer
    model = load_base(base.path, LABELS, len(tokenizer), tokenizer.pad_token_id, 0.0, "cpu")
    plain = {name for name, kind in kinds(model).items() if kind == "Linear"}
    assert plain == {"bert.pooler.dense", "classifier"}
    assert {kind for name, kind in kinds(model).items() if name not in plain} == {"Linear4bit"}
    whole = sum(weight.numel() for weight in load_base(base.path, LABELS, len(tokenizer), tokenizer.pad_token_id).parameters())
    tuned = choose_weights(model, QUANTIZED, base)
    by_part = trained_by_part(tuned)
    assert set(by_part) == {"lora", "head"}
    assert all_parameters(tuned) == whole + by_part["lora"]  # of four bits each counts as one
    row = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.inference_mode():
        assert speed_up(tuned).eval()(**row).logits.isfinite().all()


@pytest.mark.slow
def test_a_classifier_on_a_base_in_four_bits_learns_and_its_adapter_says_the_same_on_the_base_in_float32(
    dataset: DatasetRecord, home: Path, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "bert", "bert", **BLOCK)
    made = train(job(QUANTIZED, make_tokens(tmp_path / "tokens", base, dataset), base, home))["training"]
    assert max(epoch["dev_accuracy"] for epoch in made["epochs"]) > 0.8
    assert made["switches"] == ["quantized"]
    assert accuracy(restored(base, home), base, dataset) > 0.8


@pytest.mark.slow
def test_a_causal_model_in_four_bits_learns_to_name_labels(dataset: DatasetRecord, home: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "llama", "llama", **BLOCK, tie_word_embeddings=True)
    named = QUANTIZED.model_copy(update={"as_text": True})
    tokens = tokenize(named, dataset, base, Workspace(tmp_path / "home"))
    made = complete.train(job(named, tokens, base, home))["training"]
    losses = [epoch["dev_loss"] for epoch in made["epochs"]]
    assert losses[-1] < losses[0]
    assert made["parameters_trained"] < made["parameters"]
    assert (home / "made/adapter/adapter_model.safetensors").exists()


def restored(base: ResolvedBase, home: Path) -> Any:
    tokenizer = load_tokenizer(base.path).tokenizer
    return restore(home / "made", Method.LORA, base.path, LABELS, len(tokenizer), tokenizer.pad_token_id)


def accuracy(model: Any, base: ResolvedBase, dataset: DatasetRecord) -> float:
    from tasks.data.examples import read_examples
    from tasks.data.tokenize import encode_texts
    from tasks.tuning.batches import logits_of

    tokenizer, rows = load_tokenizer(base.path).tokenizer, read_examples(dataset, "test")
    ids = encode_texts(tokenizer, [row.inputs["text"] for row in rows], 64, QUANTIZED.truncation_side).ids
    best = logits_of(model, lambda wanted: [ids[row] for row in wanted], [*map(len, ids)], tokenizer.pad_token_id).argmax(-1)
    return sum(LABELS[place] == row.label for place, row in zip(best.tolist(), rows, strict=True)) / len(rows)
