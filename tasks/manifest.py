"""`contender.json`: what makes a folder a contender.

A contender is a folder with this manifest and the files it names. Publishing copies the folder; the SHA-256 of the manifest names
it on S3, and the manifest holds the SHA-256 of every file, so one hash vouches for all.
"""

from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from tasks.errors import IntegrityError
from tasks.records import Arm, Model
from tasks.workspace import file_sha256, write_durably

FILE = "contender.json"
FORBIDDEN = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".py", ".so"}
"""Endings of files that can run code when they are read: never written, never loaded."""


class ContenderManifest(Model):
    """The content of `contender.json`."""

    format: Literal[1] = 1
    name: str
    arm: Arm
    kind: str
    """Which predictor reads the folder."""
    task: Literal["classification", "generation"] = "classification"
    labels: list[str]
    """Label names in the order of the logits; empty for generation."""
    inputs: list[str]
    """The input columns, in order."""
    fingerprint: str
    """Of what it was made from."""
    dataset: str
    """Fingerprint of the data set that taught it."""
    occupies: str
    """The resource it needs while it predicts: `device`, or `endpoint:NAME`."""
    spec: dict[str, Any] = {}
    """What its kind needs to know; the kind's module has the schema."""
    files: dict[str, str] = Field(default={})
    """SHA-256 by relative path."""

    @field_validator("files")
    @classmethod
    def _plain_paths(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name or len(name) > 200:
                raise ValueError(f"file name {name[:60]!r} is not a plain relative path")
            if path.suffix in FORBIDDEN:
                raise ValueError(f"file {name!r} may run code when it is read; only safetensors, JSON and text are allowed")
        return files


def write_manifest(folder: Path, manifest: ContenderManifest) -> ContenderManifest:
    """Hash the folder's files (manifests of contenders inside it among them) into the manifest and write it."""
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in {folder / FILE, folder / "record.json"}
    }
    whole = ContenderManifest.model_validate(manifest.model_dump() | {"files": files})
    write_durably(folder / FILE, whole.model_dump_json(indent=2))
    return whole


def read_manifest(folder: Path, check_files: bool = True) -> ContenderManifest:
    """The manifest of a contender folder; with `check_files` every file is hashed again.

    Raises:
        IntegrityError: the manifest is missing, malformed, or a file is missing or not what it says.
    """
    path = folder / FILE
    try:
        manifest = ContenderManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IntegrityError(f"{folder} is no contender: cannot read {FILE} ({error.strerror})") from None
    except ValidationError as error:
        raise IntegrityError(f"{path} is malformed: {error.errors()[0]['msg']}") from None
    for name, expected in manifest.files.items() if check_files else ():
        found = file_sha256(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise IntegrityError(f"{folder / name} is not what {FILE} says: expected SHA-256 {expected}, found {found}")
    return manifest
