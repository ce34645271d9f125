"""`bakeoff run`: the flow, with progress bars in the terminal and a verdict that reads in ten seconds."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.bench import check_names
from tasks.config import load_config
from tasks.errors import MissingPart
from tasks.progress import Bar, listening
from tasks.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from tasks.records import Verdict


def run_bakeoff(config: Path, overrides: Sequence[str]) -> "Verdict":
    """Check what can be checked at once, then run the flow with the config's folder and the working folder as roots."""
    parsed = load_config(config, overrides)
    allow_roots(config)
    check_names(parsed, load_settings())
    from flows.bakeoff import bakeoff

    with terminal_progress(), named_server():
        return bakeoff(parsed)


def show_verdict(verdict: "Verdict", output: str, config: Path) -> None:
    """Write the verdict to standard output; for people with the commands that show more."""
    if output == "json":
        sys.stdout.write(verdict.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    from tasks.reporting.runs import REPORT, VERDICT, runs_folder
    from tasks.verdict.report import render_verdict

    kept = runs_folder(load_settings().home / "workspace") / verdict.run_id
    closer = [f"bakeoff champion show {config}", f'bakeoff predict {config} --text "…"', f"cat {kept / VERDICT}"]
    page = str(kept / REPORT) if (kept / REPORT).exists() else ""  # where it could not be drawn, the log says why
    Console().print(render_verdict(verdict, closer if verdict.champion else closer[-1:], page))


def allow_roots(config: Path) -> None:
    """From the command line a run may read the working folder and the config's folder, beside what the operator allows."""
    roots = [*map(str, load_settings().roots), str(Path.cwd()), str(config.absolute().parent)]
    os.environ["BAKEOFF_ROOTS"] = os.pathsep.join(dict.fromkeys(roots))


@contextmanager
def named_server() -> Iterator[None]:
    """Raises MissingPart where the Prefect server does not answer, or not any more."""
    import httpx

    try:
        _begin_server()
        yield
    except httpx.TransportError as error:
        if any(not isinstance(each, Exception) for each in _chain(error)):
            raise KeyboardInterrupt from None
        raise MissingPart("the Prefect server does not answer any more: run again to go on where this run was") from None
    except RuntimeError as error:  # what Prefect raises for it, whatever the cause
        if "Failed to reach API" not in str(error):
            raise
        raise MissingPart("the Prefect server of PREFECT_API_URL does not answer: start it, or unset the variable") from None


def _begin_server() -> None:
    """Begin Prefect's temporary server, where no other is named, deaf to Ctrl-C: it has to hear from the run how that ended.

    Which signals are blocked goes over to a new process, and Ctrl-C in a terminal reaches both.
    """
    import signal

    from prefect.client.orchestration import get_client

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def terminal_progress() -> Iterator[None]:
    """Bars on standard error, below the log, where that is a terminal; elsewhere progress is a log line now and then."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    columns = [texts[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), texts[1]]
    console = Console(stderr=True)
    logging.getLogger("tasks.progress").setLevel(logging.WARNING)
    _log_above(console)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as shown:
        ids: dict[str, TaskID] = {}

        def hear(bar: Bar) -> None:
            if bar.title not in ids:
                ids[bar.title] = shown.add_task(bar.title, total=bar.total, note="")
            shown.update(ids[bar.title], total=bar.total, completed=bar.done, note=bar.note, visible=not bar.finished)

        with listening(hear):
            yield


class _Above:
    """Stands in for the console of Prefect's log handler: what it prints goes above the bars, neither overwriting the other."""

    def __init__(self, console: "Console") -> None:
        self.console = console

    def print(self, message: str, **_: Any) -> None:
        self.console.print(message, markup=False, highlight=False)


def _log_above(console: "Console") -> None:
    """Have Prefect's log, which is set up by now, written through the console that draws the bars."""
    from prefect.logging.handlers import PrefectConsoleHandler

    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for handler in (handler for each in (logging.getLogger(), *loggers) for handler in each.handlers):
        if isinstance(handler, PrefectConsoleHandler):
            handler.console = _Above(console)  # type: ignore[assignment]
