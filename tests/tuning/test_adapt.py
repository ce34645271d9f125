"""Objective `self_supervised`: further pre-training, the contender that stands on it, and its round trip."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.config import Method, Objective, Tuned
from tasks.contenders.loader import load_contender
from tasks.data.examples import read_examples
from tasks.errors import BadConfig, BadData
from tasks.records import DatasetRecord
from tasks.settings import Settings
from tasks.tuning.language.adapt import adapt
from tasks.tuning.language.corpus import find_corpus, write_texts
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.tiny_model import make_base, make_tokens

RECIPE = Tuned(name="t", objective=Objective.SELF_SUPERVISED, corpus_epochs=4, corpus_learning_rate=3e-3, epochs=1, max_tokens=32)


def texts(folder: Path) -> list[str]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(folder / "texts.parquet")["text"].to_pylist())


def test_text_that_stands_in_dev_or_test_is_left_out_of_a_corpus(dataset: DatasetRecord, tmp_path: Path) -> None:
    held = read_examples(dataset, "test")[0].inputs["text"]
    (tmp_path / "corpus.csv").write_text(f"body\n{held.upper()}\na new text\nA NEW TEXT.\nanother one\n")
    tuned = RECIPE.model_copy(update={"corpus": "corpus.csv", "corpus_column": "body"})
    found = find_corpus(tuned, dataset, Settings(roots=[tmp_path]))
    count, findings = write_texts(tuned, found, dataset, tmp_path)
    assert count == 2
    assert sorted(texts(tmp_path)) == ["a new text", "another one"]
    assert findings[0].message == "unlabelled text left out: 1 repeated; 1 equal to a dev or test row"


def test_a_corpus_outside_the_roots_or_without_the_column_is_refused(dataset: DatasetRecord, tmp_path: Path) -> None:
    (tmp_path / "corpus.csv").write_text("body\na text\n")
    tuned, settings = RECIPE.model_copy(update={"corpus": "corpus.csv"}), Settings(roots=[tmp_path])
    with pytest.raises(BadData, match="has no column 'text'; it has body: set corpus_column"):
        write_texts(tuned, find_corpus(tuned, dataset, settings), dataset, tmp_path)
    with pytest.raises((BadConfig, ValueError), match=r"outside the folders|lies outside"):
        find_corpus(tuned.model_copy(update={"corpus": "/etc/hostname.csv"}), dataset, settings)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "learned"), [("bert", "masked"), ("gpt2", "causal")])
def test_further_pretraining_learns_the_text_and_is_done_once(
    kind: str, learned: str, dataset: DatasetRecord, tmp_path: Path
) -> None:
    base, space = make_base(tmp_path / "base", kind), Workspace(tmp_path / "home")
    made = adapt(RECIPE, dataset, base, Settings(), space)
    assert made.kind == learned
    assert made.loss_after < made.loss_before - 0.2
    assert adapt(RECIPE.model_copy(update={"name": "other", "rank": 2}), dataset, base, Settings(), space).reused


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_a_contender_on_an_adapted_base_needs_nothing_but_its_folder(
    method: Method, dataset: DatasetRecord, tmp_path: Path
) -> None:
    base, space = make_base(tmp_path / "base", "bert"), Workspace(tmp_path / "home")
    tokens = make_tokens(tmp_path / "tokens", base, dataset)
    tuned = RECIPE.model_copy(update={"method": method, "max_tokens": 256})
    made = tune(tuned, dataset, tokens, base, space, settings=Settings())
    facts = made.training
    assert facts
    assert facts.objective == "self_supervised"
    assert any(finding.kind == "adapted" for finding in facts.findings)
    rows = read_examples(dataset, "test")
    before = logits(made.folder, rows)
    (tmp_path / "base" / "config.json").rename(tmp_path / "gone.json")
    assert logits(made.folder, rows) == before


def logits(folder: Path, rows: Sequence) -> list:  # type: ignore[type-arg]
    return [answer.logits for answer in load_contender(folder, settings=Settings()).predict(rows)]
