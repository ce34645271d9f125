"""A run that is to end before it is done (Ctrl-C, SIGTERM, cancelled in Prefect's UI) asks nobody any more.

Python raises such an end in the main thread alone: others would ask on for minutes, of a local LLM that has been stopped, and make
a product of rows without a reply. (Children of the run are ended by `tasks/child.py`.)
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Timer
from typing import Any

from tasks.errors import Stopped

INTERRUPTED = "the run was interrupted: run it again to go on where it was"
AGAIN_S = 0.2
_lock = Lock()
_acts: dict[object, Callable[[], object]] = {}
_told = Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """A run: an end that is no error in it is told to everything that asked with `when_interrupted`."""
    _told.clear()
    plain, sys.unraisablehook = sys.unraisablehook, _ask_again
    try:
        yield
    except Exception:
        raise
    except BaseException:
        interrupt()
        raise
    finally:
        sys.unraisablehook = plain


def _ask_again(lost: Any) -> None:
    """A signal may come where Python can raise nothing (in a destructor, in a type's check that C asked for), and would be lost: it
    is sent once more. Nothing failed, so no traceback is shown; everything else that could not be raised is."""
    if issubclass(lost.exc_type, (Exception, GeneratorExit, SystemExit)):
        sys.__unraisablehook__(lost)
        return
    sent = signal.SIGINT if issubclass(lost.exc_type, KeyboardInterrupt) else signal.SIGTERM
    Timer(AGAIN_S, os.kill, (os.getpid(), sent)).start()


def interrupt() -> None:
    """Tell everything that asked that the run is to end."""
    with _lock:
        _told.set()
        for act in _acts.values():
            act()


def pause(seconds: float) -> None:
    """Wait so long. Raises Stopped where the run is to end."""
    _told.wait(seconds)
    _refuse()


@contextmanager
def when_interrupted(act: Callable[[], object]) -> Iterator[None]:
    """Work that `act` stops, called from another thread.

    Raises:
        Stopped: the run is to end, whatever else the work raised because of it.
    """
    key = object()
    with _lock:
        _acts[key] = act
    try:
        _refuse()
        yield
    except Exception:
        _refuse()
        raise
    finally:
        with _lock:
            del _acts[key]


def _refuse() -> None:
    if _told.is_set():
        raise Stopped(INTERRUPTED) from None
