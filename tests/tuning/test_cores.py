"""Cores that share out rows compute what cores that share products do, and as many of them the same bits each time."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import child
from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.device import Device
from tasks.errors import ChildDied
from tasks.progress import Bar, listening
from tasks.records import TokensRecord
from tasks.tuning import cores, faster, train
from tasks.tuning.batches import logits_of, pad
from tasks.tuning.cores import Batch, Cores, can_train, pays
from tasks.tuning.faster import hold_rounded, speed_up
from tasks.tuning.methods import choose_weights, load_base
from tests.tiny_model import LABELS, make_base
from tests.tuning.test_tune import RECIPE, adapter, job

ROWS = [[2, 7, 9, 11, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 12, 3], [2, 4, 4, 3], [2, 9, 3]]
RIGHT = [0, 1, 1, 0, 1]


@pytest.fixture(autouse=True)
def short_rows_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "FEWEST_TOKENS", 1)


def made(base: ResolvedBase, dropout: float = 0.0, **changes: Any) -> Any:
    """A model as training has it, with updates that are no longer zero."""
    torch.manual_seed(0)
    tuned = Tuned(name="tiny", **({"method": Method.LORA, "rank": 2, "dropout": dropout} | changes))
    model = speed_up(choose_weights(load_base(base.path, LABELS, 0, 0, tuned.attention_dropout), tuned, base))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and not name.endswith(("attention.dropout", "self.dropout")):
            module.p = dropout
    return model.train()


def loss_of(model: Any, rounded: bool = False) -> Any:
    def of(part: Batch) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded, cache_enabled=False):
            logits = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits.float(), part["labels"], reduction="sum") / len(RIGHT)

    return of


def gradients(model: Any, threads: int, times: int = 1, rounded: bool = False) -> dict[str, torch.Tensor]:
    """With the loss, of a step of so many parts."""
    batch = pad(ROWS, 0) | {"labels": torch.tensor(RIGHT)}
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    for _ in range(times):
        if threads > 1:
            loss = cores.cores(threads).gradients(batch, loss_of(model, rounded), list(weights.values()))
        else:
            loss = loss_of(model, rounded)(batch)
            loss.backward()
    found = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_gradients_are_those_of_one_thread_over_all_parts_of_a_step(kind: str, method: Method, tmp_path: Path) -> None:
    model = made(make_base(tmp_path, kind), method=method)
    alone = gradients(model, 1, times=2)
    assert len(alone) > 3
    for threads in (2, 3):
        torch.testing.assert_close(gradients(model, threads, times=2), alone)


def test_random_numbers_follow_from_torchs_and_not_from_which_thread_is_quicker(tmp_path: Path) -> None:
    model = made(make_base(tmp_path), dropout=0.3)
    hold_rounded(model)
    found = []
    for seed in (1, 1, 1, 1, 2):
        torch.manual_seed(seed)
        found.append((gradients(model, 2, rounded=True), torch.rand(1)))
    for again in found[1:4]:
        torch.testing.assert_close(again, found[0], rtol=0, atol=0)
    assert not torch.equal(found[0][0]["loss"], found[4][0]["loss"])


def test_each_thread_draws_numbers_of_its_own(tmp_path: Path) -> None:
    model = made(make_base(tmp_path), dropout=0.3)
    said: dict[tuple[float, ...], Any] = {}

    def noting(part: Batch) -> Any:
        logits = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
        said[tuple(logits.detach().flatten().tolist())] = part
        return logits.sum()

    same = pad([ROWS[0]] * 3, 0) | {"labels": torch.tensor([0, 0, 0])}
    cores.cores(3).gradients(same, noting, [weight for weight in model.parameters() if weight.requires_grad])
    assert len(said) == 3


def test_logits_are_those_of_one_thread_and_are_told_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(make_base(tmp_path))
    rows = [[2, *range(4, 4 + length), 3] for length in range(1, 9)] * 5
    monkeypatch.setattr("tasks.tuning.batches.TOKENS_A_CORE", 20)

    def said(threads: int) -> tuple[Any, list[int]]:
        told: list[int] = []
        logits = logits_of(
            model, lambda wanted: [rows[row] for row in wanted], [*map(len, rows)], 0, told=told.append, threads=threads
        )
        return logits, told

    (alone, at_once), (logits, told) = said(1), said(3)
    torch.testing.assert_close(logits, alone)
    assert at_once == [len(rows)]
    assert sum(told) == len(rows)
    assert told[0] == 2  # the longest rows, of 10 tokens
    assert told == sorted(told[:-1]) + told[-1:]


def test_whoever_is_told_can_end_it_and_nothing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(make_base(tmp_path))
    monkeypatch.setattr("tasks.tuning.batches.TOKENS_A_CORE", 1)
    begun: list[int] = []

    def fetch(wanted: list[int]) -> list[list[int]]:
        begun.extend(wanted)
        return [ROWS[0] for _ in wanted]

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logits_of(model, fetch, [len(ROWS[0])] * 100, 0, told=stop, threads=2)
    before = len(begun)
    assert before < 10
    assert list(cores.cores(2).mapped(str, range(3))) == [(0, "0"), (1, "1"), (2, "2")]
    assert len(begun) == before


@pytest.mark.parametrize("threads", [2, 3, 17])
def test_each_thread_has_its_part_of_torchs_also_after_work_that_torch_would_share(threads: int) -> None:
    team = Cores(threads)

    def work(_: int) -> int:
        torch.randn(400, 400).exp().sum()
        torch.mm(torch.randn(200, 200), torch.randn(200, 200))
        return int(torch.get_num_threads())

    assert {number for _, number in team.mapped(work, range(4 * team.count))} == {threads // min(threads, cores.MOST)}
    assert torch.get_num_threads() == 1, "this one's own stays"


@pytest.mark.parametrize(("lengths", "batches"), [([9], 1), ([9, 9], 2), ([9] * 8, 2), ([9, 2, 2], 2)])
def test_few_rows_are_shared_out_evenly_and_one_is_computed_by_all_cores(
    lengths: list[int], batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fetched = made(make_base(tmp_path)), []

    def fetch(wanted: list[int]) -> list[list[int]]:
        fetched.append(threading.current_thread().name)
        return [[2] * lengths[row] for row in wanted]

    logits_of(model, fetch, lengths, 0, threads=2)
    assert len(fetched) == batches
    assert all(name.startswith("cores") for name in fetched) == (len(lengths) > 1)


def test_an_error_of_one_thread_is_raised_once_the_others_have_ended(tmp_path: Path) -> None:
    running: set[int] = set()

    def work(number: int) -> None:
        running.add(number)
        try:
            if number == 1:
                raise MemoryError("the second")
            torch.randn(300, 300).matrix_exp()
        finally:
            running.discard(number)

    with pytest.raises(MemoryError, match="the second"):
        list(cores.cores(3).mapped(work, range(9)))
    assert not running


def test_models_that_may_keep_something_and_few_tokens_are_left_to_all_cores_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "known")
    model = made(base)
    assert pays(model, 8, 100, 2)
    assert not pays(model, 8, 100, 1)
    assert not pays(model, 1, 100, 2), "one core would have no row"
    assert pays(model, cores.MOST, 100, 50)
    assert not pays(model, cores.MOST - 1, 100, 50)
    assert not pays(made(base, dora=True), 8, 100, 2)
    assert not pays(made(make_base(tmp_path / "other", "modernbert"), targets=["Wqkv"]), 8, 100, 2)
    monkeypatch.setattr(cores, "FEWEST_TOKENS", 40)
    assert [pays(model, 8, tokens, 2) for tokens in (79, 80)] == [False, True]
    assert can_train(model, 4)
    assert not can_train(made(base, attention_dropout=0.1), 4)
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    monkeypatch.setattr(cores, "GRADIENT_BYTES", cores.MOST * trained)
    assert can_train(model, 64)
    monkeypatch.setattr(cores, "GRADIENT_BYTES", cores.MOST * trained - 1)
    assert not can_train(model, 64)


def test_dropout_that_draws_by_itself_is_not_trained_by_rows(tmp_path: Path) -> None:
    model = made(make_base(tmp_path), dropout=0.1)
    assert can_train(model, 2)
    next(module for module in model.modules() if isinstance(module, torch.nn.Dropout)).__class__ = torch.nn.Dropout
    assert not can_train(model, 2)


def test_a_forked_child_has_threads_of_its_own(tmp_path: Path) -> None:
    model = made(make_base(tmp_path))
    alone = gradients(model, 2)["loss"]
    forked = os.fork()
    if not forked:
        status = 1
        try:
            signal.alarm(60)
            status = 0 if torch.equal(gradients(model, 2)["loss"], alone) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0


@pytest.mark.parametrize("at_once", [2, 3, 6])
def test_a_training_by_rows_ends_in_the_weights_of_one_that_shares_products(
    at_once: int, tokens: TokensRecord, base: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"dropout": 0.0, "epochs": 1, "batch_size": 6, "learning_rate": 0.001})
    plain = train._attempt

    def without_dropout(*given: Any) -> Any:
        monkeypatch.setattr(faster.CheapDropout, "forward", lambda own, values: values)
        return plain(*given)

    monkeypatch.setattr(train, "_attempt", without_dropout)
    found = []
    for threads in (1, 2):
        place = home / f"{threads}"
        monkeypatch.setattr(train, "pick_device", lambda threads=threads: Device("cpu", "float32", "asked for", threads=threads))
        told = train.train(job(recipe, tokens, base, place, rows_at_once=at_once))
        found.append((load_file(place / "made/adapter/adapter_model.safetensors"), told["training"]["epochs"][-1]["loss"]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.fixture
def clear() -> Iterator[None]:
    yield
    child.told_to_stop.clear()


@pytest.mark.usefixtures("clear")
def test_a_training_by_rows_that_was_stopped_ends_in_the_bits_of_a_whole_one(
    tokens: TokensRecord, base: ResolvedBase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, by_rows, plain = RECIPE.model_copy(update={"dropout": 0.1, "epochs": 3}), [], Cores.gradients

    def noting(own: Cores, batch: Batch, *given: Any) -> Any:
        by_rows.append(own.count)
        return plain(own, batch, *given)

    def stop(bar: Bar) -> None:
        if bar.title == "train tiny" and bar.done >= 15:
            child.told_to_stop.set()

    monkeypatch.setattr(Cores, "gradients", noting)
    monkeypatch.setattr(train, "pick_device", lambda: Device("cpu", "float32", "asked for", threads=3))
    whole = train.train(job(recipe, tokens, base, home / "whole"))
    with listening(stop), pytest.raises(ChildDied, match="told to stop"):
        train.train(job(recipe, tokens, base, home / "stopped"))
    child.told_to_stop.clear()
    monkeypatch.setattr(train, "pick_device", lambda: Device("cpu", "float32", "a machine of fewer cores", threads=1))
    resumed = train.train(job(recipe, tokens, base, home / "stopped"))
    assert set(by_rows) == {3}
    assert resumed["training"]["epochs"][-1]["loss"] == whole["training"]["epochs"][-1]["loss"]
    assert adapter(home / "stopped") == adapter(home / "whole")
