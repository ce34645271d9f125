"""What runs spent, kept in a shared workspace: a run on another machine counts for the one that waits for it, dead lives included.

spent/<run>/<life>.json     dollars that one life of a run spent so far
"""

import json
from uuid import uuid4

from tasks.prompting.budget import Cap
from tasks.sharing.shelf import Shelf

FOLDER = "spent"


class Account:
    """What this life of a run spends, sent as it grows (`tasks.sharing.shelf.Part`)."""

    def __init__(self, shelf: Shelf, cap: Cap, run: str) -> None:
        self._shelf, self._cap, self._earlier = shelf, cap, cap.spent_usd
        self._key = shelf.key(FOLDER, run, f"{uuid4().hex}.json")
        self._sent = 0.0

    def send(self) -> None:
        """Write down what was spent since this life began."""
        spent = self._cap.spent_usd - self._earlier
        if spent != self._sent:
            self._shelf.client.write(self._key, json.dumps({"usd": spent}).encode())
            self._sent = spent

    def fetch(self) -> None:
        """Nobody else writes to it."""


def spent_by(shelf: Shelf, run: str) -> float:
    """Dollars that all lives of a run spent."""
    found = (shelf.client.read(each.key) for each in shelf.client.listed(shelf.settings.prefix, FOLDER, run))
    return sum(float(json.loads(body[0])["usd"]) for body in found if body)
