"""transformers' Trainer, with our order of rows, loss, evaluation and checkpoints.

Only the child process that trains imports this module: it loads torch and transformers.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from tasks.child import told_to_stop
from tasks.config import Tuned
from tasks.data.mapped import SCATTERED, Mapped
from tasks.device import Device
from tasks.errors import ChildDied, TrainingError
from tasks.progress import Bar, progress
from tasks.tuning import checkpoints, together
from tasks.tuning.batches import LikeLengths, collate, even, logits_of
from tasks.tuning.cores import Batch, can_train, cores, pays
from tasks.tuning.methods import set_weights, trained_weights
from tasks.tuning.objectives import label_weights, supervised

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
STATE = "trainer_state.json"
DEV_LOGITS = "dev.safetensors"


def arguments(
    tuned: Tuned, device: Device, micro_batch: int, rows: int, folder: Path, report_to: list[str] | None = None
) -> TrainingArguments:
    """The Trainer's arguments: the config's recipe, `micro_batch` rows at once on each device, and reports to trackers alone."""
    steps = math.ceil(rows / tuned.batch_size)
    given = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=tuned.batch_size // (micro_batch * together.size()),
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
        report_to=report_to or [],
        run_name=tuned.name,
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
        self.remove_callback(PrinterCallback)  # `Watch` tells progress
        self.model_accepts_loss_kwargs = False  # the loss is ours; the model need not hear how many rows there are
        self.apart = together.size() == 1 and can_train(model, device.threads)  # several processes meet in the gradients
        self.tuned, self.on, self.pad_id = tuned, device, pad_id
        self.folder = Path(given.output_dir)
        self.began = time.perf_counter()
        self.evaluated_s = 0.0
        self.seconds_before = 0.0
        self.dev_logits: torch.Tensor | None = None  # of the newest evaluation
        self.mapped = Mapped(train.data.table, SCATTERED)
        self.owes_evaluation = False
        self.gives_up: Callable[[Sequence[float]], bool] | None = None  # asked after each evaluation, of all accuracies so far
        self.pruned = False
        self.exact_again: Callable[[], None] | None = None  # puts frozen weights back that were rounded for the training

    def trained_s(self) -> float:
        """Seconds spent on training steps, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.began - self.evaluated_s

    def resume(self) -> None:
        """Train, from the newest whole checkpoint where there is one."""
        found = together.of_first(lambda: checkpoints.newest(self.folder))
        self.seconds_before = found.facts["seconds"] if found else 0.0
        self.began = time.perf_counter()
        if found:
            logger.info("training goes on from its checkpoint at step %d", found.step)
        if found and found.facts.get("owes_evaluation"):
            self._evaluate_late(found)
        if found:
            state = TrainerState.load_from_json(str(found.folder / STATE))
            if self.is_over(state.log_history):
                self.state = state  # it was killed after its last checkpoint
                return
        self.train(resume_from_checkpoint=str(found.folder) if found else None)

    def is_over(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether training ends before its last epoch: dev gets no better, or the trial is given up."""
        accuracies = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
        unfinished = 0 < len(accuracies) < self.tuned.epochs
        self.pruned = bool(unfinished and self.gives_up and self.gives_up(accuracies))
        return self.pruned or out_of_patience(accuracies, self.tuned.early_stopping)

    def use_best(self) -> torch.Tensor:
        """Put the weights in place that were best on dev, all float32, and return what they said of it: logits [rows, labels]."""
        if self.exact_again:
            self.exact_again()
        best = checkpoints.folder_of(self.folder, self.state.best_global_step)
        set_weights(self.model, load_file(best / WEIGHTS), str(best / WEIGHTS))
        return load_file(best / DEV_LOGITS)["logits"]

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

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        return torch.autocast(self.on.name, torch.bfloat16, enabled=self.on.dtype == "bfloat16")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Accuracy and loss on dev, in large batches of like length.

        Raises:
            ChildDied: it was told to stop; there is a checkpoint that owes this evaluation.
        """
        seconds, started = self.trained_s(), time.perf_counter()
        dev = self.eval_dataset
        logits = self._logits_on(dev)
        if together.agree(logits is None)[0]:
            if not self.owes_evaluation:
                self.owes_evaluation = True
                self._save_checkpoint(self.model, None)
            raise stopped(self.state.global_step, self.tuned, self.folder)
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

    def _evaluate_late(self, found: checkpoints.Checkpoint) -> None:
        """The evaluation that a checkpoint at an epoch's end still owes; all else in it stays as it is."""

        def write(folder: Path) -> None:
            shutil.copytree(found.folder, folder, ignore=shutil.ignore_patterns(checkpoints.COMPLETE), dirs_exist_ok=True)
            self.state.save_to_json(str(folder / STATE))
            save_file({"logits": self.dev_logits}, folder / DEV_LOGITS)

        self.owes_evaluation = True
        self._load_from_checkpoint(str(found.folder))
        self.state = TrainerState.load_from_json(str(found.folder / STATE))
        self._determine_best_metric(self.evaluate(), None)
        self.owes_evaluation = False
        step, best = found.step, self.state.best_global_step
        if together.is_first():
            facts = {"best_step": best, "seconds": self.trained_s(), "owes_evaluation": False}
            checkpoints.save(self.folder, step, facts, write)
            checkpoints.prune(self.folder, {step, best or step})
        together.wait()

    def _logits_on(self, dev: Dataset) -> Any:
        """Of this process's share of dev: float32 [share, labels]; None when it is told to stop."""
        share, lengths = together.share(len(dev)), dev["length"][:]

        def told(rows: int) -> None:
            bar.advance(rows)
            if told_to_stop.is_set():
                raise _Told

        def fetch(rows: list[int]) -> Any:
            return dev[[share[row] for row in rows]]["input_ids"]

        with progress(f"dev {self.tuned.name}", len(share)) as bar:
            try:
                return logits_of(
                    self.model, fetch, [lengths[row] for row in share], self.pad_id, self.on.dtype, told, self.on.threads
                )
            except _Told:
                return None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """By the first process; each adds the state of its own random numbers."""

        def write(folder: Path) -> None:
            save_file(trained_weights(self.model), folder / WEIGHTS)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self.state.save_to_json(str(folder / STATE))
            if self.dev_logits is not None:
                save_file({"logits": self.dev_logits}, folder / DEV_LOGITS)
            together.wait()
            self._save_rng_state(str(folder))
            together.wait()

        step, best = self.state.global_step, self.state.best_global_step
        facts = {"best_step": best, "seconds": self.trained_s(), "owes_evaluation": self.owes_evaluation}
        if together.is_first():
            checkpoints.save(self.folder, step, facts, write)
            checkpoints.prune(self.folder, {step, best or step})
        else:
            together.wait()
            self._save_rng_state(str(checkpoints.aside_of(self.folder, step)))
            together.wait()
        together.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        where = Path(resume_from_checkpoint) / WEIGHTS
        set_weights(self.model, load_file(where), str(where))


class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Tells progress, stops what diverges, and asks for checkpoints within long epochs."""

    def __init__(self, trainer: LabelTrainer, bar: Bar, save_every_s: float) -> None:
        self.trainer, self.bar, self.save_every_s = trainer, bar, save_every_s
        self.saved = self.began = time.monotonic()
        self.stop = False
        self.first_step, self.first_s = 0, 0.0
        self.accuracy = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step, self.first_s, self.began = state.global_step, self.trainer.trained_s(), time.monotonic()
        self.bar.move(state.global_step, "resumed" if state.global_step else "")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = self._steps_an_epoch(args, state)
        self.trainer.order.set_epoch(state.global_step // steps)  # a resumed epoch's loader would not, in one of several processes

    def _steps_an_epoch(self, args: Any, state: Any) -> int:
        return int(state.max_steps // round(args.num_train_epochs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, state.max_steps // 200) == 0:
            self.bar.move(state.global_step)
        due, self.stop = together.agree(time.monotonic() - self.saved >= self.save_every_s, told_to_stop.is_set())
        ends_epoch = state.global_step % self._steps_an_epoch(args, state) == 0  # saved once it is evaluated
        if (due or self.stop) and not ends_epoch:
            control.should_log = control.should_save = True  # logged first, so that nothing diverged is saved

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any) -> None:
        self.accuracy = f", dev accuracy {metrics['eval_accuracy']:.3f}" if metrics else ""
        if self.trainer.is_over(state.log_history):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        if self.stop:
            raise stopped(state.global_step, self.trainer.tuned, self.trainer.folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise diverged(name, value, state.global_step, self.trainer.tuned, self.trainer.folder)
        if logs and "loss" in logs:
            steps = state.global_step - self.first_step
            rate = steps * self.trainer.tuned.batch_size / max(self.trainer.trained_s() - self.first_s, 1e-9)
            left = (time.monotonic() - self.began) / max(steps, 1) * (state.max_steps - state.global_step)  # evaluations included
            note = f"loss {logs['loss']:.3f}{self.accuracy}, {rate:.1f} rows/s, {_duration(left)} left"
            self.bar.move(state.global_step, note)


def out_of_patience(accuracies: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` evaluations on dev brought no better accuracy; a patience of 0 never ends."""
    return bool(patience and accuracies) and len(accuracies) - 1 - accuracies.index(max(accuracies)) >= patience


def diverged(name: str, value: float, step: int, tuned: Tuned, folder: Path) -> TrainingError:
    """The error for a loss or gradient that is no number any more, saying what was kept."""
    kept = checkpoints.newest(folder)
    good = f"the checkpoint of step {kept.step} is kept in {kept.folder}" if kept else "no checkpoint had been written yet"
    return TrainingError(
        f"training {tuned.name!r} stopped at step {step}: {name} is {value}; {good}. "
        f"Lower learning_rate ({tuned.learning_rate}) or alpha ({tuned.alpha}), and run again"
    )


def stopped(step: int, tuned: Tuned, folder: Path) -> ChildDied:
    """The error of a training that was told to stop and has written down where it is."""
    where = checkpoints.folder_of(folder, step)
    return ChildDied(f"training {tuned.name!r} was told to stop at step {step}; its checkpoint is in {where}: run again to go on")


def _duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class _Told(Exception):
    """Ends an evaluation early."""
