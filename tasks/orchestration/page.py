"""What a run shows on its page in Prefect: tables, texts, pictures, progress. None of it is worth the run."""

import base64
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import httpx
from prefect.exceptions import PrefectException

from tasks.progress import Bar, listening

logger = logging.getLogger(__name__)
UPDATE_EVERY_S = 2.0


def artifact_key(*parts: str) -> str:
    """A key that Prefect accepts: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


@contextmanager
def page_may_be_away() -> Iterator[None]:
    """For the time of a `with`: what is shown on the run's page is not worth the run. Where the server is out of reach or fails, it
    is left out, and the log says so."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        said = str(error) or type(error).__name__
        logger.warning("the Prefect server did not take it, so something is missing on the run's page: %s", said)


def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table on the run's page in Prefect, where there is anything to show: figures with the four digits that fit there."""
    from prefect.artifacts import create_table_artifact

    if rows:
        with page_may_be_away():
            create_table_artifact(key=artifact_key(key), table=[_short(row) for row in rows], description=description)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A text on the run's page in Prefect; the description stands on its card there."""
    from prefect.artifacts import create_markdown_artifact

    with page_may_be_away():
        create_markdown_artifact(key=artifact_key(key), markdown=markdown, description=description)


def show_svg(key: str, picture: Path, text: str) -> None:
    """A picture on the run's page in Prefect, with some Markdown above it. As a data URI: an `<svg>` element would be stripped."""
    uri = f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    show_markdown(key, f"{text}\n\n![{artifact_key(key)}]({uri})\n", text.partition("\n")[0])


@contextmanager
def progress_on_page() -> Iterator[None]:
    """Show every bar of the run as a progress artifact on its page in Prefect.

    One thread of its own does the talking: a call to Prefect from inside a stage's event loop would not be awaited, and work should
    not wait for the page.
    """
    bars: SimpleQueue[tuple[str, float, str]] = SimpleQueue()
    done = threading.Event()
    context = copy_context()
    talker = threading.Thread(target=lambda: context.run(_talk, bars, done), name="progress-on-page", daemon=True)
    talker.start()

    def hear(bar: Bar) -> None:
        share = 100.0 if bar.finished and not bar.total else 100 * bar.done / max(bar.total, 1e-9)
        bars.put((bar.title, round(min(share, 100.0), 1), f"{bar.title}: {bar.note}" if bar.note else bar.title))

    try:
        with listening(hear):
            yield
    finally:
        done.set()
        talker.join(timeout=30)


def _talk(bars: "SimpleQueue[tuple[str, float, str]]", done: threading.Event) -> None:
    """Send the newest state of each bar every few seconds, and the last one at the end."""
    artifacts: dict[str, Any] = {}
    while not done.is_set() or not bars.empty():
        done.wait(UPDATE_EVERY_S)
        newest: dict[str, tuple[float, str]] = {}
        try:
            while True:
                title, share, said = bars.get_nowait()
                newest[title] = share, said
        except Empty:
            pass
        for title, (share, said) in newest.items():
            with page_may_be_away():
                _show(artifacts, title, share, said)


def _show(artifacts: dict[str, Any], title: str, share: float, said: str) -> None:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    if title in artifacts:
        update_progress_artifact(artifacts[title], share, description=said)
    else:
        artifacts[title] = create_progress_artifact(share, key=artifact_key("progress", title), description=said)
