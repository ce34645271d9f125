"""Several processes that train as one, an accelerator each: what they agree on, and how rows are shared out. A process alone agrees
with itself at no cost.

accelerate joins them, by the environment that `torchrun` gives (`tasks/child.py`); what is here are words between them, on the CPU.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")
NO_LABEL = -100
"""What the loss leaves out."""


def size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes what all have made."""
    return os.environ.get("RANK", "0") == "0"


def take_device(name: str) -> None:
    """From now on `cuda` means this process's own."""
    if name == "cuda" and size() > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def agree(*flags: bool) -> list[bool]:
    """Each flag as true as any process says it is."""
    if size() == 1:
        return list(flags)
    said = torch.tensor(flags, dtype=torch.int32)
    distributed.all_reduce(said, distributed.ReduceOp.MAX, group=_words())
    return [bool(each) for each in said.tolist()]


def of_first(make: Callable[[], T]) -> T:
    """What the first process makes, for all."""
    if size() == 1:
        return make()
    made: list[Any] = [make() if is_first() else None]
    distributed.broadcast_object_list(made, group=_words())
    return made[0]


def wait() -> None:
    """Until all are here."""
    if size() > 1:
        distributed.barrier(group=_words())


def share(rows: int) -> range:
    """This process's part of so many rows."""
    return range(int(os.environ.get("RANK", "0")), rows, size())


def gathered(part: torch.Tensor, rows: int) -> torch.Tensor:
    """What all have found of their shares, in the rows' order: [rows, …] of `part`'s [share, …]."""
    if size() == 1:
        return part
    whole = torch.zeros((rows, *part.shape[1:]), dtype=part.dtype)
    whole[share(rows)] = part
    distributed.all_reduce(whole, group=_words())
    return whole


class Evened:
    """The order of rows, with fillers at an epoch's end so that each process has as many batches; fillers bear no label, so the
    last step is that of the rows alone."""

    def __init__(self, order: Any, at_once: int) -> None:
        self.order = order
        self.missing = -len(order) % (at_once * size())

    def set_epoch(self, epoch: int) -> None:
        """As of the order."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) + self.missing

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [len(self.order)] * self.missing


class Filled:
    """Rows, and one filler behind the last."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if place == len(self.rows):
            return {"input_ids": self.rows[0]["input_ids"][:1], "label": NO_LABEL, "length": 1}
        return self.rows[place]

    def __getitems__(self, places: Sequence[int]) -> list[Any]:
        return [self[place] for place in places]


@cache
def _words() -> Any:
    return distributed.new_group(backend="gloo")
