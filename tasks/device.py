"""One function picks the device and dtype, and says why."""

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where tensors live and how wide they are."""

    name: str
    """`cuda`, `mps` or `cpu`."""
    dtype: str
    """`bfloat16` or `float32`: the type of matrix products."""
    reason: str


def pick_device() -> Device:
    """CUDA where there is one, else Apple's Metal, else the CPU; bfloat16 where the hardware multiplies it faster.

    `BAKEOFF_DEVICE` (operator's, not the config's) forces a name.
    """
    import torch

    forced = os.environ.get("BAKEOFF_DEVICE", "")
    device = _pick(torch, forced)
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


def _pick(torch, forced: str) -> Device:  # type: ignore[no-untyped-def]
    why = "BAKEOFF_DEVICE says so" if forced else ""
    if forced == "cuda" or (not forced and torch.cuda.is_available()):
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported():
            return Device("cuda", "bfloat16", why or f"{name} is there and multiplies bfloat16")
        return Device("cuda", "float32", why or f"{name} is there, without bfloat16")
    if forced == "mps" or (not forced and torch.backends.mps.is_available()):
        return Device("mps", "float32", why or "Apple's Metal is there; float32 since not every kernel has bfloat16")
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_products():
        return Device("cpu", "bfloat16", why or "no accelerator; the processor multiplies bfloat16")
    return Device("cpu", "float32", why or "no accelerator; the processor does not multiply bfloat16")


def _has_bf16_products() -> bool:
    """Whether the processor has bfloat16 matrix instructions (elsewhere bfloat16 is emulated, and slower than float32)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
