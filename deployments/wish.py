"""What `make up` is to register and to let its runs read, and what the last one of a home was asked for.

The server keeps the blocks that `--notify` named, and `<home>/up/address` its port; the rest is kept here, since registering says
all of it anew: without it, a plain `make up` would put the demo in the place of somebody's own bake-off.
"""

import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.errors import BadConfig
from tasks.workspace import write_durably

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What is to be registered, and what its runs may read."""

    config: Path
    """The config's file, absolute."""
    nightly: tuple[str, ...]
    timezone: str
    roots: tuple[Path, ...]
    """The folders whose files runs may read, absolute."""
    notify: tuple[str, ...] = ()


def as_last_time(wish: Wish, given: Collection[str], home: Path) -> Wish:
    """The wish, with what the last one of this home had in the place of what was not given. What that changes is said.

    Args:
        given: the names of what somebody asked for now; the rest are defaults.

    Raises:
        BadConfig: what was kept cannot be read.
    """
    path = _path(home)
    last = _read(path) if path.exists() else {}
    taken = {name: value for name, value in last.items() if name not in given and value != getattr(wish, name)}
    if taken:
        logger.info("as the last time: %s; what you give replaces it", ", ".join(_in_words(*each) for each in taken.items()))
    return replace(wish, **taken)


def keep(wish: Wish, home: Path) -> None:
    """Have the next `make up` of this home know it."""
    told = {"config": str(wish.config), "nightly": wish.nightly, "timezone": wish.timezone, "roots": [*map(str, wish.roots)]}
    write_durably(_path(home), json.dumps(told, indent=2) + "\n")


def _path(home: Path) -> Path:
    return home / "up" / "wish.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {
            "config": Path(told["config"]),
            "nightly": tuple(told["nightly"]),
            "timezone": told["timezone"],
            "roots": tuple(map(Path, told["roots"])),
        }
    except (ValueError, KeyError, TypeError):
        raise BadConfig(f"{path} is damaged: remove it, and say --config and the rest once more") from None


def _in_words(name: str, value: Any) -> str:
    """As it would be given."""
    if name == "roots":
        return f"BAKEOFF_ROOTS={os.pathsep.join(map(str, value))}"
    values = (value or ("none",)) if name == "nightly" else (value,)
    return " ".join(f"--{name} {each}" for each in values)
