"""Where products of stages lie, named by fingerprint, so that nothing is done twice and a killed run goes on where it was.

    <root>/products/<stage>/<fingerprint>/record.json …   whole products: written aside, renamed when complete
    <root>/inprogress/<stage>/<fingerprint>/…             what grows while a stage runs (journal of answers, checkpoints)

This is the only cache. A lock per product, freed by the system when its holder dies, keeps two processes off one stage.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tasks.records import Record

logger = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Stage:
    """A stage of the main job. Raise `version` when a change to its modules changes what it makes; a test compares the modules'
    code with the hash kept for the version."""

    name: str
    version: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Building:
    """What a builder is given."""

    folder: Path
    """Write the product here; it becomes visible when the builder returns."""
    inprogress: Path
    """Keep here what must outlive a kill; removed when the product is whole."""
    fingerprint: str


@dataclass(frozen=True)
class Workspace:
    """A folder of products."""

    root: Path
    reused: list[str] = field(default_factory=list)
    """The stages that found their product, in order."""

    def produce(
        self,
        stage: Stage,
        inputs: Iterable[str],
        config: Any,
        record: type[R],
        build: Callable[[Building], R],
        label: str = "",
    ) -> R:
        """The stage's product for these inputs: found, or built and then found by everybody.

        Args:
            inputs: fingerprints of what the stage reads.
            config: the stage's part of the config (anything that `canonical` takes).
            record: the type of the record that `build` returns.
            build: makes the product; must be resumable from `Building.inprogress`.
            label: what to call the product where `reused` is listed; the stage's name if empty.
        """
        key = fingerprint(stage, inputs, config)
        folder = self.root / "products" / stage.name / key
        found = self._find(folder, record, label or stage.name)
        return found or self._build(stage, key, folder, record, build, label or stage.name)

    def find(self, stage: Stage, inputs: Iterable[str], config: Any, record: type[R]) -> R | None:
        """The product if it is there already, without building it."""
        folder = self.root / "products" / stage.name / fingerprint(stage, inputs, config)
        return read_record(folder, record) if (folder / "record.json").exists() else None

    def _find(self, folder: Path, record: type[R], label: str) -> R | None:
        if not (folder / "record.json").exists():
            return None
        logger.info("%s: reused %s", label, folder.name[:12])
        self.reused.append(label)
        return read_record(folder, record).model_copy(update={"reused": True})

    def _build(self, stage: Stage, key: str, folder: Path, record: type[R], build: Callable[[Building], R], label: str) -> R:
        from filelock import FileLock

        inprogress = self.root / "inprogress" / stage.name / key
        inprogress.mkdir(parents=True, exist_ok=True)
        with FileLock(inprogress.with_suffix(".lock")):
            found = self._find(folder, record, label)  # another process may have built it while this one waited
            if found:
                return found
            aside = inprogress / "product"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            made = build(Building(aside, inprogress, key))
            made = made.model_copy(update={"fingerprint": made.fingerprint or key})
            write_durably(aside / "record.json", made.model_dump_json(indent=2))
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(folder)
            _sync_folder(folder.parent)
            shutil.rmtree(inprogress, ignore_errors=True)
        return made.model_copy(update={"folder": folder})


def read_record(folder: Path, record: type[R]) -> R:
    """The record of a product that lies in `folder`."""
    text = (folder / "record.json").read_text(encoding="utf-8")
    return record.model_validate_json(text).model_copy(update={"folder": folder})


def fingerprint(stage: Stage, inputs: Iterable[str], config: Any) -> str:
    """SHA-256 over the stage, its version, its inputs' fingerprints and its part of the config."""
    return digest({"stage": stage.name, "version": stage.version, "inputs": list(inputs), "config": config})


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; pydantic models and paths are allowed inside."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, at flat memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """The same file at another place; a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_durably(path: Path, text: str) -> None:
    """Write a file whole or not at all: aside, synced to disk, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    _sync_folder(path.parent)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
