"""Further pre-training on unlabelled text before the supervised step: masked for encoders, causal for decoders.

It is a product of its own, which contenders that share base, text and recipe share: a model folder of the base's kind, all of whose
weights trained. A contender that stands on it carries it along in `adapted/`, so that S3's bytes are enough to predict again.

An encoder rarely brings the head that guesses masked tokens. Then its decoder is tied to the base's embeddings and the transform
before it is new: the first steps teach that, and the loss before training says little. A finding says so.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.bases import ResolvedBase
from tasks.child import run_child, serve_child
from tasks.config import Tuned
from tasks.data.examples import split_path
from tasks.records import DatasetRecord, Finding, Record
from tasks.settings import Settings
from tasks.tuning.language.corpus import FILE, find_corpus, write_texts
from tasks.workspace import Building, Stage, Workspace, digest

ADAPT = Stage(
    "adapt",
    2,
    (
        "tasks.tuning.language.adapt",
        "tasks.tuning.language.corpus",
        "tasks.tuning.whole",
        "tasks.tuning.memory",
        "tasks.tuning.checkpoints",
    ),
)
MODEL = "model"
RECIPE = {"corpus_column", "corpus_rows", "corpus_epochs", "corpus_learning_rate", "masked"}
SHARED = {"batch_size", "weight_decay", "warmup", "gradient_clipping", "max_tokens", "truncation_side", "seed"}


class AdaptedRecord(Record):
    """`model/`: the base after further pre-training, with its tokenizer."""

    kind: str
    """`masked` or `causal`."""
    texts: int
    loss_before: float
    """On the dev rows' text, a token (for encoders: a masked one)."""
    loss_after: float
    seconds: float
    peak_memory_bytes: int = 0
    findings: list[Finding] = []


class Job(BaseModel):
    """What the child is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tuned: Tuned
    base: ResolvedBase
    texts: Path
    dev: Path
    folder: Path
    checkpoints: Path
    save_every_s: float = 60.0
    """A checkpoint at least this often within an epoch."""


def adapt(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, settings: Settings, workspace: Workspace) -> AdaptedRecord:
    """The base after further pre-training, in a child process, or found. A killed one goes on from its newest whole checkpoint.

    Raises:
        BadConfig, BadData, OutsideRoots: the text cannot be had, or the base neither guesses masked tokens nor continues text.
    """
    corpus = find_corpus(tuned, dataset, settings)

    def build(building: Building) -> AdaptedRecord:
        texts = building.inprogress / FILE
        count, findings = write_texts(tuned, corpus, dataset, building.inprogress)
        request = {
            "tuned": tuned.model_dump(mode="json"),
            "base": {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256},
            "texts": str(texts),
            "dev": str(split_path(dataset, "dev")),
            "folder": str(building.folder / MODEL),
            "checkpoints": str(building.inprogress / "checkpoints"),
        }
        made = AdaptedRecord.model_validate(run_child("tasks.tuning.language.adapt", request) | {"texts": count})
        return made.model_copy(update={"findings": [*findings, *made.findings]})

    inputs = [dataset.fingerprint, corpus.identity, base.id, base.revision, base.config_sha256]
    recipe = tuned.model_dump(mode="json", include=RECIPE | SHARED)
    return workspace.produce(ADAPT, inputs, recipe, AdaptedRecord, build, f"adapt {tuned.name}")


def adapted_base(made: AdaptedRecord, base: ResolvedBase) -> ResolvedBase:
    """The base as the supervised step is to find it; it keeps the name of what it came from."""
    return ResolvedBase(base.id, base.revision, made.folder / MODEL, base.config_sha256)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The child's part: a `Job` in, an `AdaptedRecord` without `texts` out."""
    import os

    job = Job.model_validate(request)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from transformers import set_seed

    from tasks.data.tokenize import load_tokenizer
    from tasks.device import pick_device
    from tasks.tuning.checkpoints import room_for
    from tasks.tuning.memory import peak_memory, within_memory
    from tasks.tuning.quiet import quiet_libraries
    from tasks.tuning.train import as_before

    quiet_libraries()
    device = as_before(job.checkpoints.parent, pick_device())
    tokenizer = load_tokenizer(job.base.path).tokenizer

    def attempt(rows: int) -> tuple[Any, str, float, float, list[Finding]]:
        set_seed(job.tuned.seed)
        model, kind, new = load_for_text(job.base, tokenizer)
        trainer = _trainer(job, model.to(device.name), kind, tokenizer, device, rows)
        before = _dev_loss(trainer)
        trainer.run(f"adapt {job.tuned.name}", job.save_every_s)
        return trainer, kind, before, _dev_loss(trainer), new

    (trainer, kind, before, after, new), findings = within_memory(job.tuned, job.base, device, job.checkpoints, attempt)
    with room_for(f"the adapted base of {job.tuned.name!r}", job.folder, job.checkpoints):
        _store(job, trainer.model, kind)
        load_tokenizer(job.base.path).tokenizer.save_pretrained(job.folder)
    made = AdaptedRecord(
        kind=kind,
        texts=0,
        loss_before=before,
        loss_after=after,
        seconds=round(trainer.trained_s(), 3),
        peak_memory_bytes=peak_memory(device),
        findings=[*new, *findings],
    )
    return made.model_dump(mode="json")


def load_for_text(base: ResolvedBase, tokenizer: Any) -> tuple[Any, str, list[Finding]]:
    """A base with the head that its further pre-training needs, in float32; `masked` or `causal`; and what was new in it.

    Raises:
        BadConfig: it is neither an encoder with a mask token nor a decoder.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    from tasks.errors import BadConfig

    config = AutoConfig.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and tokenizer.mask_token is not None
    if not masked and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BadConfig(f"base {base.id!r} neither guesses masked tokens nor continues text: choose another for self_supervised")
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model, report = auto.from_pretrained(
        base.path,
        dtype="float32",
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    new = sorted(set(report["missing_keys"]))
    message = f"the base brings no head for its own text: {len(new)} of its weights are new ({', '.join(new[:3])}, …)"
    findings = [Finding(kind="new_head", count=len(new), message=message)] if new else []
    return model, "masked" if masked else "causal", findings


def _trainer(job: Job, model: Any, kind: str, tokenizer: Any, device: Any, micro_batch: int) -> Any:
    from datasets import load_dataset
    from transformers import DataCollatorForLanguageModeling, TrainingArguments

    from tasks.data.examples import input_text
    from tasks.data.tokenize import encode_texts
    from tasks.tuning.batches import LikeLengths
    from tasks.tuning.whole import WholeTrainer, common, heed, on_one_device

    tuned = job.tuned

    def read(path: Path) -> Any:
        rows = load_dataset("parquet", data_files=[str(path)], split="train", cache_dir=str(job.checkpoints.parent / "cache"))
        return rows.map(encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False, keep_in_memory=True)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        heed()
        texts = batch["text"] if "text" in batch else [input_text(inputs) for inputs in batch["inputs"]]
        ids = encode_texts(tokenizer, texts, tuned.max_tokens, tuned.truncation_side).ids
        return {"input_ids": ids, "length": [*map(len, ids)], "learned": ["text" in batch] * len(ids)}

    class AdaptTrainer(WholeTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> LikeLengths:
            self.order = LikeLengths(self.train_dataset["length"][:], tuned.batch_size, tuned.seed)
            return self.order

    train, dev = read(job.texts), read(job.dev)
    given = TrainingArguments(
        **common(tuned, device, job.checkpoints),
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=tuned.batch_size // micro_batch,
        max_grad_norm=tuned.gradient_clipping,
        learning_rate=tuned.corpus_learning_rate,
        num_train_epochs=tuned.corpus_epochs,
        weight_decay=tuned.weight_decay,
        warmup_steps=min(tuned.warmup, 0.999),
        logging_steps=10,
        eval_strategy="no",
    )
    trainer = AdaptTrainer(
        model=model,
        args=on_one_device(given),
        train_dataset=train,
        eval_dataset=dev,
    )
    trainer.set_up(tuned, device)
    hide = DataCollatorForLanguageModeling(tokenizer, mlm=kind == "masked", mlm_probability=tuned.masked, seed=tuned.seed)
    trainer.data_collator = _collator(hide, tuned.seed, lambda: trainer.order.epoch)
    return trainer


def _collator(inner: Any, seed: int, epoch: Callable[[], int]) -> Any:
    """Batches whose masks follow from their texts, the epoch and the seed. A loader makes a batch before the step ahead of it is
    done, so that with the run's own chance one that goes on would have other masks."""
    import torch

    def batch(rows: list[dict[str, Any]]) -> Any:
        ids = [list(row["input_ids"]) for row in rows]
        drawn = int(digest([seed, epoch() if rows[0]["learned"] else None, ids])[:15], 16)
        inner.generator = torch.Generator().manual_seed(drawn)
        return inner([{"input_ids": each} for each in ids])

    return batch


def _dev_loss(trainer: Any) -> float:
    """A token's loss on the dev rows' text; the same tokens are masked each time."""
    return float(trainer.evaluate()["eval_loss"])


def _store(job: Job, model: Any, kind: str) -> None:
    """The base's own kind of model with the trained weights: an encoder's guessing head is left behind, and parts that only a bare
    encoder has (a pooler) come from the base."""
    from transformers import AutoModel

    shutil.rmtree(job.folder, ignore_errors=True)
    if kind == "causal":
        model.save_pretrained(job.folder)
        return
    encoder = AutoModel.from_pretrained(
        job.base.path, dtype="float32", use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    encoder.load_state_dict(getattr(model, model.base_model_prefix).state_dict(), strict=False)
    encoder.save_pretrained(job.folder)


if __name__ == "__main__":
    serve_child(run, graceful=True)
