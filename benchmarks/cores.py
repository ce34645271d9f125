"""What it gives that cores share out rows, in place of sharing every product (`tasks/tuning/cores.py`).

    python -m benchmarks.cores

MiniLM, LoRA on query and value, milliseconds of the wall's clock, lowest of seven, both ways in turns: a training step of four
rows, and an evaluation of 16,384 tokens. In the dtype that a training takes here.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.training.bench import RECIPE
from benchmarks.training.sides import OURS

TOKENS = (64, 128, 256, 512)
ROWS, EVALUATED, TRIES = 4, 16_384, 7


def main() -> None:
    """Print the table."""
    if any(os.environ.get(name) is None for name in OURS):  # read when a process starts, so this one starts itself again
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**OURS, **os.environ})
    import torch

    from tasks.bases import resolve_base
    from tasks.device import pick_device
    from tasks.settings import load_settings
    from tasks.tuning.batches import logits_of, pad
    from tasks.tuning.cores import Batch, cores
    from tasks.tuning.faster import hold_rounded, speed_up
    from tasks.tuning.methods import choose_weights, load_base
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    device, base = pick_device(), resolve_base(RECIPE.base, "", load_settings())
    model = speed_up(choose_weights(load_base(base.path, ["no", "yes"], 30_522, 0, 0.0), RECIPE, base))
    if device.dtype == "bfloat16":
        hold_rounded(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    threads = torch.get_num_threads()

    def loss_of(part: Batch) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=device.dtype == "bfloat16", cache_enabled=False):
            return model(**part).loss

    def step(batch: dict[str, Any], apart: bool) -> None:
        model.train()
        if apart:
            cores(threads).gradients(batch, loss_of, weights)
        else:
            loss_of(batch).backward()
        model.zero_grad()

    def evaluate(rows: list[list[int]], apart: bool) -> None:
        logits_of(
            model, lambda wanted: [rows[row] for row in wanted], [*map(len, rows)], 0, device.dtype, threads=threads if apart else 1
        )

    print(
        f"{threads} threads, {device.dtype}\n\n| tokens a row | step: shared products | rows | evaluation: shared products | rows |"
    )
    print("| --- " * 5 + "|")
    for tokens in TOKENS:
        rows = torch.randint(1000, 20_000, (EVALUATED // tokens, tokens)).tolist()
        batch = pad(rows[:ROWS], 0) | {"labels": torch.tensor([0, 1] * (ROWS // 2))}
        found = [
            *in_turns(lambda apart, batch=batch: step(batch, apart)),
            *in_turns(lambda apart, rows=rows: evaluate(rows, apart)),
        ]
        print(f"| {tokens} | " + " | ".join(f"{each:.0f} ms" for each in found) + " |", flush=True)


def in_turns(work: Callable[[bool], None]) -> tuple[float, float]:
    """Milliseconds of the fastest of some tries: with products shared, and with rows."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(TRIES + 1):
        for apart, taken in seconds.items():
            started = time.perf_counter()
            work(apart)
            taken.append(time.perf_counter() - started)
    return 1000 * min(seconds[False][1:]), 1000 * min(seconds[True][1:])


if __name__ == "__main__":
    main()
