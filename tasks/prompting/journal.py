"""The journal of answers: what an endpoint said to a request is kept on disk at once, so that nothing is paid for twice, across
kills, runs and contenders. One SQLite file for an endpoint; several processes may use it at the same time.

A key is the hash of the whole request, so any change to model, messages or parameters asks anew. Only whole replies are kept, also
those that no label can be read from (they were paid for); a request that failed on the way is asked again.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.settings import Endpoint
from tasks.workspace import Sharing, digest

logger = logging.getLogger(__name__)
SENT_WITHIN_S, INSISTED_S = 8.0, 60.0
"""So long an asker waits for a reply, or for the plan of a batch, to be sent to a shared workspace."""
TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, refusal TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, latency_ms REAL NOT NULL,
    attempts INTEGER NOT NULL, kept_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
    logprobs TEXT, cached_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID"""
ADDED = {
    "logprobs": "TEXT",
    "cached_tokens": "INTEGER NOT NULL DEFAULT 0",
    "reasoning_tokens": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns that journals of earlier releases lack."""

BATCHES = """CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, batch_id TEXT, keys TEXT NOT NULL, planned_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ'))
) STRICT"""


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
    logprobs: str | None = None
    """Of the answer's first token, a JSON list of `{"token": …, "logprob": …}`, the likeliest first; None where not asked for."""
    cached_tokens: int = 0
    """Prompt tokens that the endpoint had in its cache; they are among `input_tokens`."""
    reasoning_tokens: int = 0
    """Tokens of hidden reasoning; they are among `output_tokens`."""


@dataclass(frozen=True)
class PlannedBatch:
    """Requests that were, or were about to be, handed to an endpoint as one batch, and whose answers are not all in yet."""

    name: str
    """What the batch carries in its metadata, so that it is found again even if its id was never written down."""
    batch_id: str | None
    keys: list[str]
    age_s: float = 0.0
    """Since it was planned; of another machine's, since it was heard of here."""


COLUMNS = [field.name for field in fields(Reply)]


def request_key(endpoint: Endpoint, request: Mapping[str, Any]) -> str:
    """Names the answer to a request. The embedded server's address changes from run to run, so it counts by its service's name."""
    return digest({"endpoint": endpoint.service or endpoint.base_url, "request": request})


class Journal:
    """Replies on disk; without a path nothing is kept. Use it as a context, in one thread."""

    def __init__(self, path: Path | None, sharing: Sharing | None = None) -> None:
        self.path, self._sharing = path, sharing
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
        self._share()
        self._database.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing; a power cut at worst the last few
        self._database.execute(TABLE)
        self._database.execute(BATCHES)
        self._add_columns()

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

    async def sent(self, insist: bool = False) -> None:
        """Wait until what is kept is with the other machines of a shared workspace, so that the death of this one, with its disk,
        costs no more than the calls under way. A store in trouble is not waited for: what was paid for stays on this disk.

        Args:
            insist: of what would be dear to lose: try, and wait longer, also where the store is in trouble.
        """
        if not self._sharing:
            return
        try:
            async with asyncio.timeout(INSISTED_S if insist else SENT_WITHIN_S):
                await asyncio.wrap_future(self._sharing.send_soon(insist))
        except TimeoutError:
            logger.warning("the workspace's store is slow: asking goes on before all that was asked or answered is there")

    def plan_batch(self, name: str, keys: Iterable[str]) -> None:
        """Write down that a batch of this name is about to be made; it is on the disk when this returns."""
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("INSERT INTO batches (name, keys) VALUES (?, ?)", [name, json.dumps(list(keys))])
        self._database.execute("PRAGMA synchronous=NORMAL")

    def name_batch(self, name: str, batch_id: str) -> None:
        """Write down the id that the endpoint gave to a batch."""
        self._database.execute("UPDATE batches SET batch_id = ? WHERE name = ?", [batch_id, name])

    def end_batch(self, name: str, keys: Iterable[str] | None = None) -> None:
        """Forget a batch: its answers are kept, or it never was.

        Args:
            keys: those that are done with; the batch stays for the others. None for all.
        """
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:  # commits
            row = self._database.execute("SELECT keys FROM batches WHERE name = ?", [name]).fetchone()
            done = None if keys is None else set(keys)
            left = [key for key in json.loads(row[0]) if key not in done] if row and done is not None else []
            if left:
                self._database.execute("UPDATE batches SET keys = ? WHERE name = ?", [json.dumps(left), name])
            else:
                self._database.execute("DELETE FROM batches WHERE name = ?", [name])

    def planned_batches(self) -> list[PlannedBatch]:
        """Batches that were planned and have not ended, the oldest first."""
        age = "(julianday('now') - julianday(planned_at)) * 86400"
        rows = self._database.execute(f"SELECT name, batch_id, keys, {age} FROM batches ORDER BY planned_at, name").fetchall()  # noqa: S608
        return [PlannedBatch(name, batch_id, json.loads(keys), age_s) for name, batch_id, keys, age_s in rows]

    def _share(self) -> None:
        """Let others read while one writes. Whoever opens a new journal at the same moment is in the way, and SQLite does not wait
        for this one statement."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

        trying = Retrying(
            retry=retry_if_exception_type(sqlite3.OperationalError),
            stop=stop_after_delay(60),
            wait=wait_random(0, 0.1),
            reraise=True,
        )
        trying(self._database.execute, "PRAGMA journal_mode=WAL")

    def _add_columns(self) -> None:
        """Give a journal of an earlier release the columns that it lacks."""
        for name, kind in ADDED.items():
            if name not in self._columns():
                try:
                    self._database.execute(f"ALTER TABLE replies ADD COLUMN {name} {kind}")
                except sqlite3.OperationalError:
                    if name not in self._columns():  # else another process was faster
                        raise

    def _columns(self) -> set[str]:
        return {row[1] for row in self._database.execute("PRAGMA table_info(replies)")}
