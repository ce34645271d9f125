"""Checkpoints that are whole or set aside.

A checkpoint is written aside; a last file, `complete.json`, holds the SHA-256 of the others; then the folder is renamed.
What a kill or a full disk left half-written is therefore never taken for a checkpoint.

    checkpoint-12   whole                    writing-16    not yet, or whole and not yet renamed
    replaced-12     an older one of step 12  set-aside/    what was found not to be whole
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import TrainingError
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


def aside_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is whole."""
    return root / f"writing-{step}"


def save(root: Path, step: int, facts: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, and make it the checkpoint of this step.

    Raises:
        TrainingError: there is no room for it; what was there before is intact.
    """
    aside = aside_of(root, step)
    shutil.rmtree(aside, ignore_errors=True)
    with room_for(f"the checkpoint of step {step}", aside, root):
        aside.mkdir(parents=True)
        write(aside)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        for path in files:
            _sync(path)
        hashes = {path.relative_to(aside).as_posix(): file_sha256(path) for path in files}
        write_durably(aside / COMPLETE, json.dumps({"step": step, "facts": facts, "files": hashes}, indent=2))
    _put_in_place(aside, folder_of(root, step))
    _sync(root)


@contextmanager
def room_for(what: str, folder: Path, root: Path) -> Iterator[None]:
    """Where a folder cannot be written: what was written of it is removed, to make room, and the error says where and how much.

    Raises:
        TrainingError: naming the path, the bytes, and the checkpoint in `root` that is kept.
    """
    try:
        yield
    except Exception as error:
        if not _is_the_disks(error):
            raise
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        reason = str(error).splitlines()[0]
    else:
        return
    shutil.rmtree(folder, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    kept = newest(root)
    good = f"the checkpoint of step {kept.step} is kept in {kept.folder}" if kept else "no checkpoint had been written yet"
    raise TrainingError(
        f"{what} cannot be written to {folder}: {reason}; {written:,} bytes of it were written, {free:,} bytes are free there now; "
        f"{good}. Make room and run again to go on"
    )


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint whose best weights are whole too. All that is not whole is set aside, and said."""
    for left in sorted(root.glob("replaced-*")):
        shutil.rmtree(left)
    for left in sorted(root.glob("writing-*")):
        if (left / COMPLETE).exists() and (whole := _read(left)):
            _put_in_place(left, folder_of(root, whole.step))
        elif left.exists():
            _set_aside(left, "it was being written when the run ended")
    found = []
    for folder in root.glob("checkpoint-*"):
        checkpoint = _read(folder)
        if checkpoint:
            found.append(checkpoint)
    steps = {checkpoint.step for checkpoint in found}
    usable = [checkpoint for checkpoint in found if checkpoint.facts.get("best_step") in steps | {None}]
    return max(usable, key=lambda checkpoint: checkpoint.step, default=None)


def prune(root: Path, keep: set[int]) -> None:
    """Remove the checkpoints of all other steps."""
    for folder in root.glob("checkpoint-*"):
        if folder not in {folder_of(root, step) for step in keep}:
            shutil.rmtree(folder)


def _put_in_place(aside: Path, folder: Path) -> None:
    """A checkpoint of the same step makes way; at no moment is neither there under a name that `newest` knows."""
    replaced = folder.with_name(folder.name.replace("checkpoint", "replaced"))
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _is_the_disks(error: Exception) -> bool:
    """What the system says, or those who write for us: safetensors by a type of its own, torch's archive writer by none."""
    said = str(error)
    by_torch = isinstance(error, RuntimeError) and any(part in said for part in ("inline_container", "PytorchStream", "iostream"))
    return (isinstance(error, OSError) and error.errno is not None) or by_torch or "I/O error" in said


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
