"""A folder for the time of a benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from services.keeper import wait_until_all_stopped

STOP_S = 30.0


@contextmanager
def scratch(prefix: str | None = None) -> Iterator[Path]:
    """A folder that is deleted with the `with`, once every server that was started in it has ended: they write until then."""
    with TemporaryDirectory(prefix=prefix) as name:
        try:
            yield Path(name)
        finally:
            wait_until_all_stopped(Path(name), STOP_S)
