from pathlib import Path

from tasks.tuning.curves import draw_curves
from tasks.tuning.train import loss_facts

LOGGED = [{"loss": 0.9, "step": 2}, {"loss": 0.7, "step": 4}, {"loss": 0.5, "step": 5}, {"eval_accuracy": 0.5, "step": 5}]
BETWEEN = [{"loss": 0.8, "step": 1}, {"loss": 1.0, "step": 2}, {"loss": 0.6, "step": 3}, {"loss": 0.8, "step": 4}, *LOGGED[2:]]


def test_it_does_not_matter_to_the_losses_when_checkpoints_were_made() -> None:
    assert loss_facts(LOGGED, 2, 5) == loss_facts(BETWEEN, 2, 5)
    assert loss_facts(LOGGED, 2, 5) == [{"epoch": 0.4, "loss": 0.9}, {"epoch": 0.8, "loss": 0.7}, {"epoch": 1.0, "loss": 0.5}]


def test_the_same_training_gives_the_same_picture_which_brings_its_own_ground(tmp_path: Path) -> None:
    epochs = [{"epoch": 1, "loss": 0.7, "dev_accuracy": 0.8}, {"epoch": 2, "loss": 0.5, "dev_accuracy": 0.7}]
    for name in ("one", "other"):
        draw_curves("tiny", loss_facts(LOGGED, 2, 5), epochs, 1, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert "fill: #ffffff" in (tmp_path / "one").read_text()
