from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import IntegrityError
from tasks.manifest import ContenderManifest, read_manifest, write_manifest
from tasks.records import Arm


def manifest(**changes: object) -> ContenderManifest:
    values = {
        "name": "m",
        "arm": Arm.TRIVIAL,
        "kind": "majority",
        "labels": ["a", "b"],
        "inputs": ["text"],
        "fingerprint": "f",
        "dataset": "d",
        "occupies": "device",
    }
    return ContenderManifest.model_validate(values | changes)


def test_a_manifest_vouches_for_every_file(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.safetensors").write_bytes(b"w")
    written = write_manifest(tmp_path, manifest())
    assert list(written.files) == ["adapter/weights.safetensors"]
    assert read_manifest(tmp_path) == written
    (tmp_path / "adapter" / "weights.safetensors").write_bytes(b"v")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors is not what"):
        read_manifest(tmp_path)
    (tmp_path / "adapter" / "weights.safetensors").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../up.json", "/etc/x.json", "a/../../b.json", "a\0.json", "x" * 300, "a\\b.json"])
def test_file_names_that_climb_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="not a plain relative path"):
        manifest(files={name: "0"})


@pytest.mark.parametrize("name", ["model.bin", "weights.pt", "model.pkl", "code.py", "adapter/training_args.bin"])
def test_files_that_may_run_code_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="may run code"):
        manifest(files={name: "0"})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValidationError, match="may run code"):
        write_manifest(tmp_path, manifest())


def test_a_folder_without_a_manifest_or_with_a_broken_one_is_no_contender(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no contender"):
        read_manifest(tmp_path)
    (tmp_path / "contender.json").write_text("{}")
    with pytest.raises(IntegrityError, match="malformed"):
        read_manifest(tmp_path)
