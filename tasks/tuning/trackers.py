"""Trackers of experiments that people run beside Bakeoff. Which ones is the operator's to say: they are places, with keys of their
own.

Whatever a tracker reads from the environment goes before what is set here: folders below `home`, and nothing sent.
"""

import importlib.util
import os
from pathlib import Path

from tasks.errors import BadConfig
from tasks.settings import Training

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",), "wandb": ("wandb",)}
"""The packages that a tracker needs, any one of them."""


def refuse_missing_trackers(training: Training) -> None:
    """Raises BadConfig for a tracker whose package is not installed."""
    for tracker in training.report_to:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[tracker]):
            install = " or ".join(f"`pip install {package}`" for package in PACKAGES[tracker])
            raise BadConfig(
                f"the settings report training to {tracker!r}, whose package is not installed: {install}, or take it out of "
                "training.report_to"
            )


def tracker_environment(training: Training, home: Path, run: str) -> dict[str, str]:
    """What trackers find in their environment, where the operator has not set it.

    Args:
        run: names the training among others.
    """
    if not training.report_to:
        return {}
    folder = home.absolute() / "trackers"
    for name in (*training.report_to, f"tensorboard/{run}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    offline = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / run),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}",
        "MLFLOW_EXPERIMENT_NAME": "bakeoff",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder / "wandb"),
        "WANDB_PROJECT": "bakeoff",
    }
    return {name: os.environ.get(name, value) for name, value in offline.items()}
