"""What every trainer of this room shares: whole checkpoints without pickled weights, products in the device's type, progress, and
the end of what diverges.

Only child processes that train import this module: it loads torch and transformers.
"""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback

from tasks.config import Tuned
from tasks.device import Device
from tasks.progress import Bar, progress
from tasks.tuning import checkpoints
from tasks.tuning.methods import set_weights, trained_weights
from tasks.tuning.trainer import STATE, WEIGHTS, diverged

SAVE_EVERY_S = 60.0


def common(device: Device, folder: Path, seed: int) -> dict[str, Any]:
    """Arguments that every trainer here is given: no network, no reports, no bars but ours, and the loss looked at each step."""
    return {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "epoch",
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": device.name == "cuda",
        "use_cpu": device.name == "cpu",
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "push_to_hub": False,
    }


class Whole:
    """Mixed into a `Trainer`, before it in the list of bases."""

    model: Any
    state: Any
    folder: Path
    on: Device
    tuned: Tuned
    began: float
    seconds_before: float

    def set_up(self, tuned: Tuned, device: Device) -> None:
        """Call after the trainer's own `__init__`."""
        self.tuned, self.on = tuned, device
        self.folder = Path(self.args.output_dir)  # type: ignore[attr-defined]
        self.seconds_before, self.began = 0.0, time.perf_counter()
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def trained_s(self) -> float:
        """Seconds since training began, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.began

    def run(self, title: str) -> None:
        """Train, from the newest whole checkpoint where there is one, with a bar."""
        found = checkpoints.newest(self.folder) if self.folder.exists() else None
        self.seconds_before = found.facts["seconds"] if found else 0.0
        self.began = time.perf_counter()
        watch = Told(self)
        self.add_callback(watch)  # type: ignore[attr-defined]
        with progress(title, 1) as watch.bar:
            self.train(resume_from_checkpoint=str(found.folder) if found else None)  # type: ignore[attr-defined]

    def use_best(self) -> None:
        """Put the weights in place that were best on dev; the last ones where nothing was chosen."""
        if self.state.best_global_step:
            where = checkpoints.folder_of(self.folder, self.state.best_global_step) / WEIGHTS
            set_weights(self.model, load_file(where), str(where))

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        return torch.autocast(self.on.name, torch.bfloat16, enabled=self.on.dtype == "bfloat16")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self

        def write(folder: Path) -> None:
            save_file(trained_weights(self.model), folder / WEIGHTS)
            trainer._save_optimizer_and_scheduler(str(folder))
            trainer._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / STATE))

        step, best = self.state.global_step, self.state.best_global_step
        checkpoints.save(self.folder, step, {"best_step": best, "seconds": self.trained_s()}, write)
        checkpoints.prune(self.folder, {step, best or step})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        where = Path(resume_from_checkpoint) / WEIGHTS
        set_weights(self.model, load_file(where), str(where))


class Told(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Tells progress, stops what diverges, and asks for checkpoints within long epochs."""

    bar: Bar

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.total = state.max_steps
        self.bar.move(state.global_step, "resumed" if state.global_step else "")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.move(state.global_step)
        if time.monotonic() - self.saved >= SAVE_EVERY_S:
            control.should_log = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if value != value or value in (float("inf"), float("-inf")):
                raise diverged(name, value, state.global_step, self.trainer.tuned, self.trainer.folder)
        if logs and "loss" in logs:
            self.bar.move(state.global_step, f"loss {logs['loss']:.3f}")


class WholeTrainer(Whole, Trainer):
    """transformers' own trainer with whole checkpoints."""
