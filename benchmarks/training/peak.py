"""How many operations a row takes, and how many the processor reaches in matrix products alone."""

from collections.abc import Callable
from typing import Any

from benchmarks.training.bench import RECIPE, Bench, Clock
from tasks.device import products_per_second

PEAK_S = 0.4
"""For so long the matrix peak is measured, each time."""
PEAK_SIZE = 1024


def operations(bench: Bench) -> dict[str, Callable[[int], float]]:
    """Operations of a training step and of a forward pass for a single row of so many tokens, without padding.

    torch counts them at three lengths with attention as plain matrix products; they are quadratic in the length.
    """
    import numpy as np
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from tasks.tuning.faster import speed_up
    from tasks.tuning.methods import choose_weights, load_base

    tokenizer = bench.tokenizer
    model = load_base(bench.base.path, bench.dataset.labels, len(tokenizer), tokenizer.pad_token_id, 0.0)
    model = speed_up(choose_weights(model, RECIPE, bench.base))
    lengths, steps, forwards = (16, 32, 64), [], []
    for length in lengths:
        row = {"input_ids": torch.full((1, length), 2000), "labels": torch.tensor([0])}
        for counts, backward in ((steps, True), (forwards, False)):
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                loss = model.train(backward)(**row).loss
                if backward:
                    loss.backward()
            counts.append(counter.get_total_flops())
    found = [np.polynomial.Polynomial.fit(lengths, counts, 2).convert() for counts in (steps, forwards)]
    return {"step": lambda length: float(found[0](length)), "forward": lambda length: float(found[1](length))}


def peak_dtype() -> str:
    """The dtype in which this processor multiplies matrices fastest: bfloat16 where it has it and gains by it, else float32."""
    import torch

    return max(("float32", "bfloat16"), key=lambda dtype: products_per_second(torch, dtype))


def matrix_peak(dtype: str) -> Any:
    """Operations a second of matrix products alone: by the wall's clock, and by the processor's."""
    import numpy as np
    import torch

    matrix = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=getattr(torch, dtype))
    whole, products = Clock(), 0
    torch.mm(matrix, matrix)
    while whole.wall_s < PEAK_S:
        with whole.running():
            torch.mm(matrix, matrix)
        products += 1
    done = products * 2 * PEAK_SIZE**3
    return np.array([done / whole.wall_s, done / whole.cpu_s])
