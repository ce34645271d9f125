"""transformers' Trainer, with our order of rows, loss, evaluation and checkpoints.

Only the child process that trains imports this module: it loads torch and transformers.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from tasks.config import Tuned
from tasks.device import Device
from tasks.errors import TrainingError
from tasks.progress import Bar, progress
from tasks.tuning import checkpoints
from tasks.tuning.batches import LikeLengths, collate, logits_of
from tasks.tuning.methods import set_weights, trained_weights
from tasks.tuning.objectives import label_weights, supervised

WEIGHTS = "weights.safetensors"
STATE = "trainer_state.json"
DEV_LOGITS = "dev.safetensors"


def arguments(tuned: Tuned, device: Device, micro_batch: int, rows: int, folder: Path) -> TrainingArguments:
    """The Trainer's arguments: the config's recipe, `micro_batch` rows at once on the device, no network, no reports."""
    steps = math.ceil(rows / tuned.batch_size)
    given = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=tuned.batch_size // micro_batch,
        learning_rate=tuned.learning_rate,
        num_train_epochs=tuned.epochs,
        weight_decay=tuned.weight_decay,
        max_grad_norm=tuned.gradient_clipping,
        warmup_steps=tuned.warmup if tuned.warmup < 1 else steps * tuned.epochs,
        lr_scheduler_type="linear",
        seed=tuned.seed,
        data_seed=tuned.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=max(1, min(25, steps // 4)),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=device.name == "cuda",
        use_cpu=device.name == "cpu",
        report_to=[],
        disable_tqdm=True,
        push_to_hub=False,
    )
    given._n_gpu = min(given.n_gpu, 1)  # several GPUs in one process would silently mean DataParallel and a larger batch
    return given


class LabelTrainer(Trainer):
    """Trains a classifier on token ids, and selects on dev by accuracy.

    Args:
        train, dev: columns `input_ids`, `label`, `length`.
        pad_id: fills up the shorter rows of a batch.
    """

    control: Any

    def __init__(
        self, model: Any, tuned: Tuned, device: Device, train: Dataset, dev: Dataset, pad_id: int, given: TrainingArguments
    ) -> None:
        super().__init__(
            model=model,
            args=given,
            train_dataset=train,
            eval_dataset=dev,
            data_collator=collate(pad_id),
            compute_loss_func=partial(
                supervised,
                smoothing=tuned.label_smoothing,
                weights=label_weights(tuned.class_weights, train["label"][:], model.config.num_labels),
            ),
        )
        self.remove_callback(PrinterCallback)  # `Watch` tells progress
        self.model_accepts_loss_kwargs = False  # the loss is ours; the model need not hear how many rows there are
        self.tuned, self.on, self.pad_id = tuned, device, pad_id
        self.folder = Path(given.output_dir)
        self.began = time.perf_counter()
        self.evaluated_s = 0.0
        self.seconds_before = 0.0
        self.dev_logits: torch.Tensor | None = None  # of the newest evaluation

    def trained_s(self) -> float:
        """Seconds spent on training steps, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.began - self.evaluated_s

    def resume(self) -> None:
        """Train, from the newest whole checkpoint where there is one."""
        found = checkpoints.newest(self.folder)
        self.seconds_before = found.facts["seconds"] if found else 0.0
        self.began = time.perf_counter()
        if found:
            state = TrainerState.load_from_json(str(found.folder / STATE))
            if out_of_patience(state.log_history, self.tuned.early_stopping):
                self.state = state  # it was killed after its last checkpoint
                return
        self.train(resume_from_checkpoint=str(found.folder) if found else None)

    def use_best(self) -> torch.Tensor:
        """Put the weights in place that were best on dev, and return what they said of it: logits [rows, labels]."""
        best = checkpoints.folder_of(self.folder, self.state.best_global_step)
        set_weights(self.model, load_file(best / WEIGHTS), str(best / WEIGHTS))
        return load_file(best / DEV_LOGITS)["logits"]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LikeLengths:
        return LikeLengths(self.train_dataset["length"][:], self.tuned.batch_size, self.tuned.seed)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        return torch.autocast(self.on.name, torch.bfloat16, enabled=self.on.dtype == "bfloat16")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Accuracy and loss on dev, in large batches of like length."""
        seconds, started = self.trained_s(), time.perf_counter()
        dev = self.eval_dataset
        with progress(f"dev {self.tuned.name}", len(dev)) as bar:
            logits = logits_of(
                self.model, lambda rows: dev[rows]["input_ids"], dev["length"][:], self.pad_id, self.on.dtype, bar.advance
            )
        self.dev_logits, labels = logits, torch.tensor(dev["label"][:])
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        if not math.isfinite(loss):
            raise diverged("dev loss", loss, self.state.global_step, self.tuned, self.folder)
        self.evaluated_s += time.perf_counter() - started
        metrics = {"eval_accuracy": (logits.argmax(-1) == labels).float().mean().item(), "eval_loss": loss}
        self.log(metrics | {"trained_s": seconds})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        def write(folder: Path) -> None:
            save_file(trained_weights(self.model), folder / WEIGHTS)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / STATE))
            if self.dev_logits is not None:
                save_file({"logits": self.dev_logits}, folder / DEV_LOGITS)

        step, best = self.state.global_step, self.state.best_global_step
        checkpoints.save(self.folder, step, {"best_step": best, "seconds": self.trained_s()}, write)
        checkpoints.prune(self.folder, {step, best or step})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        where = Path(resume_from_checkpoint) / WEIGHTS
        set_weights(self.model, load_file(where), str(where))


class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Tells progress, stops what diverges, and asks for checkpoints within long epochs."""

    def __init__(self, trainer: LabelTrainer, bar: Bar, save_every_s: float) -> None:
        self.trainer, self.bar, self.save_every_s = trainer, bar, save_every_s
        self.saved = time.monotonic()
        self.first_step, self.first_s = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step, self.first_s = state.global_step, self.trainer.trained_s()
        self.bar.move(state.global_step, "resumed" if state.global_step else "")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, state.max_steps // 200) == 0:
            self.bar.move(state.global_step)
        if time.monotonic() - self.saved >= self.save_every_s:
            control.should_log = control.should_save = True  # logged first, so that nothing diverged is saved

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if out_of_patience(state.log_history, self.trainer.tuned.early_stopping):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise diverged(name, value, state.global_step, self.trainer.tuned, self.trainer.folder)
        if logs and "loss" in logs:
            rows = (state.global_step - self.first_step) * self.trainer.tuned.batch_size
            rate = rows / max(self.trainer.trained_s() - self.first_s, 1e-9)
            self.bar.move(state.global_step, f"loss {logs['loss']:.3f}, {rate:.1f} rows/s")


def out_of_patience(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last `patience` evaluations in a Trainer's log brought no better accuracy; a patience of 0 never ends."""
    found = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
    return bool(patience and found) and len(found) - 1 - found.index(max(found)) >= patience


def diverged(name: str, value: float, step: int, tuned: Tuned, folder: Path) -> TrainingError:
    """The error for a loss or gradient that is no number any more, saying what was kept."""
    kept = checkpoints.newest(folder)
    good = f"the checkpoint of step {kept.step} is kept in {kept.folder}" if kept else "no checkpoint had been written yet"
    return TrainingError(
        f"training {tuned.name!r} stopped at step {step}: {name} is {value}; {good}. "
        f"Lower learning_rate ({tuned.learning_rate}) or alpha ({tuned.alpha}), and run again"
    )
