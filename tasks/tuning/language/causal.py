"""A causal model that answers in text: loaded, given weights to train, stored, restored, and asked.

It is stored as classifiers are (`tasks/tuning/methods.py`), without a head of its own.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.errors import BadConfig, IntegrityError
from tasks.tuning.batches import TOKENS_A_BATCH, by_tokens
from tasks.tuning.methods import ADAPTER, ATTENTION_DROPOUTS, LORA_KEYS, WHOLE, linear_names, name_base, refuse_unknown_targets

ROWS_A_BATCH = 32
"""Rows that write side by side, at most."""


def load_causal(path: Path, vocabulary: int, pad_id: int, attention_dropout: float | None = None, quantized_on: str = "") -> Any:
    """A causal language model in float32; arguments as of `methods.load_base`.

    Raises:
        BadConfig: the folder holds none that runs without code of its own.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(path, **safe)
        for name in ATTENTION_DROPOUTS if attention_dropout is not None else ():
            if hasattr(config, name):
                setattr(config, name, attention_dropout)
        if quantized_on:
            safe["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            safe["device_map"] = {"": quantized_on}
        safe |= {"use_safetensors": True, "output_loading_info": True}
        model, report = AutoModelForCausalLM.from_pretrained(path, config=config, dtype="float32", **safe)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadConfig(f"the base in {path} cannot be loaded as a causal model ({reason}): choose a causal base") from None
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise BadConfig(
            f"the base in {path} lacks weights of a causal model ({lacking}), which would be drawn: choose a causal base"
        )
    model.lacked = []
    model.config.pad_token_id = pad_id
    if vocabulary > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # LoRA stores no new rows: each load must draw the same
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def choose_weights(model: Any, tuned: Tuned, base: ResolvedBase) -> Any:
    """The model with the method's weights set to train. Errors as of `methods.choose_weights`."""
    if tuned.method is Method.FULL:
        return model
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    refuse_unknown_targets(model, tuned, base.id)
    _refuse_tied_output(model, tuned, base.id)
    if tuned.quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuned.rank,
        lora_alpha=tuned.alpha,
        lora_dropout=tuned.dropout,
        target_modules=sorted(tuned.targets or linear_names(model)),
        use_dora=tuned.dora,
        use_rslora=tuned.rslora,
    )
    return get_peft_model(model, config)


def _refuse_tied_output(model: Any, tuned: Tuned, base: str) -> None:
    """Merging an update of an output layer that is the input's embedding would change both. Raises BadConfig for such a target."""
    output = model.get_output_embeddings()
    if output is None or output.weight is not model.get_input_embeddings().weight:
        return
    [name] = [name for name, module in model.named_modules() if module is output]
    if found := [target for target in tuned.targets if f".{name}".endswith(f".{target}")]:
        raise BadConfig(
            f"tuned contender {tuned.name!r}: {found[0]} of the base {base} is its embedding of tokens as well, so an update of it "
            "cannot be merged: leave it out of targets, or take a base whose output layer is its own"
        )


def store(model: Any, tuned: Tuned, base: ResolvedBase, folder: Path) -> None:
    """Write what the method trained into a contender's folder."""
    if tuned.method is Method.FULL:
        model.save_pretrained(folder / WHOLE)
        return
    model.save_pretrained(folder / ADAPTER, selected_adapters=["default"], save_embedding_layers=False)
    name_base(folder / ADAPTER, base)


def restore(
    folder: Path,
    method: Method,
    base_path: Path | None,
    vocabulary: int,
    pad_id: int,
    trainable: bool = False,
    merged: bool = True,
) -> Any:
    """The model that `store` wrote: ready to answer, LoRA's updates merged into the base's weights unless told otherwise; or with
    `trainable` ready to train on."""
    if method is Method.FULL:
        return load_causal(folder / WHOLE, vocabulary, pad_id).eval()
    assert base_path
    from peft import LoraConfig, PeftModel

    given = json.loads((folder / ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    if given.get("peft_type") != "LORA" or given.get("task_type") != "CAUSAL_LM":
        raise IntegrityError(
            f"{folder / ADAPTER} is no LoRA of a causal model (task_type {given.get('task_type')!r}): train it again"
        )
    kept = {key: given[key] for key in LORA_KEYS if key in given}
    config = LoraConfig(task_type="CAUSAL_LM", inference_mode=not trainable, **kept)
    model = load_causal(base_path, vocabulary, pad_id)
    adapted = PeftModel.from_pretrained(
        model, folder / ADAPTER, config=config, torch_device="cpu", is_trainable=trainable, adapter_name="default"
    )
    if trainable:
        return adapted
    return (adapted.merge_and_unload() if merged else adapted).eval()


def write_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: int,
    pad_id: int,
    max_new: int,
    told: Callable[[int], None] = lambda rows: None,
) -> list[list[int]]:
    """The likeliest tokens after each prompt, one by one, up to and with the end or `max_new` of them; in the prompts' order."""
    import torch
    from transformers import GenerationConfig

    model.eval()
    how = GenerationConfig(max_new_tokens=max_new, do_sample=False, eos_token_id=end, pad_token_id=pad_id)
    found: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        for batch in by_tokens([len(ids) + max_new for ids in prompts], TOKENS_A_BATCH[model.device.type]):
            for start in range(0, len(batch), ROWS_A_BATCH):
                rows = batch[start : start + ROWS_A_BATCH]
                given = pad_left([prompts[row] for row in rows], pad_id, model.device)
                given.pop("position_ids")
                written = model.generate(**given, generation_config=how)[:, given["input_ids"].shape[1] :]
                for row, ids in zip(rows, written.tolist(), strict=True):
                    found[row] = ids[: ids.index(end) + 1] if end in ids else ids
                told(len(rows))
    return found


def first_logits(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> Any:
    """Logits of the token after each prompt, float32 [prompts, vocabulary]."""
    import torch

    model.eval()
    found: list[Any] = [None] * len(prompts)
    with torch.inference_mode():
        for rows in by_tokens([*map(len, prompts)], TOKENS_A_BATCH[model.device.type]):
            logits = model(**pad_left([prompts[row] for row in rows], pad_id, model.device), logits_to_keep=1).logits[:, -1]
            for row, each in zip(rows, logits.float().cpu(), strict=True):
                found[row] = each
    return torch.stack(found)


def label_logits(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    pad_id: int,
    told: Callable[[int], None] = lambda rows: None,
) -> Any:
    """How likely each label's text is as the answer to each prompt: log-probabilities, a float32 tensor [prompts, labels]."""
    import torch

    model.eval()
    found = torch.zeros(len(prompts), len(labels))
    longest = max(map(len, labels))
    with torch.inference_mode():
        for rows in by_tokens([len(ids) + longest for ids in prompts], TOKENS_A_BATCH[model.device.type]):
            for place, label in enumerate(labels):
                given = pad_left([[*prompts[row], *label] for row in rows], pad_id, model.device)
                logits = model(**given, logits_to_keep=len(label) + 1).logits[:, -len(label) - 1 : -1].float()
                right = torch.tensor(label, device=logits.device).expand(len(rows), -1).unsqueeze(-1)
                found[rows, place] = logits.log_softmax(-1).gather(-1, right).sum((1, 2)).cpu()
            told(len(rows))
    return found


def pad_left(ids: Sequence[Sequence[int]], pad_id: int, device: Any) -> dict[str, Any]:
    """Token ids of several rows, padded on the left: `input_ids`, `attention_mask`, `position_ids` [rows, longest]."""
    import torch

    longest = max(map(len, ids))
    tokens = torch.full((len(ids), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), longest), dtype=torch.long)
    for index, row in enumerate(ids):
        tokens[index, longest - len(row) :] = torch.as_tensor(row)
        mask[index, longest - len(row) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {
        name: tensor.to(device) for name, tensor in (("input_ids", tokens), ("attention_mask", mask), ("position_ids", positions))
    }
