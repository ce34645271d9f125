"""Instruction tuning, in a child process: a causal model learns to give each row's completion, and the loss is on that alone.

For generation the completion is the row's free text; for classification `as_text` it is the label's name.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from tasks.child import serve_child
from tasks.data.answers import same_text
from tasks.data.mapped import SCATTERED, Mapped
from tasks.device import Device, pick_device
from tasks.progress import progress
from tasks.records import Finding, TrainingFacts
from tasks.tuning.memory import within_memory
from tasks.tuning.train import Job, Outcome, as_before, epoch_facts, facts_of

ANSWERED_EACH_EPOCH = 64
"""Dev rows whose answers are written out after each epoch, at most, chosen by hash: writing is slow; the loss chooses the epoch."""


LOGITS = 2**28
"""Numbers that the evaluation of the loss has of the vocabulary at once, at most: 1 GiB in float32, and as much for the loss."""


def train(request: dict[str, Any]) -> dict[str, Any]:
    """A `Job` in, an `Outcome` out. Errors as of `tasks.tuning.train.train`."""
    job = Job.model_validate(request)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import numpy

    from tasks.data.tokenize import load_tokenizer
    from tasks.tuning.calibration import calibrate
    from tasks.tuning.checkpoints import room_for
    from tasks.tuning.language.causal import store
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    device = as_before(job.checkpoints.parent, pick_device())
    started = time.perf_counter()
    tokenizer, mended = load_tokenizer(job.base.path)
    trainer, findings = within_memory(
        job.tuned, job.base, device, job.checkpoints, lambda rows: _attempt(job, device, tokenizer, rows), job.rows_at_once
    )
    if trainer.pruned:
        facts = _facts(job, device, trainer, [], time.perf_counter() - started)
        return Outcome(training=facts, vocabulary=len(tokenizer), pruned=True).model_dump(mode="json")
    logits = trainer.use_best()
    with room_for(f"contender {job.tuned.name!r}", job.folder, job.checkpoints):
        store(trainer.model, job.tuned, job.base, job.folder)
        tokenizer = load_tokenizer(job.base.path).tokenizer  # as it was loaded, not as it was last used
        tokenizer.chat_template = None  # what stands around a row is in the manifest
        tokenizer.save_pretrained(job.folder / "tokenizer")
    facts = _facts(job, device, trainer, mended + findings, time.perf_counter() - started)
    if job.tuned.calibrate and logits is not None:
        facts = facts.model_copy(update={"calibration": calibrate(logits.numpy(), numpy.array(trainer.right_labels))})
    return Outcome(training=facts, samples=[], vocabulary=len(tokenizer)).model_dump(mode="json")


def _attempt(job: Job, device: Device, tokenizer: Any, micro_batch: int) -> Any:
    """Train with so many rows at once: the trainer when it is done."""
    from datasets import Dataset
    from transformers import set_seed

    from tasks.tuning.batches import part_of
    from tasks.tuning.language.causal import choose_weights, load_causal

    tuned = job.tuned
    set_seed(tuned.seed)
    quantized_on = device.name if tuned.quantized else ""
    model = load_causal(job.base.path, len(tokenizer), tokenizer.pad_token_id, tuned.attention_dropout, quantized_on)
    model = choose_weights(model, tuned, job.base)
    model = model if quantized_on else model.to(device.name)
    train, dev = (Dataset.load_from_disk(str(job.tokens / split)) for split in ("train", "dev"))
    if job.share < 1:
        train = part_of(train, job.share, groups_of(train, by_answer=bool(job.labels)))
    trainer = _trainer(job, model, train, dev, tokenizer, device, micro_batch)
    trainer.gives_up = job.trial.gives_up if job.trial else None
    trainer.run(f"train {tuned.name}", job.save_every_s)
    return trainer


def groups_of(train: Any, by_answer: bool) -> list[tuple[int, ...]]:
    """Of which as large a part each teaches: the labels' names where there are labels; free text is one group."""
    if not by_answer:
        return [()] * len(train)
    return [tuple(ids[start:]) for ids, start in zip(train["input_ids"], train["label"], strict=True)]


def _trainer(job: Job, model: Any, train: Any, dev: Any, tokenizer: Any, device: Device, micro_batch: int) -> Any:
    import math

    from transformers import TrainingArguments

    from tasks.data.completions import encode_completions, frame_of
    from tasks.tuning.batches import LikeLengths, some_of
    from tasks.tuning.language.causal import label_logits, write_answers
    from tasks.tuning.whole import Left, WholeTrainer, common, diverged, heeding, on_one_device

    tuned, frame = job.tuned, frame_of(tokenizer)
    labels = encode_completions(tokenizer, frame, job.labels)
    answered = dev if labels else some_of(dev, ANSWERED_EACH_EPOCH)
    prompts = [ids[:start] for ids, start in zip(answered["input_ids"], answered["label"], strict=True)]
    right = [ids[start:] for ids, start in zip(answered["input_ids"], answered["label"], strict=True)]

    class CompletionTrainer(WholeTrainer):
        dev_rows = len(answered)
        right_labels = [labels.index(list(ids)) for ids in right] if labels else []

        def _get_train_sampler(self, train_dataset: Any = None) -> LikeLengths:
            mapped = Mapped(self.train_dataset.data.table, SCATTERED)
            self.order = LikeLengths(self.train_dataset["length"][:], tuned.batch_size, tuned.seed, mapped)
            return self.order

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            seconds, started = self.trained_s(), time.perf_counter()
            try:
                with progress(f"dev {tuned.name}", len(dev) + len(answered)) as bar:
                    told = heeding(bar)
                    loss = _mean_loss(self.model, dev, tokenizer.pad_token_id, device, told)
                    accuracy = self._accuracy(told)
            except Left:
                raise self.leave_evaluation() from None
            if not math.isfinite(loss):
                raise diverged("dev loss", loss, self.state.global_step, tuned, self.folder)
            self.evaluated_s += time.perf_counter() - started
            metrics = {"eval_loss": loss, "eval_accuracy": accuracy}
            self.log(metrics | {"trained_s": seconds})
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _accuracy(self, told: Callable[[int], None]) -> float:
            if labels:
                self.dev_logits = label_logits(self.model, prompts, labels, tokenizer.pad_token_id, told)
                named = self.dev_logits.argmax(-1).tolist()
                return sum(a == b for a, b in zip(named, self.right_labels, strict=True)) / len(answered)
            said = write_answers(self.model, prompts, frame.end, tokenizer.pad_token_id, tuned.max_answer_tokens, told)
            texts = [tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (said, right)]
            return sum(same_text(a, b) for a, b in zip(*texts, strict=True)) / len(answered)

    steps = -(-len(train) // tuned.batch_size)
    given = TrainingArguments(
        **common(tuned, device, job.checkpoints, job.report_to),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=tuned.batch_size // micro_batch,
        learning_rate=tuned.learning_rate,
        num_train_epochs=tuned.epochs,
        weight_decay=tuned.weight_decay,
        max_grad_norm=tuned.gradient_clipping,
        warmup_steps=tuned.warmup if tuned.warmup < 1 else steps * tuned.epochs,
        logging_steps=max(1, min(25, steps // 4)),
        eval_strategy="epoch",
        metric_for_best_model="loss",
        greater_is_better=False,
    )
    trainer = CompletionTrainer(
        model=model, args=on_one_device(given), train_dataset=train, eval_dataset=dev, data_collator=collate(tokenizer.pad_token_id)
    )
    trainer.set_up(tuned, device)
    return trainer


def collate(pad_id: int) -> Any:
    """Makes a batch of rows with `input_ids` and `label` (how many of them are the prompt's, which bear no loss)."""

    def batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
        from tasks.tuning.batches import pad

        made = pad([row["input_ids"] for row in rows], pad_id)
        labels = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
        for index, row in enumerate(rows):
            labels[index, : row["label"]] = -100
        return made | {"labels": labels}

    return batch


def _mean_loss(model: Any, rows: Any, pad_id: int, device: Device, told: Callable[[int], None]) -> float:
    """A completion token's loss on rows."""
    import torch

    from tasks.tuning.batches import TOKENS_A_BATCH, by_tokens

    model.eval()
    make, total, tokens = collate(pad_id), 0.0, 0
    with torch.inference_mode(), torch.autocast(device.name, torch.bfloat16, enabled=device.dtype == "bfloat16"):
        for batch in by_tokens(rows["length"][:], min(TOKENS_A_BATCH[device.name], LOGITS // model.config.vocab_size)):
            given = {name: tensor.to(model.device) for name, tensor in make([rows[row] for row in batch]).items()}
            count = int((given["labels"][:, 1:] != -100).sum())
            total += float(model(**given).loss) * count
            tokens += count
            told(len(batch))
    return total / max(tokens, 1)


def _facts(job: Job, device: Device, trainer: Any, findings: list[Finding], seconds: float) -> TrainingFacts:
    epochs = epoch_facts(trainer.state.log_history)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    epochs = [epoch | {"dev_loss": round(loss, 5)} for epoch, loss in zip(epochs, losses, strict=True)]
    best = min(epochs, key=lambda epoch: (epoch["dev_loss"], epoch["epoch"]))
    return facts_of(job, device, trainer, epochs, best, trainer.dev_rows, findings, seconds)


if __name__ == "__main__":
    serve_child(train, graceful=True)
