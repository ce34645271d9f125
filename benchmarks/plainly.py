"""One bake-off in a process of its own, as a flow or as the same stages called as plain functions; prints what it took as JSON.

    python -m benchmarks.plainly flow CONFIG.json
    python -m benchmarks.plainly plain CONFIG.json

Plain means that Prefect's engine is taken out: a task is its function, called in turn; nothing is shown on a page. It is the code
of `flows/bakeoff.py` both times, so that no copy of it can fall behind.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """What was submitted, and is done."""

    value: Any

    def result(self, *_: Any, **__: Any) -> Any:
        return self.value


def take_prefect_out() -> None:
    """Call stages as plain functions from here on. Before the flows are imported."""
    import prefect
    import prefect.artifacts
    import prefect.events
    import prefect.futures

    def call(task: Any, *args: Any, **kwargs: Any) -> Any:
        return task.fn(*map(_value, args), **{name: _value(value) for name, value in kwargs.items()})

    def submit(task: Any, *args: Any, wait_for: Any = None, **kwargs: Any) -> Done:
        return Done(call(task, *args, **kwargs))

    prefect.Task.__call__ = call  # type: ignore[method-assign]
    prefect.Task.submit = submit  # type: ignore[method-assign, assignment]
    prefect.futures.wait = lambda *_, **__: None  # type: ignore[assignment]
    prefect.events.emit_event = lambda *_, **__: None  # type: ignore[assignment]
    for name in ("table", "markdown", "link", "progress"):
        setattr(prefect.artifacts, f"create_{name}_artifact", lambda *_, **__: None)


def _value(given: Any) -> Any:
    return given.value if isinstance(given, Done) else given


class Clock:
    """Tells the time that passes while no stage works. What a stage shows on the page is no work."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self.shown = 0.0

    def time_stages(self) -> None:
        """Time every task that the flow calls, and every artifact."""
        import prefect
        import prefect.artifacts

        import flows.bakeoff

        for task in [each for each in vars(flows.bakeoff).values() if isinstance(each, prefect.Task)]:
            task.fn = self._timed(task.fn, lambda start, end: self.spans.append((start, end)))
        for name in ("table", "markdown", "link"):
            known = getattr(prefect.artifacts, f"create_{name}_artifact")
            timed = self._timed(known, self._show)
            for module in [each for each in sys.modules.values() if getattr(each, f"create_{name}_artifact", None) is known]:
                setattr(module, f"create_{name}_artifact", timed)

    def outside(self, total: float) -> float:
        """Of `total` seconds, those in which no stage worked."""
        worked, reached = 0.0, float("-inf")
        for start, end in sorted(self.spans):
            worked += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total - worked + self.shown

    def _show(self, start: float, end: float) -> None:
        self.shown += end - start

    @staticmethod
    def _timed(function: Callable[..., Any], note: Callable[[float, float], None]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                note(started, time.perf_counter())

        return timed


def as_flow(config: Any) -> Any:
    """Called in Python, on the server of `PREFECT_API_URL`."""
    from flows.bakeoff import bakeoff

    return bakeoff(config)


def as_functions(config: Any) -> Any:
    """The same stages in the same order."""
    from flows.bakeoff import judged
    from services.bench import check_names, opened

    with opened(config, Path.cwd()) as bench:
        check_names(config, bench.settings)
        return judged(config, bench)


def main(how: str, file: str) -> None:
    """Seconds of the call alone, and of the processor in this process without its children, which train; the whole is the caller's
    to time."""
    logging.basicConfig(level=logging.WARNING)
    if how == "plain":
        take_prefect_out()
    clock = Clock()
    clock.time_stages()
    from tasks.config import BakeoffConfig

    config = BakeoffConfig.model_validate_json(Path(file).read_bytes())
    run: Callable[[Any], Any] = as_functions if how == "plain" else as_flow
    started, worked = time.perf_counter(), time.process_time()
    verdict = run(config)
    seconds, own = time.perf_counter() - started, time.process_time() - worked
    figures = {line.name: line.test.accuracy for line in verdict.contenders}
    told = {"seconds": round(seconds, 3), "outside": round(clock.outside(seconds), 3), "own_cpu": round(own, 3)}
    print(json.dumps({**told, "decision": verdict.decision.value, "accuracy": figures}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
