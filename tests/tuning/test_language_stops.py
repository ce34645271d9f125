"""Trainings of causal models, further pre-training, preferences and reinforcement: where they are told to stop or die, the next run
ends in the same bits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from tasks import child
from tasks.bases import ResolvedBase
from tasks.config import Algorithm, Objective, Tuned
from tasks.data.examples import read_examples, split_path, write_examples
from tasks.data.tokenize import load_tokenizer, tokenize
from tasks.errors import ChildDied
from tasks.progress import Bar, listening
from tasks.records import DatasetRecord, TokensRecord
from tasks.tuning.language import adapt, complete, further
from tasks.tuning.language.causal import choose_weights, load_causal, store
from tasks.tuning.language.pairs import FILE, Pair, write_pairs
from tasks.workspace import Workspace, file_sha256
from tests.tiny_model import LABELS, make_base

RECIPE = Tuned(name="t", learning_rate=5e-3, epochs=2, batch_size=8, rank=4, dropout=0.1, max_tokens=32, as_text=True)
Train = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return make_base(tmp_path_factory.mktemp("causal"), "gpt2")


@pytest.fixture(scope="module")
def named(dataset: DatasetRecord, causal: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> TokensRecord:
    """Tokens whose completions are the labels' names."""
    return tokenize(RECIPE, dataset, causal, Workspace(tmp_path_factory.mktemp("named")))


@pytest.fixture(autouse=True)
def clear(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (child.OFFLINE | {"TRL_EXPERIMENTAL_SILENCE": "1"}).items():
        monkeypatch.setenv(name, value)
    yield
    child.told_to_stop.clear()


def place(base: ResolvedBase) -> dict[str, str]:
    return {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256}


def written(tuned: Tuned, tokens: TokensRecord, base: ResolvedBase, home: Path, **more: Any) -> dict[str, Any]:
    """What `tasks.tuning.language.complete` is asked."""
    (home / "made").mkdir(parents=True, exist_ok=True)
    asked = {"tuned": tuned.model_dump(mode="json"), "labels": LABELS, "tokens": str(tokens.folder), "base": place(base)}
    return asked | {"folder": str(home / "made"), "checkpoints": str(home / "checkpoints")} | more


def adapted(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, home: Path) -> dict[str, Any]:
    """What `tasks.tuning.language.adapt` is asked."""
    home.mkdir(parents=True, exist_ok=True)
    texts = home / "texts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [row.inputs["text"] for row in read_examples(dataset, "train")]}), texts)
    asked = {"tuned": tuned.model_dump(mode="json"), "base": place(base), "dev": str(split_path(dataset, "dev"))}
    return asked | {"texts": str(texts), "folder": str(home / "made"), "checkpoints": str(home / "checkpoints")}


def taught(tuned: Tuned, dataset: DatasetRecord, base: ResolvedBase, home: Path, **more: Any) -> dict[str, Any]:
    """What `tasks.tuning.language.further` is asked; the supervised step is an adapter that changes nothing."""
    tokenizer = load_tokenizer(base.path).tokenizer
    if not home.exists():
        home.mkdir(parents=True)
        torch.manual_seed(0)
        model = choose_weights(load_causal(base.path, len(tokenizer), tokenizer.pad_token_id), tuned, base)
        store(model, tuned, base, home / "supervised")
        write_pairs([Pair(f"film {number}", *LABELS[:: 1 if number % 2 else -1]) for number in range(40)], home / FILE)
    asked = {"tuned": tuned.model_dump(mode="json"), "labels": LABELS, "base": place(base), "supervised": str(home / "supervised")}
    asked |= {"vocabulary": len(tokenizer), "pairs": str(home / FILE), "folder": str(home / "made"), "work": str(home / "work")}
    return asked | {split: str(split_path(dataset, split)) for split in ("train", "dev")} | more


def stopped_at(train: Train, asked: dict[str, Any], title: str, done: float) -> None:
    """Run until a bar has come so far, and tell the process to stop."""

    def stop(bar: Bar) -> None:
        if bar.title == title and bar.done >= done and not bar.finished:
            child.told_to_stop.set()

    with listening(stop), pytest.raises(ChildDied, match="told to stop"):
        train(asked)
    child.told_to_stop.clear()


def weights(home: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted((home / "made").rglob("*.safetensors"))}


def untimed(made: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in made["training"]["epochs"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "done", "owes"), [("train t", 5, False), ("train t", 12, True), ("dev t", 1, True), ("dev t", 40, True)]
)
def test_a_causal_model_that_is_told_to_stop_goes_on_to_the_same_bits(
    title: str, done: float, owes: bool, named: TokensRecord, causal: ResolvedBase, home: Path
) -> None:
    asked = written(RECIPE, named, causal, home / "stopped")
    stopped_at(complete.train, asked, title, done)
    [kept] = (home / "stopped/checkpoints").glob("checkpoint-*/complete.json")
    assert json.loads(kept.read_text())["facts"]["owes_evaluation"] is owes
    resumed, whole = complete.train(asked), complete.train(written(RECIPE, named, causal, home / "whole"))
    assert untimed(resumed) == untimed(whole)
    assert weights(home / "stopped") == weights(home / "whole") != {}


@pytest.mark.slow
def test_a_death_between_an_epochs_last_step_and_its_evaluation_loses_neither(
    named: TokensRecord, causal: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = RECIPE.model_copy(update={"epochs": 1})
    asked = written(one, named, causal, home / "killed", save_every_s=0)

    def die(*_: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(complete, "_mean_loss", die)
        with pytest.raises(KeyboardInterrupt):
            complete.train(asked)
    assert list((home / "killed/checkpoints").glob("checkpoint-11"))  # not one of step 12, whose evaluation nobody would make
    resumed, whole = complete.train(asked), complete.train(written(one, named, causal, home / "whole"))
    assert untimed(resumed) == untimed(whole)
    assert [epoch["epoch"] for epoch in untimed(resumed)] == [1]
    assert weights(home / "killed") == weights(home / "whole") != {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_further_pretraining_that_is_told_to_stop_goes_on_to_the_same_bits(
    kind: str, dataset: DatasetRecord, home: Path, tmp_path: Path
) -> None:
    base = make_base(tmp_path / kind, kind)
    tuned = RECIPE.model_copy(update={"objective": Objective.SELF_SUPERVISED, "corpus_epochs": 2, "as_text": False})
    asked = adapted(tuned, dataset, base, home / "stopped")
    stopped_at(adapt.run, asked, "adapt t", 5)
    resumed, whole = adapt.run(asked), adapt.run(adapted(tuned, dataset, base, home / "whole"))
    assert {**resumed, "seconds": 0, "peak_memory_bytes": 0} == {**whole, "seconds": 0, "peak_memory_bytes": 0}
    assert weights(home / "stopped") == weights(home / "whole") != {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "done", "rows", "more"),
    [
        ("prefer t", 2, 96, {"objective": Objective.PREFERENCES}),
        ("reward model t", 2, 96, {"objective": Objective.REINFORCEMENT}),
        ("reinforce t", 3, 96, {"objective": Objective.REINFORCEMENT}),
        ("reinforce t", 4, 96, {"objective": Objective.REINFORCEMENT, "algorithm": Algorithm.GRPO}),
        ("reinforce t", 7, 8, {"objective": Objective.REINFORCEMENT}),  # in the second of three passes over train
        ("reinforce t", 12, 96, {"objective": Objective.REINFORCEMENT}),
    ],
)
def test_preferences_and_reinforcement_that_are_told_to_stop_go_on_to_the_same_bits(
    title: str, done: float, rows: int, more: dict[str, Any], dataset: DatasetRecord, causal: ResolvedBase, home: Path
) -> None:
    steps = {"reinforce_steps": 12, "group": 2, "kl_limit": 100.0}
    tuned = RECIPE.model_copy(update=more | (steps if more["objective"] is Objective.REINFORCEMENT else {}))
    home.mkdir()
    write_examples(home / "train.parquet", read_examples(dataset, "train")[:rows])
    train = {"train": str(home / "train.parquet")}
    asked, unbroken = (taught(tuned, dataset, causal, home / name, **train) for name in ("stopped", "whole"))
    stopped_at(further.run, asked, title, done)
    resumed, whole = further.run(asked), further.run(unbroken)
    for same in ("watched", "findings", "calibration"):
        assert resumed[same] == whole[same]
    assert resumed["calibration"]["rows"] == dataset.rows["dev"]
    assert len(list((home / "stopped/work").glob("best-*"))) <= 2
    assert weights(home / "stopped") == weights(home / "whole") != {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["adapt", "prefer"])
def test_where_memory_runs_out_rows_at_once_are_halved_at_the_same_step(
    what: str, dataset: DatasetRecord, causal: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    plain, seen = Trainer.training_step, []

    def cramped(trainer: Any, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        seen.append(len(next(iter(inputs.values()))))
        if seen[-1] == max(seen):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(trainer, model, inputs, *more, **named)

    monkeypatch.setattr(Trainer, "training_step", cramped)
    if what == "adapt":
        made = adapt.run(adapted(RECIPE.model_copy(update={"objective": Objective.SELF_SUPERVISED}), dataset, causal, home))
    else:
        made = further.run(taught(RECIPE.model_copy(update={"objective": Objective.PREFERENCES}), dataset, causal, home / "x"))
    said = [finding["message"] for finding in made["findings"] if finding["kind"] == "out_of_memory"]
    assert said == ["memory ran out with 8 rows at once: now 4 at once, 2 parts to a step of 8 rows"]
    assert max(seen[1:]) * 2 == seen[0]
