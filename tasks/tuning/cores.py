"""On the CPU cores share out rows, in place of sharing every product: threads of their own compute them, each with its cores.

Nothing then waits at each of a step's thousand operations for the slower core, and what a thread touches stays in its core's cache.
Models of known kinds only, which keep nothing between two calls. Random numbers are drawn by each thread from a generator of its
own, seeded by torch's: the same rows on as many threads give the same bits, whichever thread is quicker, also where a machine has
fewer cores.

Only processes that train or predict import this module: it loads torch.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, reduce
from itertools import pairwise
from typing import Any, TypeVar

import torch

from tasks.tuning.joined import KINDS

T = TypeVar("T")
Batch = Mapping[str, Any]

MOST = 8
"""Threads that compute rows; with more cores than that each has several."""
FEWEST_TOKENS = 256
"""A thread with fewer spends its time on Python, which runs in one thread at a time."""
GRADIENT_BYTES = 256 * 2**20
"""Each thread has gradients of its own: of all together at most so many."""

_own = threading.local()
_lock = threading.Lock()


class Cores:
    """Threads that compute rows apart from each other, each with its part of so many of torch's."""

    def __init__(self, threads: int) -> None:
        self.count = min(MOST, threads)
        own = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count, "cores", _take, (threads // self.count,))
        everyone = threading.Barrier(self.count)
        wait([self._pool.submit(everyone.wait) for _ in range(self.count)])
        torch.set_num_threads(own)  # a thread that begins from now on would have the last one's number

    def mapped(self, work: Callable[[T], Any], given: Iterable[T]) -> Generator[tuple[T, Any], None, None]:
        """Each with what `work` makes of it, in order; not many are begun before the earlier ones are taken."""
        rest, begun = iter(given), deque[tuple[T, Future[Any]]]()
        try:
            while True:
                while len(begun) < 2 * self.count and (more := next(rest, None)) is not None:
                    begun.append((more, self._pool.submit(work, more)))
                if not begun:
                    return
                each, future = begun[0]
                made = future.result()
                begun.popleft()  # not before: what is interrupted here is waited for below
                yield each, made
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
                whole = reduce(torch.add, there) if len(there) > 1 else there[0].clone()  # in the parts' order: sums depend on it
                weight.grad = whole if weight.grad is None else weight.grad.add_(whole)
        return torch.stack(losses).sum()


def cores(threads: int) -> Cores:
    """This process's threads for so many of torch's, begun once."""
    with _lock:
        return _begun(threads)


@cache
def _begun(threads: int) -> Cores:
    return Cores(threads)


def _take(threads: int) -> None:
    """In a new thread: from now on torch uses so many for what this one asks. It takes the process's number when it is first asked
    for its own, and would do so later, over what was set."""
    torch.get_num_threads()
    torch.set_num_threads(threads)


def _forget() -> None:
    """In a forked child, which has no thread but its own."""
    global _lock
    _lock = threading.Lock()
    _begun.cache_clear()


os.register_at_fork(after_in_child=_forget)


def generator() -> Any:
    """Where a thread that computes rows apart draws its random numbers from; None for torch's own."""
    return getattr(_own, "generator", None)


def pays(model: Any, rows: int, tokens: int, threads: int) -> bool:
    """Whether cores had better share out so many rows, of so many tokens together, than every product: with fewer rows than cores
    some would have none."""
    count = min(MOST, threads)
    enough = count > 1 and rows >= count and tokens >= count * FEWEST_TOKENS
    return enough and model.device.type == "cpu" and _is_known(model)


def can_train(model: Any, threads: int) -> bool:
    """Whether rows may be shared out to train a model: its random numbers are all drawn by `generator`, and gradients are few."""
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p]
    attentions = [module for module in model.modules() if type(module).__name__ in KINDS]
    drawn = all(getattr(module, "draws_from_generator", False) for module in dropouts)
    plain = all(module.dropout.p == 0 for module in attentions)  # torch's kernel draws by itself
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return drawn and plain and min(MOST, threads) * trained <= GRADIENT_BYTES


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
