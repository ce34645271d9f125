"""Memory that runs out: a training begins again with fewer rows at once and as many more parts to a step, so that each step stays
what it was; and how much was used at most.

Only child processes that train import this module.
"""

import gc
import json
import logging
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tasks.bases import ResolvedBase
from tasks.config import Tuned
from tasks.device import Device
from tasks.errors import MemoryRanOut, TrainingError
from tasks.records import Finding
from tasks.workspace import write_durably

logger = logging.getLogger(__name__)
T = TypeVar("T")
MEMORY = "memory.json"
"""Beside the checkpoints: how many rows at once fit the memory, so that a resumed training takes as many."""


def within_memory(
    tuned: Tuned, base: ResolvedBase, device: Device, folder: Path, attempt: Callable[[int], T], rows_at_once: int | None = None
) -> tuple[T, list[Finding]]:
    """Train; where memory runs out, again with fewer rows at once and as many more parts to a step.

    Args:
        folder: that of the checkpoints.
        attempt: trains with so many rows at once on each device, from the newest checkpoint.
        rows_at_once: to begin with: a divisor of this process's part of `batch_size`. None takes the whole part.

    Returns: what the attempt did that came through, and what was found.

    Raises:
        MemoryRanOut: of one process among several: all must begin again.
        TrainingError: not even one row fits.
    """
    from tasks.tuning import together
    from tasks.tuning.batches import out_of_memory

    part = tuned.batch_size // together.size()
    rows, findings = _known_memory(folder, rows_at_once or part)
    while True:
        try:
            return attempt(rows), findings
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        _free_memory()  # outside the `except`, which would hold on to the failed step's tensors
        if rows == 1:
            raise TrainingError(
                f"training {tuned.name!r}: not even one row at once fits the memory of {device.name}; "
                f"lower max_tokens ({tuned.max_tokens}), or choose a smaller base than {base.id} (torch said: {said})"
            )
        fewer = largest_divisor(part, rows // 2)
        message = f"memory ran out with {rows} rows at once: now {fewer} at once, {part // fewer} parts to a step of {part} rows"
        logger.warning("train %s: %s", tuned.name, message)
        findings.append(Finding(kind="out_of_memory", count=rows, message=message))
        rows = fewer
        known = {"rows_at_once": rows, "findings": [finding.model_dump() for finding in findings]}
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / MEMORY, json.dumps(known))
        if together.size() > 1:
            raise MemoryRanOut(f"training {tuned.name!r}: {message}")


def largest_divisor(of: int, most: int) -> int:
    """The largest divisor that is not above `most` (at least 1)."""
    return max(rows for rows in range(1, max(most, 1) + 1) if of % rows == 0)


def peak_memory(device: Device) -> int:
    """Bytes: the GPU's where there is one, else the process's."""
    import torch

    if device.name == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _known_memory(folder: Path, rows: int) -> tuple[int, list[Finding]]:
    """How many rows at once an earlier run came down to, and what it found; else `rows` and nothing."""
    path = folder / MEMORY
    if not path.exists():
        return rows, []
    known = json.loads(path.read_text(encoding="utf-8"))
    return min(known["rows_at_once"], rows), [Finding.model_validate(finding) for finding in known["findings"]]


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
