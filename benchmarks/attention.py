"""What attention's gradient costs on this processor, as torch has it and as training takes it (`tasks/tuning/attention.py`).

    python -m benchmarks.attention

One thread's processor milliseconds, forward and backward together, lowest of eight, MiniLM's shape (12 heads of 32); in bfloat16
torch's own way, ours, and float32 beside them. `off` is how far the gradients are from float32's (relative norm of the difference).
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.training.sides import OURS

SHAPES = ((16, 64), (16, 128), (8, 256), (8, 512))
"""Rows and tokens."""
HEADS, WIDTH, TRIES = 12, 32, 8


def lowest(work: Callable[[], Any]) -> float:
    """Processor milliseconds of the fastest of some tries."""
    work()
    seconds = []
    for _ in range(TRIES):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return 1000 * min(seconds)


def main() -> None:
    """Print the table."""
    if any(os.environ.get(name) is None for name in OURS):  # read when a process starts, so this one starts itself again
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**OURS, **os.environ})
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from tasks.tuning.attention import attend

    class Module:
        is_causal = False

    torch.set_num_threads(1)
    print("| rows x tokens | float32 | bfloat16, torch's | bfloat16, ours | off, torch's | off, ours |\n" + "| --- " * 6 + "|")
    for rows, tokens in SHAPES:
        torch.manual_seed(0)
        wide = [torch.randn(rows, HEADS, tokens, WIDTH) for _ in range(4)]

        def gradients(way: Any, dtype: Any, wide: list[Any] = wide) -> list[Any]:
            *inputs, back = (tensor.clone().to(dtype) for tensor in wide)
            inputs = [tensor.requires_grad_() for tensor in inputs]
            way(Module(), *inputs, None)[0].backward(back.transpose(1, 2))
            return [tensor.grad.float() for tensor in inputs]

        exact = gradients(sdpa_attention_forward, torch.float32)
        ways = [(sdpa_attention_forward, torch.float32), (sdpa_attention_forward, torch.bfloat16), (attend, torch.bfloat16)]
        times = [lowest(lambda way=way, dtype=dtype: gradients(way, dtype)) for way, dtype in ways]
        rounded = [gradients(*way) for way in ways[1:]]
        off = [max(float((one - two).norm() / two.norm()) for one, two in zip(each, exact, strict=True)) for each in rounded]
        print(f"| {rows} x {tokens} | " + " | ".join([f"{each:.0f} ms" for each in times] + [f"{each:.2%}" for each in off]) + " |")


if __name__ == "__main__":
    main()
