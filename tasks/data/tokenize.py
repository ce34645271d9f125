"""The tokenize stage: a split's texts as token ids of one base model; and the one place where tokenizers are loaded and used."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.bases import ResolvedBase
from tasks.child import prepare_children
from tasks.config import TruncationSide, Tuned
from tasks.data.completions import Frame, encode_completions, encode_prompts, frame_of
from tasks.data.examples import input_text, split_path
from tasks.data.mapped import Mapped
from tasks.data.reading import parquet_options
from tasks.errors import BadConfig
from tasks.progress import Bar, progress
from tasks.records import SPLITS, DatasetRecord, Finding, Split, TokensRecord
from tasks.workspace import Building, Stage, Workspace

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZE = Stage("tokenize", 1, ("tasks.data.tokenize", "tasks.data.mapped", "tasks.data.examples", "tasks.data.completions"))
ROWS_AT_ONCE = 1000
UNLIMITED = 1_000_000
"""Tokenizers that know no limit say a number far above this."""
ROWS_WORTH_PROCESSES = 20_000
"""Below this many rows, starting processes costs a tokenizer written in Python more than they give."""


class Loaded(NamedTuple):
    """A tokenizer that is ready to use, and what was mended."""

    tokenizer: "PreTrainedTokenizerBase"
    findings: list[Finding]


@dataclass(frozen=True)
class Encoded:
    """Texts as token ids, in the same order."""

    ids: list[list[int]]
    """Special tokens included, nothing padded."""
    cut: list[int]
    """Tokens that truncation dropped, by text."""


def tokenize(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace) -> TokensRecord:
    """Token ids of every split, a `datasets` folder a split (`load_from_disk`), in the order of the examples.

    Columns: `input_ids`, `label` (position in the data set's labels) and `length` (tokens kept). There is no attention mask, since
    nothing is padded yet. For contenders that answer in text, `input_ids` are the framed row and its answer, and `label` is
    where the answer begins.

    Raises:
        BadConfig: the base has no tokenizer that can be loaded, or takes fewer tokens than `max_tokens`.
    """
    config = {"base": base.id, "revision": base.revision, "max_tokens": tuned.max_tokens, "side": tuned.truncation_side}
    config |= {"answers": "text"} if answers_in_text(tuned, dataset.labels) else {}
    build = partial(_build, tuned, dataset, base)
    return workspace.produce(TOKENIZE, [dataset.fingerprint], config, TokensRecord, build, f"tokenize {tuned.name}")


def answers_in_text(tuned: Tuned, labels: Sequence[str]) -> bool:
    """Whether a contender writes its answer, in place of giving a label's number."""
    return tuned.as_text or not labels


def load_tokenizer(path: Path) -> Loaded:
    """The tokenizer of a model folder, with a pad token.

    A missing pad token is mended by one that the model has (padding is masked, so which one does not matter): no embedding need be
    added. Only where the tokenizer has no special token at all is `[PAD]` added, and the model's embeddings must then grow.

    Raises:
        BadConfig: there is none, or it wants to run code of its own.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadConfig(f"the base in {path.name} has no tokenizer that can be loaded: {first_line}") from None
    return Loaded(tokenizer, _mend_pad_token(tokenizer))


def encode_texts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_tokens: int, side: TruncationSide) -> Encoded:
    """Token ids of texts, special tokens included, at most `max_tokens` a text; what is too long is cut on `side`."""
    if not texts:
        return Encoded([], [])
    tokenizer.truncation_side = str(side)
    plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    if not tokenizer.is_fast:
        whole = tokenizer(list(texts), **plain)["input_ids"]
        kept = tokenizer(list(texts), truncation=True, max_length=max_tokens, **plain)["input_ids"]
        return Encoded(kept, [len(every) - len(some) for every, some in zip(whole, kept, strict=True)])
    pieces = tokenizer(list(texts), truncation=True, max_length=max_tokens, return_overflowing_tokens=True, **plain)
    return _first_pieces(pieces, len(texts), tokenizer.num_special_tokens_to_add())


def _first_pieces(pieces: Any, texts: int, special: int) -> Encoded:
    """The first piece of each text is what truncation keeps; the others, less their special tokens, are what it drops."""
    ids: list[list[int]] = [[] for _ in range(texts)]
    cut = [0] * texts
    seen = [False] * texts
    for piece, text in zip(pieces["input_ids"], pieces["overflow_to_sample_mapping"], strict=True):
        if seen[text]:
            cut[text] += len(piece) - special
        else:
            ids[text], seen[text] = piece, True
    return Encoded(ids, cut)


def _mend_pad_token(tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    if tokenizer.pad_token is not None:
        return []
    there = [tokenizer.eos_token, tokenizer.sep_token, tokenizer.bos_token, tokenizer.cls_token, tokenizer.unk_token]
    token = next((token for token in there if token is not None), None)
    if token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        message = "the tokenizer has no pad token and no other special token: [PAD] was added"
    else:
        tokenizer.pad_token = token
        message = f"the tokenizer has no pad token: {token!r} pads, masked"
    logger.warning("%s", message)
    return [Finding(kind="pad_token", count=1, message=message)]


def _build(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, building: Building) -> TokensRecord:
    prepare_children()  # training comes next
    tokenizer, findings = load_tokenizer(base.path)
    _check_length(tuned, base, tokenizer)
    cache = building.folder / "cache"  # inside the product's folder, so that what a killed run leaves is never read
    counts: dict[Split, dict[str, int]] = {}
    with progress(f"tokenize {tuned.name}", sum(dataset.rows.values())) as bar:
        for split in SPLITS:
            encoded = _encode_split(split_path(dataset, split), dataset.labels, tokenizer, tuned, cache, bar)
            counts[split] = _save(encoded, building.folder / split)
    shutil.rmtree(cache)
    for split in SPLITS:
        findings.extend(_truncated(split, counts[split], tuned))
    return TokensRecord(
        base=base.id,
        revision=base.revision,
        rows={split: counts[split]["rows"] for split in SPLITS},
        tokens={split: counts[split]["tokens"] for split in SPLITS},
        rows_cut={split: counts[split]["rows_cut"] for split in SPLITS},
        tokens_cut={split: counts[split]["tokens_cut"] for split in SPLITS},
        findings=findings,
    )


def _check_length(tuned: Tuned, base: ResolvedBase, tokenizer: "PreTrainedTokenizerBase") -> None:
    limit = tokenizer.model_max_length
    if tuned.max_tokens > limit < UNLIMITED:
        raise BadConfig(f"{tuned.name}: max_tokens is {tuned.max_tokens:,}, but {base.id} takes at most {limit:,}: lower it")


def _encode_split(
    path: Path, labels: Sequence[str], tokenizer: "PreTrainedTokenizerBase", tuned: Tuned, cache: Path, bar: Bar
) -> "datasets.Dataset":
    import datasets
    import datasets.config

    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    rows = datasets.load_dataset("parquet", data_files=[_literal(path)], split="train", cache_dir=str(cache), **parquet_options())
    mapped = Mapped(rows.data.table)
    mapped.let_go()
    processes = _processes(tokenizer, len(rows))
    if answers_in_text(tuned, labels):
        encode = partial(_encode_answers, tokenizer, frame_of(tokenizer), tuned)
    else:
        encode = partial(_encode_batch, tokenizer, {label: position for position, label in enumerate(labels)}, tuned)
    made = rows.map(
        encode if processes else partial(_and_tell, encode, bar, mapped),
        batched=True,
        batch_size=ROWS_AT_ONCE,
        remove_columns=rows.column_names,
        features=_features(datasets),
        num_proc=processes,
        load_from_cache_file=False,
        cache_file_name=str(cache / f"{path.stem}.arrow"),
        new_fingerprint=path.stem,  # the workspace names products; the library need not hash the tokenizer
    )
    if processes:
        bar.advance(len(rows))
    return made


def _processes(tokenizer: "PreTrainedTokenizerBase", rows: int) -> int | None:
    """How many processes; none for tokenizers written in Rust, which use every core by themselves."""
    cores = os.cpu_count() or 1
    return cores if not tokenizer.is_fast and cores > 1 and rows >= ROWS_WORTH_PROCESSES else None


def _encode_batch(
    tokenizer: "PreTrainedTokenizerBase", positions: dict[str, int], tuned: Tuned, batch: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    encoded = encode_texts(tokenizer, [input_text(inputs) for inputs in batch["inputs"]], tuned.max_tokens, tuned.truncation_side)
    return {
        "input_ids": encoded.ids,
        "label": [positions[label] for label in batch["label"]],
        "length": [len(ids) for ids in encoded.ids],
        "cut": encoded.cut,
    }


def _encode_answers(
    tokenizer: "PreTrainedTokenizerBase", frame: Frame, tuned: Tuned, batch: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    texts = [input_text(inputs) for inputs in batch["inputs"]]
    prompts, cut = encode_prompts(tokenizer, frame, texts, tuned.max_tokens, tuned.truncation_side)
    answers = encode_completions(tokenizer, frame, batch["label"])
    ids = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    return {"input_ids": ids, "label": [*map(len, prompts)], "length": [*map(len, ids)], "cut": cut}


def _and_tell(encode: Any, bar: Bar, mapped: Mapped, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    encoded: dict[str, list[Any]] = encode(batch)
    bar.advance(len(encoded["length"]))
    mapped.was_read(len(encoded["length"]))
    return encoded


def _features(datasets: Any) -> Any:
    number = datasets.Value("int32")
    return datasets.Features(
        {"input_ids": datasets.List(number), "label": datasets.Value("int64"), "length": number, "cut": number}
    )


def _save(encoded: "datasets.Dataset", folder: Path) -> dict[str, int]:
    """Write a split as `load_from_disk` reads it, all columns but `cut`, and count. The library's own `save_to_disk` writes one row
    and with it what describes them all; the rows are written here, since it would hold all of them in memory."""
    import pyarrow
    import pyarrow.compute

    counts = {"rows": len(encoded), "tokens": 0, "rows_cut": 0, "tokens_cut": 0}
    encoded.remove_columns("cut").select(range(1)).save_to_disk(str(folder))
    [file] = folder.glob("*.arrow")
    kept = encoded.with_format("arrow")
    schema = kept.remove_columns("cut")[:1].schema
    mapped = Mapped(encoded.data.table)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(encoded), ROWS_AT_ONCE):
            some = kept[start : start + ROWS_AT_ONCE]
            writer.write_table(some.select(schema.names).cast(schema))
            counts["tokens"] += pyarrow.compute.sum(some["length"]).as_py()
            counts["rows_cut"] += pyarrow.compute.sum(pyarrow.compute.greater(some["cut"], 0)).as_py()
            counts["tokens_cut"] += pyarrow.compute.sum(some["cut"]).as_py()
            mapped.was_read(len(some))
    return counts


def _truncated(split: Split, counts: dict[str, int], tuned: Tuned) -> list[Finding]:
    if not counts["rows_cut"]:
        return []
    share = counts["tokens_cut"] / (counts["tokens"] + counts["tokens_cut"])
    message = (
        f"{split}: {counts['rows_cut']:,} of {counts['rows']:,} rows were cut on the {tuned.truncation_side} to"
        f" {tuned.max_tokens} tokens; {counts['tokens_cut']:,} tokens ({share:.1%}) were dropped"
    )
    logger.warning("%s: %s", tuned.name, message)
    return [Finding(kind="truncated", count=counts["rows_cut"], message=message)]


def _literal(path: Path) -> str:
    """A path in which nothing is a pattern."""
    import glob

    return glob.escape(str(path))
