"""transformers' Trainer, with our order of rows, loss, evaluation and checkpoints.

Only the child process that trains imports this module: it loads torch and transformers.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from tasks.config import Tuned
from tasks.data.mapped import SCATTERED, Mapped
from tasks.device import Device
from tasks.progress import progress
from tasks.tuning import together
from tasks.tuning.batches import LikeLengths, collate, even, logits_of
from tasks.tuning.cores import Batch, can_train, cores, pays
from tasks.tuning.objectives import label_weights, supervised
from tasks.tuning.whole import Left, WholeTrainer, common, diverged, heeding, on_one_device


def arguments(
    tuned: Tuned, device: Device, micro_batch: int, rows: int, folder: Path, report_to: list[str] | None = None
) -> TrainingArguments:
    """The Trainer's arguments: the config's recipe, `micro_batch` rows at once on each device, and reports to trackers alone."""
    steps = math.ceil(rows / tuned.batch_size)
    given = TrainingArguments(
        **common(tuned, device, folder, report_to or []),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=tuned.batch_size // (micro_batch * together.size()),
        learning_rate=tuned.learning_rate,
        num_train_epochs=tuned.epochs,
        weight_decay=tuned.weight_decay,
        max_grad_norm=tuned.gradient_clipping,
        warmup_steps=tuned.warmup if tuned.warmup < 1 else steps * tuned.epochs,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_steps=max(1, min(25, steps // 4)),
    )
    return on_one_device(given)


class LabelTrainer(WholeTrainer):
    """Trains a classifier on token ids, and selects on dev by accuracy.

    Args:
        train, dev: columns `input_ids`, `label`, `length`.
        pad_id: fills up the shorter rows of a batch.
    """

    def __init__(
        self, model: Any, tuned: Tuned, device: Device, train: Dataset, dev: Dataset, pad_id: int, given: TrainingArguments
    ) -> None:
        self.lengths = train["length"][:]
        width = partial(even, most=max(self.lengths, default=0), device=device.name, dtype=device.dtype)
        super().__init__(
            model=model,
            args=given,
            train_dataset=together.Filled(train) if together.size() > 1 else train,
            eval_dataset=dev,
            data_collator=collate(pad_id, width),
            compute_loss_func=partial(
                supervised,
                smoothing=tuned.label_smoothing,
                weights=label_weights(tuned.class_weights, train["label"][:], model.config.num_labels),
            ),
        )
        self.set_up(tuned, device)
        self.model_accepts_loss_kwargs = False  # the loss is ours; the model need not hear how many rows there are
        self.apart = together.size() == 1 and can_train(model, device.threads)  # several processes meet in the gradients
        self.pad_id = pad_id
        self.mapped = Mapped(train.data.table, SCATTERED)
        self.exact_again: Callable[[], None] | None = None  # puts frozen weights back that were rounded for the training

    def use_best(self) -> torch.Tensor | None:
        """As of `Whole`, with all weights float32."""
        if self.exact_again:
            self.exact_again()
        return super().use_best()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LikeLengths | together.Evened:
        self.order = LikeLengths(self.lengths, self.tuned.batch_size, self.tuned.seed, self.mapped)
        return together.Evened(self.order, self.args.per_device_train_batch_size) if together.size() > 1 else self.order

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Gradients of some rows, by as many threads as pay; the loss, detached."""
        rows, tokens = len(inputs["labels"]), inputs["input_ids"].numel()
        if not (self.apart and pays(model, rows, tokens, self.on.threads)):
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()

        def loss_of(part: Batch) -> Any:
            with torch.autocast(self.on.name, torch.bfloat16, enabled=self.on.dtype == "bfloat16", cache_enabled=False):
                return self.compute_loss(model, dict(part), num_items_in_batch=num_items_in_batch)

        return cores(self.on.threads).gradients(inputs, loss_of, [weight for weight in model.parameters() if weight.requires_grad])

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Accuracy and loss on dev, in large batches of like length.

        Raises:
            ChildDied: it was told to stop; there is a checkpoint that owes this evaluation.
        """
        seconds, started = self.trained_s(), time.perf_counter()
        dev = self.eval_dataset
        logits = self._logits_on(dev)
        if together.agree(logits is None)[0]:
            raise self.leave_evaluation()
        self.dev_logits = logits = together.gathered(logits, len(dev))
        labels = torch.tensor(dev["label"][:])
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        if not math.isfinite(loss):
            raise diverged("dev loss", loss, self.state.global_step, self.tuned, self.folder)
        self.evaluated_s += time.perf_counter() - started
        metrics = {"eval_accuracy": (logits.argmax(-1) == labels).float().mean().item(), "eval_loss": loss}
        self.log(metrics | {"trained_s": seconds})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _logits_on(self, dev: Dataset) -> Any:
        """Of this process's share of dev: float32 [share, labels]; None when it is told to stop."""
        share, lengths = together.share(len(dev)), dev["length"][:]

        def fetch(rows: list[int]) -> Any:
            return dev[[share[row] for row in rows]]["input_ids"]

        with progress(f"dev {self.tuned.name}", len(share)) as bar:
            try:
                return logits_of(
                    self.model, fetch, [lengths[row] for row in share], self.pad_id, self.on.dtype, heeding(bar), self.on.threads
                )
            except Left:
                return None
