"""Which weights train: `lora` (low-rank updates and the head), `head` (the head alone), `full` (all).

The head is whatever stands outside the encoder, and what the base lacks. Each method stores what it trained, as safetensors:

    lora   adapter/            as PEFT writes it, naming the base by public id and revision (DoRA and rsLoRA alike)
    head   head.safetensors    the trained weights by name
    full   model/              the whole model, as transformers writes it

What stands on a base of its own (objective `self_supervised`) has that in adapted/ as well.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.errors import BadConfig, IntegrityError

logger = logging.getLogger(__name__)
ADAPTER, HEAD, WHOLE = "adapter", "head.safetensors", "model"
ADAPTED = "adapted"
"""The base after further pre-training, which a contender on it carries along."""
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""What architectures call their attention dropout."""
LORA_KEYS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "bias",
    "fan_in_fan_out",
    "use_dora",
    "use_rslora",
)
"""The only keys of an adapter's config that are obeyed; others can name code to import."""


def load_base(
    path: Path,
    labels: Sequence[str],
    vocabulary: int,
    pad_id: int,
    attention_dropout: float | None = None,
    quantized_on: str = "",
) -> Any:
    """A base model with a new head for these labels, in float32, its head's first weights drawn from torch's seed.

    Args:
        vocabulary: tokens that the tokenizer knows; the embeddings grow where a mended pad token lies beyond them.
        attention_dropout: instead of the base's own.
        quantized_on: hold the encoder's matrices in 4 bits on this device (QLoRA); the model then stays there.

    Raises:
        BadConfig: the folder holds no model that can classify without running code of its own.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(path, **safe)
        config.num_labels = len(labels)
        config.id2label, config.label2id = dict(enumerate(labels)), {name: index for index, name in enumerate(labels)}
        config.problem_type = "single_label_classification"
        for name in ATTENTION_DROPOUTS if attention_dropout is not None else ():
            if hasattr(config, name):
                setattr(config, name, attention_dropout)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            dtype="float32",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **(four_bits(config, quantized_on) if quantized_on else {}),
            **safe,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadConfig(f"the base in {path} cannot be loaded as a classifier ({reason}): choose another base") from None
    model.lacked = sorted({*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])})
    model.config.pad_token_id = pad_id  # only now, since it may lie beyond the base's embeddings
    if vocabulary > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def head_modules(model: Any) -> list[str]:
    """Names of the modules that no base brings along: those outside the encoder, and those that this base lacks."""
    outside = [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]
    lacked = {name.rpartition(".")[0] for name in model.lacked}
    return outside + sorted(name for name in lacked if name.split(".")[0] not in outside)


def linear_names(model: Any) -> list[str]:
    """Last names of the encoder's linear layers, such as `query`: what LoRA can adapt."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    encoder = getattr(model, model.base_model_prefix)
    layers = (name for name, module in encoder.named_modules() if isinstance(module, Linear | Conv1D) and "pooler" not in name)
    return sorted({name.rpartition(".")[2] for name in layers})


def four_bits(config: Any, device: str) -> dict[str, Any]:
    """Arguments with which `from_pretrained` holds the encoder in 4 bits (NF4, doubly quantized, products in bfloat16) on a device;
    the head, which is new, stays as it is."""
    import torch
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    with torch.device("meta"):
        bare = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    outside = [name for name, _ in bare.named_children() if name != bare.base_model_prefix]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*outside, f"{bare.base_model_prefix}.pooler"],
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def choose_weights(model: Any, tuned: Tuned, base: ResolvedBase) -> Any:
    """The model with the method's weights set to train, all others frozen.

    Raises:
        BadConfig: LoRA targets that the base does not have; the message lists those that it has.
    """
    if tuned.method is Method.LORA:
        return _with_lora(model, tuned, base)
    trains = tuple(f"{name}." for name in head_modules(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = tuned.method is Method.FULL or name.startswith(trains)
    return model


def refuse_unknown_targets(model: Any, tuned: Tuned, base: str) -> None:
    """Raises BadConfig for LoRA targets that the model does not have; the message lists its linear layers."""
    modules = [name for name, _ in model.named_modules()]
    wrong = [target for target in tuned.targets if not any(f".{name}".endswith(f".{target}") for name in modules)]
    if wrong:
        raise BadConfig(
            f"tuned contender {tuned.name!r}: the base {base} has no modules named {', '.join(wrong)}; "
            f"its linear layers are {', '.join(linear_names(model))}: set targets to some of these"
        )


def _with_lora(model: Any, tuned: Tuned, base: ResolvedBase) -> Any:
    from peft import LoraConfig, get_peft_model

    refuse_unknown_targets(model, tuned, base.id)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=tuned.rank,
        lora_alpha=tuned.alpha,
        lora_dropout=tuned.dropout,
        target_modules=sorted(tuned.targets or linear_names(model)),
        exclude_modules=None if tuned.targets else r".*pooler.*",
        modules_to_save=head_modules(model),
        use_dora=tuned.dora,
        use_rslora=tuned.rslora,
    )
    if tuned.quantized:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, config)


def trained_by_part(model: Any) -> dict[str, int]:
    """How many parameters train, by part: `lora` (the updates), `head`, `encoder`; parts in which none trains are left out."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads = tuple(f"{name}." for name in head_modules(inner))
    found = {"lora": 0, "head": 0, "encoder": 0}
    for name, weight in inner.named_parameters():
        if weight.requires_grad:
            part = "lora" if ".lora_" in name else "head" if name.startswith(heads) else "encoder"
            found[part] += weight.numel()
    return {part: count for part, count in found.items() if count}


def all_parameters(model: Any) -> int:
    """Of the base and what was added. The frozen copy that PEFT keeps of a trained head does not count, and of weights in 4 bits
    each counts as one."""
    weights = [weight for name, weight in model.named_parameters() if ".original_module." not in name]
    return sum(weight.numel() * (2 if hasattr(weight, "quant_state") else 1) for weight in weights)


def trained_weights(model: Any) -> dict[str, Any]:
    """The weights that train, by name, on the CPU."""
    return {name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}


def set_weights(model: Any, weights: dict[str, Any], where: str) -> None:
    """Put stored weights in place.

    Raises:
        IntegrityError: a weight is not the model's, or has another shape.
    """
    import torch

    places = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if name not in places or places[name].shape != weight.shape:
                raise IntegrityError(
                    f"{where} holds {name} {list(weight.shape)}, which does not fit the base: it was made for another"
                )
            places[name].copy_(weight)


def store(model: Any, tuned: Tuned, base: ResolvedBase, folder: Path) -> None:
    """Write what the method trained into a contender's folder."""
    from safetensors.torch import save_file

    if tuned.method is Method.HEAD:
        save_file(trained_weights(model), folder / HEAD)
    elif tuned.method is Method.FULL:
        model.save_pretrained(folder / WHOLE)
    else:
        model.save_pretrained(folder / ADAPTER, save_embedding_layers=False)  # a pad token's row is masked: nothing depends on it
        name_base(folder / ADAPTER, base)


def name_base(adapter: Path, base: ResolvedBase) -> None:
    """PEFT names the local path of the base; what is published names its public id and revision."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base.id, "revision": base.revision}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's own card, with the local path in it


def restore(
    folder: Path,
    method: Method,
    base_path: Path | None,
    labels: Sequence[str],
    vocabulary: int,
    pad_id: int,
    merged: bool = True,
) -> Any:
    """The model that `store` wrote, ready to predict.

    Args:
        base_path: where the base lies; None for `full`, which needs none.
        merged: whether LoRA updates are merged into the base's weights.
    """
    from safetensors.torch import load_file

    if method is Method.FULL:
        return load_base(folder / WHOLE, labels, vocabulary, pad_id).eval()
    assert base_path
    model = load_base(base_path, labels, vocabulary, pad_id)
    if method is Method.HEAD:
        set_weights(model, load_file(folder / HEAD), str(folder / HEAD))
        return model.eval()
    from peft import LoraConfig, PeftModel

    given = json.loads((folder / ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    if given.get("peft_type") != "LORA" or given.get("task_type") != "SEQ_CLS":
        raise IntegrityError(f"{folder / ADAPTER} is no LoRA classifier (peft_type {given.get('peft_type')!r}): train it again")
    config = LoraConfig(task_type="SEQ_CLS", inference_mode=True, **{key: given[key] for key in LORA_KEYS if key in given})
    adapted = PeftModel.from_pretrained(model, folder / ADAPTER, config=config, torch_device="cpu")
    return (adapted.merge_and_unload() if merged else adapted).eval()
