import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contenders.loader import load_contender
from tasks.contenders.tuned import TunedPredictor
from tasks.data.examples import read_examples
from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FILE, ContenderManifest, read_manifest, write_manifest
from tasks.records import Arm, ContenderRecord, DatasetRecord
from tasks.settings import Settings
from tasks.tuning import batches
from tests.tiny_model import make_base


def copy_of(contender: ContenderRecord, folder: Path) -> Path:
    shutil.copytree(contender.folder, folder)
    return folder


def change(folder: Path, **keys: Any) -> None:
    path = folder / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_a_tuned_contender_predicts_what_training_saw(lora: ContenderRecord, dataset: DatasetRecord, settings: Settings) -> None:
    dev = read_examples(dataset, "dev")
    answers = load_contender(lora.folder, settings=settings).predict(dev)
    right = sum(answer.label == row.label for answer, row in zip(answers, dev, strict=True))
    assert lora.training
    best = lora.training.epochs[lora.training.best_epoch - 1]["dev_accuracy"]
    assert right / len(dev) == pytest.approx(best, abs=1 / len(dev))  # training evaluates in bfloat16 where that is faster
    assert all(answer.logits and answer.input_tokens > 2 and 0.5 <= (answer.probability or 0) <= 1 for answer in answers)


def test_a_row_is_answered_alike_alone_and_in_any_batch(lora: ContenderRecord, dataset: DatasetRecord, settings: Settings) -> None:
    test = read_examples(dataset, "test")
    predictor = load_contender(lora.folder, settings=settings)
    together = predictor.predict(test)
    backwards = predictor.predict(test[::-1])[::-1]
    alone = [predictor.predict([row])[0] for row in test]
    for one, two, three in zip(together, backwards, alone, strict=True):
        assert one.label == two.label == three.label
        assert one.logits == pytest.approx(two.logits, abs=1e-5)
        assert one.logits == pytest.approx(three.logits, abs=1e-5)
    assert predictor.predict(test) == together
    assert predictor.predict([]) == []


def test_quick_predictions_round_in_bfloat16_and_have_the_labels_of_float32_even_where_rounding_would_change_them(
    lora: ContenderRecord, dataset: DatasetRecord, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "NEAREST", 2)
    monkeypatch.setattr(batches, "SPREAD", 2)
    test = read_examples(dataset, "test")
    predictor = TunedPredictor(lora.folder, read_manifest(lora.folder), settings, quick=True)
    predictor.dtype = "bfloat16"  # whatever pays on this machine
    with torch.no_grad():  # a head that is sure of nothing
        for name, weight in predictor.model.named_parameters():
            if "classifier" in name:
                weight.mul_(0.05)
    quick = predictor.predict(test)
    predictor.dtype = "float32"
    exact = predictor.predict(test)
    assert [row.label for row in quick] == [row.label for row in exact]
    off = [abs(one.logits[0] - two.logits[0]) for one, two in zip(quick, exact, strict=True)]
    margins = [abs(row.logits[0] - row.logits[1]) for row in exact]
    again = [distance for distance, margin in zip(off, margins, strict=True) if margin <= max(off)]
    assert 1e-6 < max(off) < 0.05
    assert max(again, default=0.0) < 1e-6, "rows whose two labels are so near are computed again"


def test_the_temperature_moves_the_probability_and_neither_label_nor_logits(
    lora: ContenderRecord, dataset: DatasetRecord, settings: Settings, tmp_path: Path
) -> None:
    test = read_examples(dataset, "test")
    folder = copy_of(lora, tmp_path / "c")
    spec = json.loads((folder / FILE).read_text())["spec"]
    found = []
    for temperature in (1.0, 4.0):
        change(folder, spec=spec | {"temperature": temperature})
        found.append(load_contender(folder, settings=settings).predict(test))
    plain, warm = found
    assert [(row.label, row.logits) for row in plain] == [(row.label, row.logits) for row in warm]
    assert all(0.5 <= (hot.probability or 0) < (cold.probability or 0) for cold, hot in zip(plain, warm, strict=True))
    change(folder, spec=spec | {"temperature": 0})
    with pytest.raises(IntegrityError, match=r"spec\.temperature"):
        load_contender(folder, settings=settings)


def test_another_base_is_refused_naming_both(lora: ContenderRecord, tmp_path: Path) -> None:
    make_base(tmp_path / "tiny", seed=5)
    with pytest.raises(IntegrityError, match=r"trained on folder-\w+ at revision \w+ \(config SHA-256 \w+\), but the base here is"):
        load_contender(lora.folder, settings=Settings(roots=[tmp_path]))


def test_a_base_with_another_config_is_refused(lora: ContenderRecord, settings: Settings, tmp_path: Path) -> None:
    folder = copy_of(lora, tmp_path / "c")
    spec = json.loads((folder / FILE).read_text())["spec"]
    change(folder, spec=spec | {"config_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="config SHA-256 0000"):
        load_contender(folder, settings=settings)


def test_changed_bytes_are_refused(lora: ContenderRecord, settings: Settings, tmp_path: Path) -> None:
    folder = copy_of(lora, tmp_path / "c")
    weights = folder / "adapter/adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors is not what"):
        load_contender(folder, settings=settings)


@pytest.mark.parametrize("name", ["adapter/adapter_model.bin", "model.PKL", "modeling.py"])
def test_files_that_can_run_code_are_refused_listed_or_not(
    name: str, lora: ContenderRecord, settings: Settings, tmp_path: Path
) -> None:
    folder = copy_of(lora, tmp_path / "c")
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(IntegrityError, match="may run code"):
        load_contender(folder, settings=settings)


def test_missing_weights_are_refused_before_a_library_looks_for_pickle(
    lora: ContenderRecord, settings: Settings, tmp_path: Path
) -> None:
    folder = copy_of(lora, tmp_path / "c")
    (folder / "adapter/adapter_model.safetensors").unlink()
    files = json.loads((folder / FILE).read_text())["files"]
    files.pop("adapter/adapter_model.safetensors")
    change(folder, files=files)
    with pytest.raises(IntegrityError, match="only safetensors"):
        load_contender(folder, settings=settings)


def test_a_hostile_chat_template_is_never_rendered(lora: ContenderRecord, settings: Settings, tmp_path: Path) -> None:
    folder = copy_of(lora, tmp_path / "c")
    path = folder / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}))
    manifest = ContenderManifest.model_validate_json((folder / FILE).read_bytes())
    write_manifest(folder, manifest)
    assert isinstance(load_contender(folder, settings=settings), TunedPredictor)


@pytest.mark.parametrize(("spec", "message"), [({}, "spec.method"), ({"method": "magic"}, "spec.method")])
def test_a_malformed_spec_is_refused(spec: dict[str, str], message: str, lora: ContenderRecord, tmp_path: Path) -> None:
    folder = copy_of(lora, tmp_path / "c")
    change(folder, spec=spec)
    with pytest.raises(IntegrityError, match=message):
        load_contender(folder, settings=Settings())


def test_unknown_kinds_and_prompts_without_an_endpoint_are_refused(tmp_path: Path) -> None:
    for kind, error, message in (("oracle", IntegrityError, "update bakeoff"), ("prompt", BadConfig, "give the endpoint")):
        folder = tmp_path / kind
        folder.mkdir()
        facts = {"name": kind, "arm": Arm.PROMPT, "kind": kind, "labels": ["a"], "inputs": ["text"]}
        write_manifest(folder, ContenderManifest(**facts, fingerprint="f", dataset="d", occupies="endpoint:local"))  # type: ignore[arg-type]
        with pytest.raises(error, match=message):
            load_contender(folder)
