import importlib.util
from pathlib import Path

import pytest

from tasks.bases import ResolvedBase
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig
from tasks.records import DatasetRecord, TokensRecord
from tasks.settings import Training, load_settings
from tasks.tuning.trackers import PACKAGES, refuse_missing_trackers, tracker_environment
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.tuning.test_tune import RECIPE


def test_the_operator_names_trackers_and_a_config_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_TRAINING__REPORT_TO", '["tensorboard"]')
    assert load_settings().training.report_to == ["tensorboard"]
    assert "report_to" not in str(BakeoffConfig.model_json_schema())
    monkeypatch.setenv("BAKEOFF_TRAINING__REPORT_TO", '["carrier-pigeon"]')
    with pytest.raises(BadConfig, match="tensorboard"):
        load_settings()


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install() -> None:
    missing = [name for name, packages in PACKAGES.items() if not any(map(importlib.util.find_spec, packages))]
    assert missing
    with pytest.raises(
        BadConfig, match=rf"'{missing[0]}', whose package is not installed: `pip install {PACKAGES[missing[0]][0]}`"
    ):
        refuse_missing_trackers(Training(report_to=[missing[0]]))  # type: ignore[list-item]


def test_trackers_stay_on_this_machine_unless_their_own_variables_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tracker_environment(Training(report_to=["wandb", "mlflow"]), tmp_path, "lora-123")
    assert given["WANDB_MODE"] == "offline"
    assert given["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/trackers/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert tracker_environment(Training(report_to=["mlflow"]), tmp_path, "lora-123")["MLFLOW_TRACKING_URI"].startswith("https")
    assert tracker_environment(Training(), tmp_path, "lora-123") == {}


@pytest.mark.slow
def test_tensorboard_is_told_of_losses_and_accuracies(
    dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    pytest.importorskip("tensorboardX")
    training = Training(report_to=["tensorboard"])
    refuse_missing_trackers(training)
    tune(RECIPE.model_copy(update={"epochs": 1}), dataset, tokens, base, Workspace(home / "workspace"), training=training)
    [events] = (home / "trackers/tensorboard").rglob("events.*")
    written = events.read_bytes()
    assert b"train/loss" in written
    assert b"eval/accuracy" in written
