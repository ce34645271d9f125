"""One function picks the device and dtype, and says why."""

import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)
BF16_PAYS = 1.2
"""bfloat16 is taken where its matrix products run at least so many times as fast as float32's: it costs digits."""
MEASURED = 512
"""Rows and columns of the matrices that are multiplied to find out: some milliseconds."""
TRIES = 7
"""The fastest of so many counts: whatever else runs on the machine only slows them down."""


@dataclass(frozen=True)
class Device:
    """Where tensors live and how wide they are."""

    name: str
    """`cuda`, `mps` or `cpu`."""
    dtype: str
    """`bfloat16` or `float32`: the type of matrix products."""
    reason: str
    threads: int = 1
    """On the CPU, of torch: a training that goes on elsewhere shares its rows out as before."""


@cache
def pick_device() -> Device:
    """CUDA where there is one, else Apple's Metal, else the CPU; bfloat16 where the hardware multiplies it faster.

    `BAKEOFF_DEVICE` (operator's, not the config's) forces a name, and `BAKEOFF_DTYPE` a dtype.
    """
    import torch

    device = _pick(torch, os.environ.get("BAKEOFF_DEVICE", ""), os.environ.get("BAKEOFF_DTYPE", ""))
    if device.name == "cpu":
        device = replace(device, threads=torch.get_num_threads())
    logger.info("device %s, %s: %s", device.name, device.dtype, device.reason)
    return device


def accelerators() -> int:
    """How many CUDA devices there are for this process, found without importing torch."""
    if os.environ.get("BAKEOFF_DEVICE", "cuda") != "cuda":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    tool = shutil.which("nvidia-smi")
    told = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout if tool else ""
    return sum(line.startswith("GPU ") for line in told.splitlines())


def device_in_words() -> str:
    """The device that trainings on this machine occupy, found without importing torch: `cuda`, `mps` or `cpu`, and which of several
    CUDA devices where this process, or its container, sees only some."""
    forced = os.environ.get("BAKEOFF_DEVICE", "")
    here = "cuda" if accelerators() else "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"
    name, given = forced or here, os.environ.get("NVIDIA_VISIBLE_DEVICES", "")  # what the container was given
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or (given if given not in ("all", "void", "none") else "")
    return f"cuda {seen}" if name == "cuda" and seen else name


def _pick(torch: Any, forced: str, dtype: str = "") -> Device:
    name = forced or ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    there = {"cuda": "CUDA is there", "mps": "Apple's Metal is there", "cpu": "no accelerator"}
    why = "BAKEOFF_DEVICE says so" if forced else there.get(name, name)
    if dtype:
        return Device(name, dtype, f"{why}; BAKEOFF_DTYPE says {dtype}")
    if not _has_bf16(torch, name):
        return Device(name, "float32", f"{why}; without bfloat16")
    if name == "cuda":
        return Device(name, "bfloat16", f"{why}: {torch.cuda.get_device_name()}, with bfloat16")
    ratio = products_per_second(torch, "bfloat16", name) / products_per_second(torch, "float32", name)
    why += f"; bfloat16 runs at {ratio:.1f} times float32's speed"
    return Device(name, "bfloat16" if ratio >= BF16_PAYS else "float32", why)


def _has_bf16(torch: Any, name: str) -> bool:
    """Whether a device multiplies bfloat16 itself (where it is emulated, it is slower than float32)."""
    if name == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if name == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and native)


def products_per_second(torch: Any, dtype: str, name: str = "cpu", size: int = MEASURED, tries: int = TRIES) -> float:
    """Operations a second (a multiplication and an addition are two) of one thread's, or an accelerator's, matrix products.

    On the CPU its own time counts, not the clock's, so that a busy machine measures the same.
    """
    matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=name)
    threads = torch.get_num_threads()
    if name == "cpu":
        torch.set_num_threads(1)
    try:
        clock: Callable[[], float] = time.thread_time if name == "cpu" else time.perf_counter
        seconds = []
        for _ in range(tries + 1):  # the first one warms up
            started = clock()
            (matrix @ matrix)[0, 0].item()  # waits for an accelerator
            seconds.append(clock() - started)
        return float(2 * size**3 / max(min(seconds[1:]), 1e-9))
    finally:
        torch.set_num_threads(threads)
