"""A process a side, since each has the environment of its own: what glibc and OpenMP read when a process starts is part of what
Bakeoff does for speed, and the plain script is run as one types it."""

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from tasks.child import GENTLE, OFFLINE

PLAIN = {"HF_HUB_OFFLINE": "1"}
"""The base is on this machine; nothing else is set for the plain script."""
OURS = GENTLE | OFFLINE
"""As Bakeoff's children have it."""

Side = Callable[..., Any]
"""Called with a function and its arguments, runs it in the side's process and gives what it returns."""


@contextmanager
def both_sides() -> Iterator[tuple[Side, Side]]:
    """Bakeoff's process and the plain script's, which wait while the other computes."""
    with _side(OURS) as ours, _side(PLAIN) as plain:
        yield ours, plain


@contextmanager
def _side(names: dict[str, str]) -> Iterator[Side]:
    with ProcessPoolExecutor(1, get_context("spawn"), _ready) as pool:

        def ask(function: Callable[..., Any], *given: Any) -> Any:
            return pool.submit(function, *given).result()

        before = dict(os.environ)
        os.environ |= names | before
        try:
            ask(os.getpid)  # starts it
        finally:
            for name in names.keys() - before.keys():
                del os.environ[name]
        yield ask


def _ready() -> None:
    """Both load the libraries first. And a Trainer collects garbage when it begins, a quarter of a second otherwise: in a slice of
    few rows it would count for much."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import Trainer  # noqa: F401

    os.dup2(2, 1)  # transformers prints its metrics
    gc.freeze()
