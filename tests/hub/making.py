"""What the stand-in serves under the real names: a small `shawhin/imdb-truncated`, and a small random DistilBERT with a tokenizer
that is trained on it.

A review tells its class by words that stand nowhere else: a telling stem and an ending of their own (`glad_kog`). Who knows pieces
of words sees the stem; who knows whole words has never met the word. So the tuned model can win.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.data.made_rows import WORDS

STEMS = {"Negative": ("grim", "drab"), "Positive": ("glad", "warm")}
FILLER = ("the", "film", "story", "cast", "plot", "scene", "ending", "music", "is", "and", "with", "a")
LABELS = ["Negative", "Positive"]
ROWS = 120
"""In train, and in validation."""
LONG_WORDS = 600
"""Words of the first train row, which must be cut."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_reviews(split: Literal["train", "validation"]) -> list[dict[str, Any]]:
    """Reviews of ten words, eight of them telling; labels 0 and 1 in turn."""
    telling = [_telling_words(split, label) for label in LABELS]
    dice = random.Random(split)
    made = []
    for row in range(ROWS):
        words = [next(telling[row % 2]) for _ in range(8)] + dice.choices(FILLER, k=2)
        dice.shuffle(words)
        made.append({"label": row % 2, "text": " ".join(words)})
    return made


def _telling_words(split: str, label: str) -> Iterator[str]:
    """Words that no other row has."""
    words = [f"{stem}_{ending}" for stem in STEMS[label] for ending in WORDS]
    random.Random(label).shuffle(words)
    return iter(words[split == "train" :: 2])


def tells(text: str) -> str:
    """The label that the words of a text tell."""
    return LABELS[any(word.startswith(STEMS["Positive"]) for word in text.split())]


def make_data(folder: Path, labels: Literal["classes", "numbers"] = "classes") -> Path:
    """A data repository as `push_to_hub` lays it out: Parquet in `data/`, the features on the card.

    Args:
        labels: whether the label column knows its classes' names, or is plain numbers.
    """
    import datasets

    kinds = {"classes": datasets.ClassLabel(names=LABELS), "numbers": datasets.Value("int64")}
    features = datasets.Features({"label": kinds[labels], "text": datasets.Value("string")})
    (folder / "data").mkdir(parents=True)
    train, validation = make_reviews("train"), make_reviews("validation")
    train[0]["text"] = " ".join(random.Random(3).choices(FILLER, k=LONG_WORDS)) + " " + train[0]["text"]
    card = [{"name": "label", "dtype": "int64"}, {"name": "text", "dtype": "string"}]
    if labels == "classes":
        card[0]["dtype"] = {"class_label": {"names": {"0": "Negative", "1": "Positive"}}}  # type: ignore[assignment]
    for split, rows in {"train": train, "validation": validation}.items():
        made = datasets.Dataset.from_list(rows, features=features)
        made.to_parquet(str(folder / "data" / f"{split}-00000-of-00001-5a744bf76a1d84b2.parquet"))
    (folder / "README.md").write_text(_card(card))
    (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    return folder


def make_model(folder: Path) -> Path:
    """A model repository like the real one: weights with the head of masked words, in safetensors and pickle, and a tokenizer."""
    import torch
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    vocabulary = _make_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 512}
    spread = {"initializer_range": 0.2}  # so that a frozen random encoder tells its inputs apart
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=vocabulary, pad_token_id=0, **sizes, **spread)).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle: nobody may ask for this")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# DistilBERT base model (uncased)\n")
    return folder


def _make_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    texts = [row["text"] for row in make_reviews("train")] + ["it was good", "not a fan, don't recommend. better than this one!"]
    core.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    folder.mkdir(parents=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _card(features: list[dict[str, Any]]) -> str:
    import yaml

    splits = ("train", "validation")
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    info = {"features": features, "splits": [{"name": split, "num_examples": ROWS, "num_bytes": 10_000} for split in splits]}
    about = {"dataset_info": info, "configs": [{"config_name": "default", "data_files": files}]}
    return f'---\n{yaml.safe_dump(about)}---\n# Dataset Card for "imdb-truncated"\n'
