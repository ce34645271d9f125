"""What attention costs on this processor, as torch has it and as we take it (`tasks/tuning/attention.py`).

    python -m benchmarks.attention

One thread's processor milliseconds, lowest of eight, MiniLM's shape (12 heads of 32). First forward and backward together: float32,
and in bfloat16 torch's own way and ours. Then forward alone, where nobody wants a gradient: the same, and in bfloat16 by softmax as
with a gradient beside it. `off` is how far from float32's (relative norm of the difference): gradients, then what is found.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
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


class Module:
    """As `transformers` hands it to attention."""

    is_causal = False


def with_gradient(way: Any, dtype: Any, wide: list[Any]) -> list[Any]:
    """The gradients of query, key and value, of what `wide` has last."""
    *inputs, back = (tensor.clone().to(dtype) for tensor in wide)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    way(Module(), *inputs, None)[0].backward(back.transpose(1, 2))
    return [tensor.grad.float() for tensor in inputs]


def without_gradient(way: Any, dtype: Any, wide: list[Any]) -> list[Any]:
    """What is found."""
    import torch

    query, key, value = (tensor.to(dtype) for tensor in wide[:3])
    with torch.inference_mode():
        return [way(Module(), query, key, value, None)[0].float()]


def table(work: Callable[[Any, Any, list[Any]], list[Any]], ways: dict[str, tuple[Any, Any]]) -> None:
    """Print the times of all ways, and how far all but the first are off it."""
    import torch

    _, *rounded = ways
    print("\n| rows x tokens | " + " | ".join([*ways, *(f"off, {name}" for name in rounded)]) + " |")
    print("| --- " * (len(ways) + len(rounded) + 1) + "|")
    for rows, tokens in SHAPES:
        torch.manual_seed(0)
        wide = [torch.randn(rows, HEADS, tokens, WIDTH) for _ in range(4)]
        times = [lowest(partial(work, *way, wide)) for way in ways.values()]
        exact, *others = [work(*way, wide) for way in ways.values()]
        off = [max(float((one - two).norm() / two.norm()) for one, two in zip(each, exact, strict=True)) for each in others]
        print(f"| {rows} x {tokens} | " + " | ".join([f"{each:.1f} ms" for each in times] + [f"{each:.2%}" for each in off]) + " |")


def main() -> None:
    """Print both tables."""
    if any(os.environ.get(name) is None for name in OURS):  # read when a process starts, so this one starts itself again
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**OURS, **os.environ})
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from tasks.tuning.attention import attend, by_softmax

    torch.set_num_threads(1)
    torchs = {"float32": (sdpa_attention_forward, torch.float32), "bfloat16, torch's": (sdpa_attention_forward, torch.bfloat16)}
    ours = {"bfloat16, ours": (attend, torch.bfloat16)}

    def softmax(_module: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
        return by_softmax(query, key, value, mask, WIDTH**-0.5), None

    table(with_gradient, torchs | ours)
    table(without_gradient, torchs | {"bfloat16, by softmax": (softmax, torch.bfloat16)} | ours)


if __name__ == "__main__":
    main()
