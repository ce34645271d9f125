"""On the CPU cores share out rows, in place of sharing every product: threads of their own compute them, each with one core.

Nothing then waits at each of a step's thousand operations for the slower core, and what a thread touches stays in its core's cache.
Models of known kinds only, which keep nothing between two calls. Random numbers are drawn by each thread from a generator of its
own, seeded by torch's: the same rows on as many threads give the same bits, whichever thread is quicker.

Only processes that train or predict import this module: it loads torch.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, reduce
from itertools import pairwise
from typing import Any, TypeVar

import torch

from tasks.tuning.joined import KINDS

T = TypeVar("T")
Batch = Mapping[str, Any]

MOST = 8
"""Threads; with more cores than that each has several."""
FEWEST_TOKENS = 128
"""A thread with fewer spends its time on Python, which runs in one thread at a time."""
GRADIENT_BYTES = 256 * 2**20
"""Each thread has gradients of its own: of all together at most so many."""

_own = threading.local()


class Cores:
    """So many threads, each with its part of torch's."""

    def __init__(self, count: int) -> None:
        self.count = count
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "cores", torch.set_num_threads, (max(1, threads // count),))
        everyone = threading.Barrier(count)
        wait([self._pool.submit(everyone.wait) for _ in range(count)])
        torch.set_num_threads(threads)  # a new thread would otherwise begin with the last one's number

    def mapped(self, work: Callable[[T], Any], given: Iterable[T]) -> Iterator[tuple[T, Any]]:
        """Each with what `work` makes of it, in order; not many are begun before the earlier ones are taken."""
        rest, begun = iter(given), deque[tuple[T, Future[Any]]]()
        try:
            while True:
                while len(begun) < 2 * self.count and (more := next(rest, None)) is not None:
                    begun.append((more, self._pool.submit(work, more)))
                if not begun:
                    return
                each, future = begun.popleft()
                yield each, future.result()
        finally:
            for _, future in begun:
                future.cancel()
            wait([future for _, future in begun])

    def gradients(self, batch: Batch, loss_of: Callable[[Batch], Any], weights: Sequence[Any]) -> Any:
        """Add the gradients of a batch's loss to `weights`, and return the loss.

        Args:
            loss_of: of some rows; the batch's is their sum.
        """
        parts = _parts(batch, self.count)
        seeds = torch.randint(2**63 - 1, (len(parts),)).tolist()

        def part(place: int) -> tuple[Any, Any]:
            _own.generator = torch.Generator().manual_seed(seeds[place])
            try:
                loss = loss_of(parts[place])
                return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)
            finally:
                _own.generator = None

        losses, found = zip(*(made for _, made in self.mapped(part, range(len(parts)))), strict=True)
        for weight, *gradients in zip(weights, *found, strict=True):
            there = [each for each in gradients if each is not None]
            if there:
                whole = reduce(torch.add, there[1:], there[0].clone())  # in the parts' order: sums of floats depend on it
                weight.grad = whole if weight.grad is None else weight.grad.add_(whole)
        return torch.stack(losses).sum()


@cache
def cores(count: int) -> Cores:
    """This process's threads, begun once."""
    return Cores(count)


os.register_at_fork(after_in_child=cores.cache_clear)  # a forked child has no thread but its own


def generator() -> Any:
    """Where a thread that computes rows apart draws its random numbers from; None for torch's own."""
    return getattr(_own, "generator", None)


def count_for(model: Any, tokens: int, most: int = 0) -> int:
    """By how many threads so many tokens of a model are computed: 1 where the cores had better share every product.

    Args:
        most: threads; 0 for as many as torch has.
    """
    if model.device.type != "cpu" or not _is_known(model):
        return 1
    return max(1, min(most or torch.get_num_threads(), MOST, tokens // FEWEST_TOKENS))


def can_train(model: Any, count: int) -> bool:
    """Whether so many threads may train a model: its random numbers are all drawn by `generator`, and gradients are few."""
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p]
    attentions = [module for module in model.modules() if type(module).__name__ in KINDS]
    drawn = all(getattr(module, "draws_from_generator", False) for module in dropouts)
    plain = all(module.dropout.p == 0 for module in attentions)  # torch's kernel draws by itself
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return drawn and plain and count * trained <= GRADIENT_BYTES


def _is_known(model: Any) -> bool:
    """Whether it keeps nothing between two calls: an encoder of a known kind, without LoRA's variants, which do."""
    modules = list(model.modules())
    return any(type(module).__name__ in KINDS for module in modules) and not any(
        getattr(module, "lora_variant", None) for module in modules
    )


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Neighbouring rows, as many in each part as can be."""
    rows = len(batch["labels"])
    ends = [rows * place // count for place in range(count + 1)]
    return [{name: each[start:end] for name, each in batch.items()} for start, end in pairwise(ends) if start < end]
