"""The journal of answers: what an endpoint said to a request is kept on disk at once, so that nothing is paid for twice, across
kills, runs and contenders. One SQLite file for an endpoint; several processes may use it at the same time.

A key is the hash of the whole request, so any change to model, messages or parameters asks anew. Only whole replies are kept, also
those that no label can be read from (they were paid for); a request that failed on the way is asked again.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.settings import Endpoint
from tasks.workspace import digest

TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, refusal TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, latency_ms REAL NOT NULL,
    attempts INTEGER NOT NULL, kept_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ'))
) STRICT, WITHOUT ROWID"""


@dataclass(frozen=True)
class Reply:
    """What an endpoint said to one request, and what that took."""

    text: str
    finish_reason: str | None
    refusal: str | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    """All attempts together."""
    latency_ms: float
    """Of the attempt that was answered."""
    attempts: int


COLUMNS = [field.name for field in fields(Reply)]


def request_key(endpoint: Endpoint, request: Mapping[str, Any]) -> str:
    """Names the answer to a request. The embedded server's address changes from run to run, so it counts by its service's name."""
    return digest({"endpoint": endpoint.service or endpoint.base_url, "request": request})


class Journal:
    """Replies on disk; without a path nothing is kept. Use it as a context, in one thread."""

    def __init__(self, path: Path | None) -> None:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing; a power cut at worst the last few
        self._database.execute(TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def find(self, key: str) -> Reply | None:
        """The reply that was kept under a key."""
        row = self._database.execute(f"SELECT {', '.join(COLUMNS)} FROM replies WHERE key = ?", [key]).fetchone()  # noqa: S608
        return Reply(*row) if row else None

    def keep(self, key: str, model: str, reply: Reply) -> None:
        """Write a reply to disk; the first one stays where two processes asked the same."""
        values = [key, model, *asdict(reply).values()]
        names = ", ".join(["key", "model", *COLUMNS])
        self._database.execute(f"INSERT OR IGNORE INTO replies ({names}) VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
