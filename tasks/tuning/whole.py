"""What every trainer has: whole checkpoints without pickled weights, from which a killed training goes on; an end in good time
where it is told to stop; products in the device's type; progress; and the end of what diverges.

Only child processes that train import this module: it loads torch and transformers.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState

from tasks.child import told_to_stop
from tasks.config import Tuned
from tasks.device import Device
from tasks.errors import ChildDied, TrainingError
from tasks.progress import Bar, progress
from tasks.tuning import checkpoints, together
from tasks.tuning.methods import set_weights, trained_weights

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
WEIGHTS = "weights.safetensors"
STATE = "trainer_state.json"
DEV_LOGITS = "dev.safetensors"


def common(tuned: Tuned, device: Device, folder: Path, report_to: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments that every trainer is given: no network, reports to the named trackers alone, no bars but ours, and the loss looked
    at each step."""
    return {
        "output_dir": str(folder),
        "run_name": tuned.name,
        "seed": tuned.seed,
        "data_seed": tuned.seed,
        "save_strategy": "epoch",
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": device.name == "cuda",
        "use_cpu": device.name == "cpu",
        "remove_unused_columns": False,
        "report_to": list(report_to),
        "disable_tqdm": True,
        "push_to_hub": False,
    }


def on_one_device(given: Any) -> Any:
    """Arguments for a process that trains on one device: several GPUs would silently mean DataParallel and a larger batch."""
    given._n_gpu = min(given.n_gpu, 1)
    return given


class Whole:
    """Mixed into a `Trainer`, before it in the list of bases."""

    args: Any
    model: Any
    state: Any
    control: Any
    folder: Path
    on: Device
    tuned: Tuned
    began: float
    seconds_before: float
    evaluated_s: float
    dev_logits: torch.Tensor | None
    """Of the newest evaluation, where labels are told apart: [rows, labels]."""
    owes_evaluation: bool
    gives_up: Callable[[Sequence[float]], bool] | None
    """Asked after each evaluation, of all accuracies so far."""
    pruned: bool
    order: Any = None
    """Of the rows, where it is one of ours."""
    stops: bool = False
    """Whether the step under way is the last, since the process was told to stop."""

    def set_up(self, tuned: Tuned, device: Device) -> None:
        """Call after the trainer's own `__init__`."""
        self.tuned, self.on = tuned, device
        self.folder = Path(self.args.output_dir)
        self.began = time.perf_counter()
        self.seconds_before = self.evaluated_s = 0.0
        self.dev_logits = self.gives_up = None
        self.owes_evaluation = self.pruned = False
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]  # `Watch` tells progress
        self.add_callback(Heed())  # type: ignore[attr-defined]

    def trained_s(self) -> float:
        """Seconds spent on training steps, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.began - self.evaluated_s

    def run(self, title: str, save_every_s: float = SAVE_EVERY_S) -> None:
        """Train, from the newest whole checkpoint where there is one, with a bar.

        Args:
            save_every_s: a checkpoint at least this often within an epoch.
        """
        found = together.of_first(lambda: checkpoints.newest(self.folder))
        self.seconds_before = found.facts["seconds"] if found else 0.0
        self.began = time.perf_counter()
        with progress(title, 1) as bar:
            self.add_callback(Watch(self, bar, save_every_s))  # type: ignore[attr-defined]
            if found:
                logger.info("training goes on from its checkpoint at step %d", found.step)
                self._load_from_checkpoint(str(found.folder))
                self.state = TrainerState.load_from_json(str(found.folder / STATE))
                if found.facts.get("owes_evaluation"):
                    self._evaluate_late(found)
                if self.is_over(self.state):
                    return  # it was killed after its last checkpoint
            self.train(resume_from_checkpoint=str(found.folder) if found else None)  # type: ignore[attr-defined]

    def is_over(self, state: TrainerState) -> bool:
        """Whether training ends before its last epoch: dev gets no better, or the trial is given up."""
        accuracies = [entry["eval_accuracy"] for entry in state.log_history if "eval_accuracy" in entry]
        unfinished = 0 < len(accuracies) < self.tuned.epochs
        self.pruned = bool(unfinished and self.gives_up and self.gives_up(accuracies))
        return self.pruned or out_of_patience(accuracies, self.tuned.early_stopping)

    def use_best(self) -> torch.Tensor | None:
        """Put the weights in place that were best on dev, the last ones where nothing was chosen; and what the best said of dev,
        where labels are told apart: logits [rows, labels]."""
        if not self.state.best_global_step:
            return None
        best = checkpoints.folder_of(self.folder, self.state.best_global_step)
        set_weights(self.model, load_file(best / WEIGHTS), str(best / WEIGHTS))
        return load_file(best / DEV_LOGITS)["logits"] if (best / DEV_LOGITS).exists() else None

    def leave_evaluation(self) -> ChildDied:
        """What an evaluation raises where it is told to stop: by then a checkpoint is written that owes it."""
        if not self.owes_evaluation:
            self.owes_evaluation = True
            self._save_checkpoint(self.model, None)
        return stopped(self.state.global_step, self.tuned, self.folder)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        return torch.autocast(self.on.name, torch.bfloat16, enabled=self.on.dtype == "bfloat16")

    def _evaluate_late(self, found: checkpoints.Checkpoint) -> None:
        """The evaluation that a checkpoint at an epoch's end still owes; all else in it stays as it is."""
        trainer: Any = self

        def write(folder: Path) -> None:
            shutil.copytree(found.folder, folder, ignore=shutil.ignore_patterns(checkpoints.COMPLETE), dirs_exist_ok=True)
            self.state.save_to_json(str(folder / STATE))
            self._keep_dev_logits(folder)

        self.owes_evaluation = True
        trainer._determine_best_metric(trainer.evaluate(), None)
        self.owes_evaluation = False
        step, best = found.step, self.state.best_global_step
        if together.is_first():
            facts = {"best_step": best, "seconds": self.trained_s(), "owes_evaluation": False}
            checkpoints.save(self.folder, step, facts, write)
            checkpoints.prune(self.folder, {step, best or step})
        together.wait()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """By the first process; each adds the state of its own random numbers."""
        trainer: Any = self

        def write(folder: Path) -> None:
            save_file(trained_weights(self.model), folder / WEIGHTS)
            trainer._save_optimizer_and_scheduler(str(folder))
            trainer._save_scaler(str(folder))
            self.state.save_to_json(str(folder / STATE))
            self._keep_dev_logits(folder)
            together.wait()
            trainer._save_rng_state(str(folder))
            together.wait()

        step, best = self.state.global_step, self.state.best_global_step
        facts = {"best_step": best, "seconds": self.trained_s(), "owes_evaluation": self.owes_evaluation}
        if together.is_first():
            checkpoints.save(self.folder, step, facts, write)
            checkpoints.prune(self.folder, {step, best or step})
        else:
            together.wait()
            trainer._save_rng_state(str(checkpoints.aside_of(self.folder, step)))
            together.wait()
        together.wait()

    def _keep_dev_logits(self, folder: Path) -> None:
        if self.dev_logits is not None:
            save_file({"logits": self.dev_logits}, folder / DEV_LOGITS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        where = Path(resume_from_checkpoint) / WEIGHTS
        set_weights(self.model, load_file(where), str(where))


class WholeTrainer(Whole, Trainer):
    """transformers' own trainer with whole checkpoints."""


class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Tells progress, stops what diverges, and asks for checkpoints within long epochs and where the process is told to stop."""

    def __init__(self, trainer: Any, bar: Bar, save_every_s: float) -> None:
        self.trainer, self.bar, self.save_every_s = trainer, bar, save_every_s
        self.saved = self.began = time.monotonic()
        self.first_step, self.first_s = 0, 0.0
        self.accuracy = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step, self.first_s, self.began = state.global_step, self.trainer.trained_s(), time.monotonic()
        self.bar.total = state.max_steps
        self.bar.move(state.global_step, "resumed" if state.global_step else "")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.order is not None:  # a resumed epoch's loader would not set it, in one of several processes
            self.trainer.order.set_epoch(state.global_step // steps_an_epoch(args, state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, state.max_steps // 200) == 0:
            self.bar.move(state.global_step)
        due, self.trainer.stops = together.agree(time.monotonic() - self.saved >= self.save_every_s, told_to_stop.is_set())
        is_evaluated = args.eval_strategy == "epoch" and state.global_step % steps_an_epoch(args, state) == 0  # and then saved
        if (due or self.trainer.stops) and not is_evaluated:
            control.should_log = control.should_save = True  # logged first, so that nothing diverged is saved

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **_: Any) -> None:
        if metrics and "eval_accuracy" in metrics:
            self.accuracy = f", dev accuracy {metrics['eval_accuracy']:.3f}"
        if self.trainer.is_over(state):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        if self.trainer.stops:
            raise stopped(state.global_step, self.trainer.tuned, self.trainer.folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise diverged(name, value, state.global_step, self.trainer.tuned, self.trainer.folder)
        if logs and "loss" in logs:
            steps, rows = state.global_step - self.first_step, args.train_batch_size * args.gradient_accumulation_steps
            rate = steps * rows * together.size() / max(self.trainer.trained_s() - self.first_s, 1e-9)
            left = (time.monotonic() - self.began) / max(steps, 1) * (state.max_steps - state.global_step)  # evaluations included
            note = f"loss {logs['loss']:.3f}{self.accuracy}, {rate:.1f} rows/s, {_duration(left)} left"
            self.bar.move(state.global_step, note)


class Heed(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Ends an evaluation that chooses nothing, before the first step or after the last checkpoint."""

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        heed()


class Left(Exception):
    """Ends an evaluation early."""


def heeding(bar: Bar) -> Callable[[int], None]:
    """Hears of rows that are done, and tells `bar`. It raises `Left` once this process is told to stop."""

    def told(rows: int) -> None:
        bar.advance(rows)
        if told_to_stop.is_set():
            raise Left

    return told


def heed(*_: Any) -> None:
    """Raises ChildDied once this process is told to stop; for work that there is nothing to write down of."""
    if told_to_stop.is_set():
        raise ChildDied("it was told to stop, and has written down all that it had: run again to go on")


def steps_an_epoch(args: Any, state: Any) -> int:
    """Optimiser steps in each pass over train, for a training of whole epochs."""
    return max(1, int(state.max_steps // round(args.num_train_epochs)))


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
