"""Trainings that are told to stop, or find the disk full, made for real; `benchmarks/campaigns/training_kills.py` kills them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.campaigns import training_kills
from benchmarks.campaigns.figures import Options
from tasks import child
from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.errors import ChildDied, TrainingError
from tasks.progress import Bar, listening
from tasks.records import TokensRecord
from tasks.tuning import start
from tasks.tuning.train import train
from tests.live import descendants
from tests.tuning.test_tune import RECIPE, adapter, job

STEPS_AN_EPOCH = 12
ACCUMULATED = {"rows_at_once": 2, "save_every_s": 3600}


@pytest.fixture
def clear() -> Iterator[None]:
    yield
    child.told_to_stop.clear()


def curve(made: dict[str, Any]) -> list[tuple[float, float]]:
    return [(epoch["loss"], epoch["dev_accuracy"]) for epoch in made["training"]["epochs"]]


def kept(home: Path) -> list[int]:
    return sorted(int(folder.name.split("-")[1]) for folder in (home / "checkpoints").glob("checkpoint-*"))


@pytest.mark.slow
def test_killed_twice_in_steps_of_several_parts_a_training_ends_in_the_same_weights_to_the_bit() -> None:
    figures = {figure.name: figure for figure in training_kills.run(Options(kills=2))}
    assert figures["kills"].value == 2
    assert figures["largest_weight_difference"].value == 0
    assert figures["curves_that_differ"].value == 0


@pytest.mark.slow
def test_sigterm_makes_a_checkpoint_within_an_epoch_and_the_next_run_ends_in_the_same_weights(
    tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    asked = job(RECIPE, tokens, base, home / "stopped", **ACCUMULATED)
    stopped = threading.Event()

    def stop(bar: Bar) -> None:
        if bar.title == "train tiny" and bar.done >= 15 and not stopped.is_set():
            stopped.set()
            descendants("tuning.train")[0].terminate()

    with listening(stop), pytest.raises(ChildDied, match=r"told to stop at step \d+; its checkpoint is in .*run again to go on"):
        run_child("tasks.tuning.train", asked)
    assert 15 <= kept(home / "stopped")[-1] < 6 * STEPS_AN_EPOCH
    resumed = run_child("tasks.tuning.train", asked)
    whole = train(job(RECIPE, tokens, base, home / "whole", **ACCUMULATED))
    assert curve(resumed) == curve(whole)
    assert adapter(home / "stopped") == adapter(home / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("clear")
def test_a_stop_within_an_evaluation_makes_a_checkpoint_that_is_evaluated_first_when_it_is_resumed(
    tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    asked = job(RECIPE, tokens, base, home / "stopped", **ACCUMULATED)
    evaluations = []

    def stop(bar: Bar) -> None:
        if bar.title == "dev tiny" and bar.done == 0:
            evaluations.append(bar)
            if len(evaluations) == 4:  # a bar tells of its start alone, and of its end
                child.told_to_stop.set()

    with listening(stop), pytest.raises(ChildDied, match="told to stop at step"):
        train(asked)
    child.told_to_stop.clear()
    step = kept(home / "stopped")[-1]
    assert step % STEPS_AN_EPOCH == 0
    assert json.loads((home / f"stopped/checkpoints/checkpoint-{step}/complete.json").read_text())["facts"]["owes_evaluation"]
    assert curve(train(asked)) == curve(train(job(RECIPE, tokens, base, home / "whole", **ACCUMULATED)))
    assert adapter(home / "stopped") == adapter(home / "whole")


@pytest.mark.usefixtures("clear")
def test_a_training_with_a_heads_start_is_resumed_to_the_same_bits_without_a_second_one(
    tokens: TokensRecord, base: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, real = [], start.start_head
    monkeypatch.setattr(start, "start_head", lambda *given: starts.append(given) or real(*given))
    recipe = RECIPE.model_copy(update={"head_start": True, "epochs": 2})
    asked = job(recipe, tokens, base, home / "stopped")

    def stop_at(title: str) -> None:
        def stop(bar: Bar) -> None:
            if bar.title == title:
                child.told_to_stop.set()

        with listening(stop), pytest.raises(ChildDied, match="told to stop"):
            train(asked)
        child.told_to_stop.clear()

    stop_at("head of tiny")
    assert not kept(home / "stopped")
    stop_at("dev tiny")
    assert (kept(home / "stopped"), len(starts)) == ([STEPS_AN_EPOCH], 2)
    resumed = train(asked)
    assert len(starts) == 2
    assert curve(resumed) == curve(train(job(recipe, tokens, base, home / "whole")))
    assert adapter(home / "stopped") == adapter(home / "whole")
    assert curve(resumed) != curve(train(job(recipe.model_copy(update={"head_start": False}), tokens, base, home / "plain")))


@pytest.mark.slow
def test_a_training_whose_parent_is_killed_writes_a_checkpoint_and_ends(
    tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    asked = job(RECIPE.model_copy(update={"epochs": 1000}), tokens, base, home, save_every_s=3600)
    run = (
        "import json, sys; from tasks.child import run_child; from tasks.progress import listening\n"
        "with listening(lambda bar: print(bar.title, bar.done, flush=True)): run_child('tasks.tuning.train', json.load(sys.stdin))"
    )
    parent = subprocess.Popen([sys.executable, "-c", run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin
    assert parent.stdout
    parent.stdin.write(json.dumps(asked))
    parent.stdin.close()
    next(line for line in parent.stdout if line.startswith("train tiny ") and float(line.split()[-1]) >= 60)
    [training] = descendants("tuning.train", parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([training], timeout=child.GRACE_S + 60)
    assert alive == []
    step = kept(home)[-1]
    facts = json.loads((home / f"checkpoints/checkpoint-{step}/complete.json").read_text())["facts"]
    assert step % STEPS_AN_EPOCH or facts["owes_evaluation"]  # not one that an epoch's end makes


FULL_DISK = """
import json, resource, sys
from tasks.tuning import start
from tasks.tuning.train import train
from tasks.errors import TrainingError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    train(json.loads(sys.argv[1]))
except TrainingError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("room", [20_000, 60_000])  # neither the weights nor, in a second try, the optimizer's state fit
def test_a_disk_that_takes_no_checkpoint_ends_the_training_and_the_old_checkpoint_is_intact(
    room: int, tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    train(job(RECIPE.model_copy(update={"epochs": 1}), tokens, base, home))
    sizes = sorted(path.stat().st_size for path in (home / "checkpoints/checkpoint-12").iterdir())
    assert sizes[-2] > 20_000
    assert sizes[-1] > 60_000
    asked = job(RECIPE.model_copy(update={"epochs": 2}), tokens, base, home)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, json.dumps(asked), str(room)], capture_output=True, text=True, check=False
    )
    assert "checkpoint of step 24 cannot be written to" in done.stdout, done.stderr[-2000:]
    assert str(home / "checkpoints/writing-24") in done.stdout
    assert "bytes are free there now; the checkpoint of step 12 is kept" in done.stdout
    assert kept(home) == [12]
    assert not list((home / "checkpoints").glob("writing-*"))
    assert [epoch["epoch"] for epoch in train(asked)["training"]["epochs"]] == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_with_its_bytes(small_disk: Path, tokens: TokensRecord, base: ResolvedBase) -> None:
    (small_disk / "somebody-elses").write_bytes(b"x" * 250_000)
    with pytest.raises(TrainingError, match=rf"cannot be written to {small_disk}/checkpoints/writing-12: .*bytes are free there"):
        train(job(RECIPE, tokens, base, small_disk))
