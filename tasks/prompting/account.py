"""What runs spent, kept in the workspace, and in its store where it is shared: the cap holds for a run with all its lives, those
that were killed included, and with the runs on other machines that work for it.

spent/<run>/<life>.json         dollars that one life of a run spent so far
spent/<run>/children/<child>    in the store alone: a run that works for this one
"""

import json
import logging
import threading
from pathlib import Path
from uuid import uuid4

from tasks.prompting.budget import Cap
from tasks.sharing.shelf import Shelf

logger = logging.getLogger(__name__)
FOLDER = "spent"
CHILDREN = "children"


class Account:
    """What this life of a run spends, written down as it grows (in the store as a `tasks.sharing.shelf.Part`). What was spent
    before, by the run and for it, counts against the cap from the beginning."""

    def __init__(self, root: Path, shelf: Shelf | None, cap: Cap, run: str) -> None:
        """Args:
        root: the workspace here.
        run: its id; of an empty one nothing is kept.
        """
        self._root, self._shelf, self._cap, self._run = root, shelf, cap, run
        self._life = f"{uuid4().hex}.json"
        self._lock = threading.Lock()
        self._kept = self._sent = 0.0
        self._counted: dict[str, float] = {}
        if not run:
            return
        for each in [run, *self._children()]:
            self.count(each)
        if cap.spent_usd:
            logger.info("$%.4f of the cap of $%g was spent before by this run", cap.spent_usd, cap.usd)
        cap.paid = self.keep
        if shelf:
            shelf.parts.append(self)

    def add(self, child: str) -> None:
        """Have a run on another machine work for this one: what it spends counts in each later life of this run."""
        assert self._shelf
        self._shelf.client.write(self._shelf.key(FOLDER, self._run, CHILDREN, child), b"")

    def count(self, run: str) -> None:
        """Have what a run spent, as far as it was not counted yet, count against the cap."""
        spent = self._spent_by(run)
        self._cap.count(spent - self._counted.get(run, 0.0))
        self._counted[run] = spent

    def keep(self) -> None:
        """Write down here what was spent since this life began: each time, since a kill gives no notice. Not synced to disk, which
        would hold up what is asked beside it."""
        path = self._root / FOLDER / self._run / self._life
        with self._lock:
            if self._cap.paid_usd == self._kept:
                return
            self._kept = self._cap.paid_usd
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                aside = path.with_name(f".{path.name}")
                aside.write_bytes(_written(self._kept))
                aside.replace(path)
            except OSError as error:
                logger.warning("what was spent could not be written down, and would be forgotten by another life: %s", error)

    def send(self) -> None:
        """The same in the store."""
        spent = self._cap.paid_usd
        if self._shelf and spent != self._sent:
            self._shelf.client.write(self._shelf.key(FOLDER, self._run, self._life), _written(spent))
            self._sent = spent

    def fetch(self) -> None:
        """Nobody else writes to it."""

    def _children(self) -> list[str]:
        return [name.removeprefix(f"{CHILDREN}/") for name in self._stored(self._run) if name.startswith(f"{CHILDREN}/")]

    def _spent_by(self, run: str) -> float:
        """All its lives. Of one that is here and in the store, the store may not have the last."""
        spent = {path.name: _read(path.read_bytes()) for path in (self._root / FOLDER / run).glob("*.json")}
        for name, key in self._stored(run).items():
            body = None if name in spent or name.startswith(f"{CHILDREN}/") else self._shelf and self._shelf.client.read(key)
            if body:
                spent[name] = _read(body[0])
        return sum(spent.values())

    def _stored(self, run: str) -> dict[str, str]:
        """The keys of what the store has of a run."""
        if not self._shelf:
            return {}
        folder = f"{self._shelf.key(FOLDER, run)}/"
        return {
            each.key.removeprefix(folder): each.key for each in self._shelf.client.listed(self._shelf.settings.prefix, FOLDER, run)
        }


def _written(usd: float) -> bytes:
    return json.dumps({"usd": usd}).encode()


def _read(body: bytes) -> float:
    try:
        return float(json.loads(body)["usd"])
    except ValueError:  # the machine lost its power while it was written
        return 0.0
