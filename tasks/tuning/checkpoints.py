"""Checkpoints that are whole or set aside.

A checkpoint is written aside; a last file, `complete.json`, holds the SHA-256 of the others; then the folder is renamed.
What a kill or a full disk left half-written is therefore never taken for a checkpoint.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.workspace import file_sha256, write_durably

logger = logging.getLogger(__name__)
COMPLETE = "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    folder: Path
    step: int
    facts: dict[str, Any]
    """What its writer wanted to remember; `best_step` names the checkpoint with the best weights so far."""


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of an optimiser step lies."""
    return root / f"checkpoint-{step}"


def save(root: Path, step: int, facts: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, and make it the checkpoint of this step."""
    aside = root / f"writing-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    hashes = {path.relative_to(aside).as_posix(): file_sha256(path) for path in files}
    write_durably(aside / COMPLETE, json.dumps({"step": step, "facts": facts, "files": hashes}, indent=2))
    shutil.rmtree(folder_of(root, step), ignore_errors=True)
    aside.rename(folder_of(root, step))
    _sync(root)


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint whose best weights are whole too. All that is not whole is set aside, and said."""
    for left in sorted(root.glob("writing-*")):
        _set_aside(left, "it was being written when the run ended")
    found = []
    for folder in root.glob("checkpoint-*"):
        checkpoint = _read(folder)
        if checkpoint:
            found.append(checkpoint)
    whole = {checkpoint.step for checkpoint in found}
    usable = [checkpoint for checkpoint in found if checkpoint.facts.get("best_step") in whole | {None}]
    return max(usable, key=lambda checkpoint: checkpoint.step, default=None)


def prune(root: Path, keep: set[int]) -> None:
    """Remove the checkpoints of all other steps."""
    for folder in root.glob("checkpoint-*"):
        if folder not in {folder_of(root, step) for step in keep}:
            shutil.rmtree(folder)


def _read(folder: Path) -> Checkpoint | None:
    try:
        marker = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        wrong = [name for name, expected in marker["files"].items() if file_sha256(folder / name) != expected]
        if not wrong:
            return Checkpoint(folder, int(marker["step"]), marker["facts"])
        reason = f"{wrong[0]} is not what was written"
    except (OSError, ValueError, KeyError) as error:
        reason = f"it is not whole ({type(error).__name__}: {error})"
    _set_aside(folder, reason)
    return None


def _set_aside(folder: Path, reason: str) -> None:
    home = folder.parent / "set-aside"
    home.mkdir(exist_ok=True)
    place = home / f"{folder.name}-{len(list(home.iterdir()))}"
    folder.rename(place)
    logger.warning("checkpoint %s is set aside in %s: %s", folder.name, place, reason)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
