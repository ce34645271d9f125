"""Where products of stages lie, named by fingerprint, so that nothing is done twice and a killed run goes on where it was.

    <root>/products/<stage>/<fingerprint>/record.json …   whole products: written aside, renamed when complete
    <root>/inprogress/<stage>/<fingerprint>/…             what grows while a stage runs (journal of answers, checkpoints)

This is the only cache. A lock per product, freed by the system when its holder dies, keeps two processes off one stage. Where the
operator names a store for it, the workspace is shared with other machines (`tasks/sharing/`): what is not here is looked for there.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel

from tasks.records import Record

logger = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)
BEING_WRITTEN = (".*", "*.lock", "*.writing", "writing-*", "replaced-*", "set-aside", "cache", "answers", "product")
"""Under a stage's `inprogress`: names of what is not whole yet, or need not outlive a kill."""


class NotMade(Exception):
    """A product is not there, and this workspace only finds."""


class Making(Protocol):
    """A product that this worker makes, and no other meanwhile."""

    def commit(self, folder: Path) -> None:
        """Have all workers find the product. Raises LostClaim where another one has taken over."""
        ...


class Sharing(Protocol):
    """Where workers on several machines keep their products together."""

    def fetch(self, place: str, folder: Path) -> bool:
        """Have a product here, whole and checked, where a worker made it. `place` is `<stage>/<fingerprint>`."""
        ...

    def claim(self, place: str, folder: Path, inprogress: Path) -> AbstractContextManager[Making | None]:
        """Wait until this worker may make a product, and until what was left of it is in `inprogress`; None where it came to be
        there meanwhile, and was fetched."""
        ...

    def hand_in(self, place: str, folder: Path) -> None:
        """Have the others find a product that was made before the workspace was shared."""
        ...

    def together(self, name: str) -> None:
        """Have the same small files in a folder of the workspace as all the others: they are written once and never changed."""
        ...

    def keep(self, file: Path) -> str:
        """Have a file of this workspace, at the same place, in the shared one as well; its address there."""
        ...

    def send_soon(self, insist: bool = False) -> "Future[None]":
        """Have all that was answered by now sent at once; done when the others can find it, or when the store is in trouble.

        Args:
            insist: have it tried although the store was in trouble just now.
        """
        ...


@dataclass(frozen=True)
class Stage:
    """A stage of the main job. Raise `version` when a change to its modules changes what it makes; a test compares the modules'
    code with the hash kept for the version."""

    name: str
    version: int
    modules: tuple[str, ...]
    shared: bool = True
    """Whether other machines have a use for its products: not for copies of what lies in a store anyway."""


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
    sharing: Sharing | None = None
    """None where the workspace is this home's alone."""
    builds: bool = True
    """Whether what is not there is made; else `NotMade` is raised."""

    def only_finding(self) -> Self:
        """The same products, but nothing is made."""
        return replace(self, reused=[], builds=False)

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
        if found is None:
            return self._build(stage, key, folder, record, build, label or stage.name)
        if self.sharing and stage.shared:
            self.sharing.hand_in(f"{stage.name}/{key}", folder)
        return found

    def find(self, stage: Stage, inputs: Iterable[str], config: Any, record: type[R]) -> R | None:
        """The product if it is there already, without building it."""
        key = fingerprint(stage, inputs, config)
        folder = self.root / "products" / stage.name / key
        there = (folder / "record.json").exists() or self._fetched(stage, key, folder)
        return read_record(folder, record) if there else None

    def _find(self, folder: Path, record: type[R], label: str) -> R | None:
        if not (folder / "record.json").exists():
            return None
        logger.info("%s: reused %s", label, folder.name[:12])
        self.reused.append(label)
        return read_record(folder, record).model_copy(update={"reused": True})

    def _fetched(self, stage: Stage, key: str, folder: Path) -> bool:
        return bool(self.sharing and stage.shared and self.sharing.fetch(f"{stage.name}/{key}", folder))

    def _build(self, stage: Stage, key: str, folder: Path, record: type[R], build: Callable[[Building], R], label: str) -> R:
        from filelock import FileLock

        inprogress = self.root / "inprogress" / stage.name / key
        inprogress.mkdir(parents=True, exist_ok=True)
        with FileLock(inprogress.with_suffix(".lock")):
            found = self._find(folder, record, label)  # another process may have built it while this one waited
            if found is None and self._fetched(stage, key, folder):
                found = self._find(folder, record, label)
            if found:
                return found
            if not self.builds:
                raise NotMade(label)
            if not (self.sharing and stage.shared):
                return _make(Building(inprogress / "product", inprogress, key), folder, build)
            with self.sharing.claim(f"{stage.name}/{key}", folder, inprogress) as making:
                if making:
                    return _make(Building(inprogress / "product", inprogress, key), folder, build, making)
            found = self._find(folder, record, label)
            assert found, "the claim was let go because the product is there"
            return found


def _make(building: Building, folder: Path, build: Callable[[Building], R], making: Making | None = None) -> R:
    """Build a product aside, and let it be found when it is whole."""
    shutil.rmtree(building.folder, ignore_errors=True)
    building.folder.mkdir()
    made = build(building)
    made = made.model_copy(update={"fingerprint": made.fingerprint or building.fingerprint})
    write_durably(building.folder / "record.json", made.model_dump_json(indent=2))
    if making:
        making.commit(building.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building.folder.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(building.inprogress, ignore_errors=True)
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
    aside = path.with_name(f".{path.name}.{uuid4().hex}")  # containers that share a folder have equal process ids
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
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
