from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tasks.bases import ResolvedBase
from tasks.config import Method, Tuned
from tasks.device import Device
from tasks.records import TokensRecord
from tasks.tuning import kept, train
from tasks.tuning.batches import logits_of
from tasks.tuning.faster import speed_up
from tasks.tuning.kept import KeptEncoder, can_be_kept, keep, put_back, stand_in
from tasks.tuning.methods import choose_weights, load_base, restore
from tests.tiny_model import LABELS, make_base

HEAD = Tuned(name="tiny", method=Method.HEAD, learning_rate=0.01, epochs=3, batch_size=8)


def make_model(base: ResolvedBase, method: Method = Method.HEAD) -> Any:
    torch.manual_seed(0)
    model = load_base(base.path, LABELS, 0, 0)
    return speed_up(choose_weights(model, Tuned(name="tiny", method=method), base))


def say(model: Any, rows: Dataset) -> Any:
    return logits_of(model, lambda wanted: rows[wanted]["input_ids"], rows["length"][:], 0)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_head_on_what_was_kept_answers_as_the_whole_model(
    kind: str, tokens: TokensRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "ROWS_A_PART", 13)
    base = make_base(tmp_path / "base", kind)
    model, rows = make_model(base), Dataset.load_from_disk(str(tokens.folder / "dev"))
    expected = say(model, rows)
    weights = dict(model.named_parameters())
    assert can_be_kept(model, 0)
    found = keep(model, rows, tmp_path / "kept", "dev", 0, "float32")
    assert found["label"][:] == rows["label"][:]
    stand_in(model)
    torch.testing.assert_close(say(model, found), expected)
    put_back(model)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == {
        name: weight.data_ptr() for name, weight in weights.items()
    }
    torch.testing.assert_close(say(model, rows), expected)


def test_a_pooler_that_the_base_lacks_trains_on_what_was_kept(tmp_path: Path) -> None:
    base = make_base(tmp_path, "bert")
    model = make_model(base)
    model.bert.pooler.dense.weight.requires_grad = True
    assert can_be_kept(model, 0)
    stand_in(model)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert "bert.pooler.dense.weight" in trained
    assert isinstance(model.bert, KeptEncoder)


def test_parts_that_are_there_are_not_computed_again(
    base: ResolvedBase, tokens: TokensRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "ROWS_A_PART", 10)
    rows = Dataset.load_from_disk(str(tokens.folder / "dev"))
    model = make_model(base)
    whole = keep(model, rows, tmp_path, "dev", 0, "float32")["input_ids"][:]
    (tmp_path / "dev-00002.arrow").rename(tmp_path / "dev-00002.writing")  # as a kill leaves it
    computed: list[int] = []
    monkeypatch.setattr(kept, "logits_of", lambda *given: (computed.append(len(given[2])), logits_of(*given))[1])
    again = keep(model, rows, tmp_path, "dev", 0, "float32")
    assert computed == [10]
    assert again["input_ids"][:] == whole


def test_what_trains_in_the_encoder_or_reads_all_tokens_is_not_kept(base: ResolvedBase, tmp_path: Path) -> None:
    assert not can_be_kept(make_model(base, Method.FULL), 0)
    assert not can_be_kept(make_model(make_base(tmp_path, "gpt2")), 0)


def test_training_the_head_runs_the_encoder_once_over_each_row_whatever_the_epochs(
    base: ResolvedBase, tokens: TokensRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(kept._FirstTokens, "forward", _counting(kept._FirstTokens.forward, seen))
    place = {"id": base.id, "revision": base.revision, "path": str(base.path), "config_sha256": base.config_sha256}
    (tmp_path / "made").mkdir()
    asked = {
        "tuned": HEAD.model_dump(mode="json"),
        "labels": LABELS,
        "tokens": str(tokens.folder),
        "base": place,
        "folder": str(tmp_path / "made"),
        "checkpoints": str(tmp_path / "checkpoints"),
        "samples": ["a superb and moving film", "a dull and tedious plot"],
    }
    made = train.train(asked)
    assert sum(seen) == sum(tokens.rows[split] for split in ("train", "dev")) + 2  # two made-up rows
    assert len(made["training"]["epochs"]) == HEAD.epochs
    assert made["training"]["parameters"] > 10 * made["training"]["parameters_trained"] > 0
    model = restore(tmp_path / "made", Method.HEAD, base.path, LABELS, made["vocabulary"], 0)
    dev = Dataset.load_from_disk(str(tokens.folder / "dev"))
    right = (say(model, dev).argmax(-1) == torch.tensor(dev["label"][:])).float().mean().item()
    assert right == pytest.approx(max(epoch["dev_accuracy"] for epoch in made["training"]["epochs"]))
    assert len(made["samples"]) == 2


def _counting(forward: Any, seen: list[int]) -> Any:
    def count(self: Any, **batch: Any) -> Any:
        seen.append(len(batch["input_ids"]))
        return forward(self, **batch)

    return count


def test_a_resumed_training_keeps_the_dtype_that_it_began_with(base: ResolvedBase, tokens: TokensRecord, tmp_path: Path) -> None:
    place = {"id": base.id, "revision": base.revision, "path": base.path, "config_sha256": base.config_sha256}
    job = train.Job.model_validate(
        {
            "tuned": HEAD,
            "labels": LABELS,
            "tokens": tokens.folder,
            "base": place,
            "folder": tmp_path,
            "checkpoints": tmp_path / "growing/checkpoints",
        }
    )
    first = Device("cpu", "bfloat16", "measured")
    assert train.as_before(job.checkpoints.parent, first) == first
    assert train.as_before(job.checkpoints.parent, Device("cpu", "float32", "measured again, on a busy machine")) == first
    other = Device("cuda", "bfloat16", "moved to another machine")
    assert train.as_before(job.checkpoints.parent, other) == other
