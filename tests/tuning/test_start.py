"""A head begins at a regression on what the base says, whatever kind of head it is, and nothing else changes."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tasks.config import Method, Tuned
from tasks.device import Device
from tasks.tuning.batches import logits_of
from tasks.tuning.faster import speed_up
from tasks.tuning.methods import choose_weights, load_base
from tasks.tuning.start import MOST_ROWS, chosen_rows, regression, start_head
from tests.tiny_model import make_base

CPU = Device("cpu", "float32", "", 1)
LABELS = ["bad", "fair", "good"]


def make_rows(count: int, labels: int = 2) -> Dataset:
    """A row's label is told by one token, whose place varies."""
    dice, found = Random(0), []
    for row in range(count):
        ids = [dice.randrange(10, 16) for _ in range(dice.randint(2, 9))]
        ids[dice.randrange(len(ids))] = 5 + row % labels
        found.append({"input_ids": [2, *ids, 3], "label": row % labels, "length": len(ids) + 2})
    return Dataset.from_list(found)


def make_model(folder: Path, kind: str = "bert", labels: int = 2, **recipe: Any) -> tuple[Any, Tuned]:
    base = make_base(folder, kind)
    tuned = Tuned(name="tiny", rank=2, **recipe)
    torch.manual_seed(0)
    return speed_up(choose_weights(load_base(base.path, LABELS[:labels], 0, 0), tuned, base)), tuned


def accuracy(model: Any, rows: Dataset) -> float:
    logits = logits_of(model, lambda wanted: rows[wanted]["input_ids"], rows["length"][:], 0)
    return float((logits.argmax(-1) == torch.tensor(rows["label"][:])).float().mean())


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama"])
def test_a_head_of_any_kind_knows_something_before_training(kind: str, tmp_path: Path) -> None:
    model, tuned = make_model(tmp_path, kind)
    rows = make_rows(120)
    before, drawn = {name: weight.clone() for name, weight in model.named_parameters()}, torch.get_rng_state()
    assert accuracy(model, rows) < 0.7
    heard: list[int] = []
    assert start_head(model, tuned, rows, 0, CPU, heard.append) == ""
    assert accuracy(model, rows) > 0.7
    assert sum(heard) == len(rows)
    assert torch.equal(torch.get_rng_state(), drawn)
    moved = {name.rpartition(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert len(moved) == 1
    assert "forward" not in vars(model.get_submodule(moved.pop()))


@pytest.mark.parametrize("method", list(Method))
def test_each_method_begins_so(method: Method, tmp_path: Path) -> None:
    model, tuned = make_model(tmp_path, labels=3, method=method)
    rows = make_rows(120, labels=3)
    assert start_head(model, tuned, rows, 0, CPU, lambda _: None) == ""
    assert accuracy(model, rows) > 0.6


def test_the_regression_is_that_of_standardised_inputs_given_for_inputs_as_they_are() -> None:
    torch.manual_seed(0)
    said, labels = 3 + torch.randn(90, 5) * torch.tensor([0.3, 1.0, 10.0, 1.0, 1.0]), [row % 3 for row in range(90)]
    said[:, 1] += torch.tensor(labels)
    weight, bias, right = regression(said, labels, 3, balanced=False, has_bias=True)
    scale = StandardScaler().fit(said.numpy())
    fit = LogisticRegression(C=1 / 5, max_iter=1000).fit(scale.transform(said.numpy()), labels)
    expected = torch.tensor(fit.predict_proba(scale.transform(said.numpy())), dtype=torch.float32)
    torch.testing.assert_close((said @ weight.T + bias).softmax(-1), expected, atol=1e-3, rtol=1e-3)
    assert right == pytest.approx(float(((said @ weight.T + bias).argmax(-1) == torch.tensor(labels)).float().mean()))


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_label_that_the_rows_lack_is_not_the_likeliest(has_bias: bool) -> None:
    torch.manual_seed(0)
    labels = [0, 2] * 30
    said = torch.randn(60, 4) + torch.tensor(labels)[:, None]
    weight, bias, _ = regression(said, labels, 3, balanced=True, has_bias=has_bias)
    assert 1 not in (said @ weight.T + bias * has_bias).argmax(-1)
    assert has_bias or not bias.any()


def test_of_many_rows_some_are_chosen_by_the_seed() -> None:
    found = chosen_rows(3 * MOST_ROWS, 1)
    assert found == sorted(set(found)) == chosen_rows(3 * MOST_ROWS, 1) != chosen_rows(3 * MOST_ROWS, 2)
    assert len(found) == MOST_ROWS
    assert chosen_rows(7, 1) == [*range(7)]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("one label", "one label alone"),
        ("no number", "no number"),
        ("not new", "new linear layer"),
        ("no layer", "new linear layer"),
    ],
)
def test_where_nothing_can_be_fitted_the_head_stays_as_it_is_and_it_is_said_why(broken: str, reason: str, tmp_path: Path) -> None:
    model, tuned = make_model(tmp_path)
    if broken == "no number":
        model.get_input_embeddings().weight.data.fill_(float("nan"))
    if broken == "not new":  # a base that could tell these labels apart already
        model.get_base_model().lacked = []
    if broken == "no layer":
        model.base_model.model.classifier.requires_grad_(False)
    before = model.base_model.model.classifier.weight.clone()
    assert reason in start_head(model, tuned, make_rows(20, labels=1 if broken == "one label" else 2), 0, CPU, lambda _: None)
    assert torch.equal(model.base_model.model.classifier.weight, before)


def test_inputs_that_hardly_move_do_not_take_the_whole_head() -> None:
    torch.manual_seed(0)
    labels = [0, 1] * 100
    said = torch.randn(200, 32) + torch.tensor(labels)[:, None]
    said[:, :3] = 1 + 1e-4 * torch.randn(200, 3)  # as units of a tanh at its end
    weight, _, _ = regression(said, labels, 2, balanced=False, has_bias=True)
    assert weight[:, :3].norm() < 0.5 * weight.norm()
