"""A tiny real base model, data set and tokens, made on the spot: a random one of many kinds, and sentences whose words tell."""

import random
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase
from tasks.config import Tuned
from tasks.data.examples import write_examples
from tasks.data.tokenize import tokenize
from tasks.records import DatasetRecord, Example, TokensRecord
from tasks.workspace import Workspace, digest, file_sha256

GOOD, BAD = ("superb", "moving", "bright", "clever"), ("dull", "clumsy", "tedious", "flat")
FILLER = ("the", "film", "story", "cast", "plot", "scene", "ending", "music", "is", "and", "with", "a")
LABELS = ["negative", "positive"]
SIZES = {"train": 96, "dev": 32, "test": 40}


def examples(split: str, rows: int, filler: tuple[int, int] = (2, 10)) -> list[Example]:
    """Sentences with two telling words among so many that do not tell (at least, at most), labels in turn."""
    rng = random.Random(split)
    made = []
    for row in range(1, rows + 1):
        label = LABELS[row % 2]
        words = rng.sample(GOOD if label == "positive" else BAD, 2) + rng.choices(FILLER, k=rng.randint(*filler))
        rng.shuffle(words)
        text = " ".join(words)
        made.append(Example(example=digest([split, row, text]), row=row, inputs={"text": text}, label=label))
    return made


def make_dataset(folder: Path, filler: tuple[int, int] = (2, 10)) -> DatasetRecord:
    """The three splits, as the Load stage would leave them."""
    folder.mkdir(parents=True)
    splits = {split: examples(split, rows, filler) for split, rows in SIZES.items()}
    for split, rows in splits.items():
        write_examples(folder / f"{split}.parquet", rows)
    counts = {split: {label: sum(row.label == label for row in rows) for label in LABELS} for split, rows in splits.items()}
    return DatasetRecord(
        fingerprint=digest(["tiny", SIZES, filler]),
        folder=folder,
        source="tiny",
        revision="1",
        inputs=["text"],
        labels=LABELS,
        rows=SIZES,
        label_rows=counts,
    )


def make_base(folder: Path, kind: str = "distilbert", seed: int = 0, **sizes: Any) -> ResolvedBase:
    """A random model (dim 32, 2 layers) with a word-level tokenizer trained on the spot.

    Args:
        kind: a key of `KINDS`; those of decoders have no pad token.
    """
    import torch
    import transformers

    name, given = KINDS[kind]
    tokenizer = make_tokenizer(folder, padded=kind not in DECODERS)
    torch.manual_seed(seed)
    common = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "pad_token_id": tokenizer.pad_token_id}
    common["initializer_range"] = 0.2  # so that a frozen random encoder tells its inputs apart
    config = getattr(transformers, f"{name}Config")(**common | given | sizes)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return ResolvedBase(f"folder-{seed}", digest(sizes | {"seed": seed}), folder, file_sha256(folder / "config.json"))


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "bert": ("Bert", _SIZES),
    "roberta": ("Roberta", _SIZES | {"max_position_embeddings": 514, "type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3}),
    "modernbert": ("ModernBert", _SIZES | _ENDS),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 3, "eos_token_id": 3}),
    "llama": ("Llama", _SIZES | {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}),
    "t5": ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "eos_token_id": 3}),
}
"""Architectures by a short name: what transformers calls them, and small sizes."""
DECODERS = {"gpt2", "llama"}


def make_tokenizer(folder: Path, padded: bool = True) -> Any:
    """A BERT-like tokenizer over the tiny data set's words, saved into `folder`; without a pad token it is like GPT-2's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: index for index, word in enumerate([*special, *GOOD, *BAD, *FILLER])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    if not padded:
        names = {"eos_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_tokens(folder: Path, base: ResolvedBase, dataset: DatasetRecord) -> TokensRecord:
    """The data set's tokens for a base."""
    return tokenize(Tuned(name="tiny"), dataset, base, Workspace(folder))
