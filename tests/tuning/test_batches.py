import hashlib
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tasks.config import ClassWeights
from tasks.tuning.batches import LikeLengths, by_tokens, even, logits_of, out_of_memory, pad
from tasks.tuning.objectives import label_weights, supervised

LENGTHS = random.Random(7).choices(range(3, 60), k=997)


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_every_row_comes_once_an_epoch_in_an_order_that_seed_and_epoch_decide() -> None:
    sampler = LikeLengths(LENGTHS, 16, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(len(LENGTHS)))
    assert list(LikeLengths(LENGTHS, 16, seed=1)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LikeLengths(LENGTHS, 16, seed=2)) != first


def test_the_order_of_a_seed_is_that_of_every_version_before() -> None:
    sampler = LikeLengths(LENGTHS, 16, seed=1)
    assert hashlib.sha256(repr(list(sampler)).encode()).hexdigest()[:16] == "694e37479479a1eb"


def test_batches_hold_rows_of_like_length_and_the_longest_comes_first() -> None:
    order = list(LikeLengths(LENGTHS, 16, seed=1))
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches(order, 16))
    shuffled = random.Random(1).sample(range(len(LENGTHS)), len(LENGTHS))
    padded_at_random = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches(shuffled, 16))
    assert padded < 1.05 * sum(LENGTHS)
    assert padded_at_random > 1.5 * sum(LENGTHS)
    assert max(LENGTHS[row] for row in order[:16]) >= max(LENGTHS[row] for row in order[:-16])


def test_evaluation_batches_keep_to_their_tokens_and_lose_no_row() -> None:
    parts = list(by_tokens(LENGTHS, 256))
    assert sorted(row for part in parts for row in part) == list(range(len(LENGTHS)))
    assert all(len(part) * max(LENGTHS[row] for row in part) <= 256 for part in parts)
    assert list(by_tokens([9, 1], 4)) == [[0], [1]]


def test_padding_is_on_the_right_and_masked() -> None:
    padded = pad([[5, 6, 7], [8]], pad_id=0)
    assert padded["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_in_bfloat16_on_the_cpu_few_widths_come_about_and_none_that_the_base_may_not_take() -> None:
    widths = [even(tokens, 250, "cpu", "bfloat16") for tokens in range(1, 251)]
    assert sorted(set(widths)) == [*range(16, 241, 16), 250]
    assert all(tokens <= width for tokens, width in enumerate(widths, 1))
    assert even(7, 250, "cpu", "float32") == even(7, 250, "cuda", "bfloat16") == 7
    padded = pad([[5, 6, 7], [8]], 0, partial(even, most=250, device="cpu", dtype="bfloat16"))
    assert padded["input_ids"].shape == (2, 16)
    assert padded["attention_mask"].sum(-1).tolist() == [3, 1]


def test_the_loss_in_parts_is_the_loss_of_the_whole_batch() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    whole = supervised(SimpleNamespace(logits=logits), labels, 6)
    parts = [supervised(SimpleNamespace(logits=logits[part]), labels[part], 6) for part in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(whole, sum(parts))
    torch.testing.assert_close(whole, torch.nn.functional.cross_entropy(logits, labels))


class Narrow(torch.nn.Module):
    """Asks for a thousand terabytes when it is given more than two rows at once."""

    config = SimpleNamespace(num_labels=2)
    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        if len(input_ids) > 2:
            torch.empty(10**15)
        return SimpleNamespace(logits=torch.stack([input_ids.sum(1), attention_mask.sum(1)], 1).float())


def test_evaluation_halves_a_batch_that_memory_cannot_hold() -> None:
    ids = [[row + 1] * (1 + row % 3) for row in range(11)]
    found = logits_of(Narrow(), lambda rows: [ids[row] for row in rows], [*map(len, ids)], pad_id=0)
    assert found.tolist() == [[sum(row), len(row)] for row in ids]


def test_a_real_failed_allocation_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(10**15)
    assert out_of_memory(failure.value)
    assert not out_of_memory(RuntimeError("size mismatch"))


def test_class_weights_make_each_label_weigh_as_much_and_leave_the_mean_at_one() -> None:
    labels = [0] * 6 + [1] * 2
    weights = label_weights(ClassWeights.BALANCED, labels, 3)
    assert weights == [8 / 12, 2.0, 0.0]
    assert sum(weights[label] for label in labels) / len(labels) == pytest.approx(1)
    assert label_weights(ClassWeights.NONE, labels, 3) is None


def test_weights_and_smoothing_are_torchs_and_hold_in_parts_too() -> None:
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0]), [0.5, 1.0, 2.0]
    whole = supervised(SimpleNamespace(logits=logits), labels, 6, 0.1, weights)
    parts = [supervised(SimpleNamespace(logits=logits[part]), labels[part], 6, 0.1, weights) for part in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(whole, sum(parts))
    single = torch.nn.functional.cross_entropy(logits, labels, torch.tensor(weights), reduction="sum", label_smoothing=0.1) / 6
    torch.testing.assert_close(whole, single)
