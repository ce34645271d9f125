"""Several processes train as one: on CPU they speak by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.errors import ChildDied
from tasks.progress import Bar, listening
from tasks.records import DatasetRecord, TokensRecord
from tasks.settings import Training
from tasks.tuning import together
from tasks.tuning.batches import LikeLengths
from tasks.tuning.tune import _processes
from tests.live import descendants, environment
from tests.tiny_model import make_base, make_tokens
from tests.tuning.test_tune import RECIPE, adapter, job

UNEVEN = RECIPE.model_copy(update={"epochs": 3, "batch_size": 20, "dropout": 0.0})
"""96 rows: five steps an epoch, the last with 16 rows."""
PARTS = {"rows_at_once": 5}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    """A base without dropout, which each process would draw for itself."""
    return make_base(tmp_path_factory.mktemp("calm"), dropout=0.0, seq_classif_dropout=0.0)


@pytest.fixture(scope="module")
def calm_tokens(tmp_path_factory: pytest.TempPathFactory, calm: ResolvedBase, dataset: DatasetRecord) -> TokensRecord:
    return make_tokens(tmp_path_factory.mktemp("tokens"), calm, dataset)


def test_each_process_gets_as_many_batches_and_fillers_bear_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    rows = together.Filled([{"input_ids": [7, 8, 9], "label": 1, "length": 3}] * 17)
    order = together.Evened(LikeLengths([3] * 17, 8, seed=0), 4)
    places = list(order)
    assert len(places) == len(order) == 24
    assert sorted(places[:17]) == list(range(17))
    assert [row["label"] for row in rows.__getitems__(places)] == [1] * 17 + [together.NO_LABEL] * 7


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_where_they_were_stopped(
    calm: ResolvedBase, calm_tokens: TokensRecord, home: Path
) -> None:
    one = run_child("tasks.tuning.train", job(UNEVEN, calm_tokens, calm, home / "one", **PARTS))
    asked = job(UNEVEN, calm_tokens, calm, home / "two", **PARTS, save_every_s=3600)
    stopped: list[int] = []

    def stop(bar: Bar) -> None:
        if bar.title == "train tiny" and bar.done >= 7 and not stopped:
            last = max(child.pid for child in descendants("tuning.train"))
            stopped.append(last)  # one of them alone: they agree to stop
            psutil.Process(last).terminate()

    with listening(stop), pytest.raises(ChildDied, match="told to stop at step"):
        run_child("tasks.tuning.train", asked, processes=2)
    [kept] = [path for path in (home / "two/checkpoints").glob("checkpoint-*") if int(path.name.split("-")[1]) % 5]
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {path.name for path in kept.iterdir()}
    two = run_child("tasks.tuning.train", asked, processes=2)
    assert [epoch["dev_accuracy"] for epoch in two["training"]["epochs"]] == [
        epoch["dev_accuracy"] for epoch in one["training"]["epochs"]
    ]
    losses = [[each["loss"] for each in run["training"]["losses"]] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    weights = [load_file(home / name / "made/adapter/adapter_model.safetensors") for name in ("one", "two")]
    assert set(weights[0]) == set(weights[1])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_under_torchrun_by_hand_training_is_the_same(calm: ResolvedBase, calm_tokens: TokensRecord, home: Path) -> None:
    recipe = UNEVEN.model_copy(update={"epochs": 1})
    run_child("tasks.tuning.train", job(recipe, calm_tokens, calm, home / "started", **PARTS), processes=2)
    (home / "request.json").write_text(json.dumps(job(recipe, calm_tokens, calm, home / "by-hand", **PARTS)))
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tasks.tuning.train", str(home / "request.json")],
        env=environment(OMP_NUM_THREADS="1", PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["result"]["training"]["epochs"]
    assert adapter(home / "by-hand") == adapter(home / "started")


@pytest.mark.parametrize(("asked", "batch_size", "taken"), [(0, 20, 1), (2, 20, 2), (3, 20, 2), (8, 6, 6), (4, 1, 1)])
def test_as_many_processes_as_the_operator_says_and_share_a_step_evenly(
    asked: int, batch_size: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_DEVICE", "cpu")
    assert _processes(UNEVEN.model_copy(update={"batch_size": batch_size}), Training(processes=asked)) == taken


def test_by_default_there_are_as_many_processes_as_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5,7")
    assert _processes(UNEVEN, Training()) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _processes(UNEVEN, Training()) == 1
