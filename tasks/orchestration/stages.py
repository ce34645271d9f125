"""A stage as a Prefect task, and the order in which they take turns."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, allow_failure, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait

from tasks.errors import ChildDied

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task for one stage of the main job.

    Prefect's own cache is off, since the workspace is the one cache; nothing is persisted, since records are in the workspace. A
    child process that was killed is tried once more: it goes on from what it kept.
    """
    return task(
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=1,
        retry_condition_fn=_child_died,
    )


def _child_died(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), ChildDied)


class Lanes:
    """Resources, not turns: work that occupies the same resource goes one after another; different resources go side by side, and
    work that occupies two waits for both.

    A failure in a lane does not hold up what waits behind it: each future carries its own.
    """

    def __init__(self) -> None:
        self._last: dict[str, PrefectFuture[Any]] = {}
        self._all: list[PrefectFuture[Any]] = []

    def submit(self, resources: set[str], work: Task[P, R], *args: Any) -> PrefectFuture[R]:
        """Start `work` once what was submitted to any of the resources before has ended, well or not."""
        waits = [allow_failure(self._last[each]) for each in sorted(resources) if each in self._last]
        future: PrefectFuture[R] = work.submit(*args, wait_for=waits)  # type: ignore[arg-type]
        self._last |= dict.fromkeys(resources, future)
        self._all.append(future)
        return future

    def finish(self) -> None:
        """Wait for everything, and raise the first failure in the order of submission: the cause itself, since what was to work on
        a failed result was submitted after it and never ran."""
        wait(self._all)
        for future in self._all:
            future.result()
