"""The journals of answers of a shared workspace: what one worker paid for, all have.

    journal/<endpoint>/<writer>-000001.jsonl     replies as they came, a line each; written anew as it grows, up to SEGMENT_BYTES
    journal/<endpoint>/batches/<name>.json       a batch that is under way

A trigger in the local journal notes each new reply until it has arrived in the store, so a kill here loses none of them for this
home; for other homes it loses none either, unless the store is in trouble, as an asker waits for its reply to be sent
(`Journal.sent`).
"""

import json
import logging
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from tasks.errors import StoreError
from tasks.prompting.journal import COLUMNS, Journal
from tasks.sharing.shelf import Shelf
from tasks.store import Stored

logger = logging.getLogger(__name__)
FOLDER, BATCHES = "journal", "batches"
SEGMENT_BYTES = 64 << 10
"""A segment is sent whole each time it grows, which is with every few replies; a longer one is closed."""
LATE_S = 5.0
"""A write that took longer, or failed, may have left an attempt on its way that arrives after the next one: its segment is closed,
so that nothing newer can be written over."""
AT_ONCE = 8
NAME = re.compile(r"[\w-][\w.-]{0,99}")
ALL = ("key", "model", *COLUMNS)
ROWS = ", ".join(ALL)
NOTES = """
CREATE TABLE IF NOT EXISTS seen (segment TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS unsent (key TEXT PRIMARY KEY) STRICT;
INSERT OR IGNORE INTO unsent SELECT key FROM replies
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'note');
CREATE TRIGGER IF NOT EXISTS note AFTER INSERT ON replies BEGIN INSERT OR IGNORE INTO unsent VALUES (new.key); END;
"""


@dataclass
class _Open:
    """The segment that this process writes of one journal."""

    number: int = 1
    lines: list[str] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)
    """Batches under way, as they were sent."""


class SharedJournals:
    """The journals of a workspace, here and in the store (`tasks.sharing.shelf.Part`)."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._folder = shelf, shelf.root / FOLDER
        self._writer = uuid4().hex
        self._open: dict[str, _Open] = {}
        self._lock = Lock()

    def send(self) -> None:
        """Send what was answered since the last time. Trouble with one journal keeps no other from being sent."""
        problems: list[Exception] = []
        with self._lock:
            for path in sorted(self._folder.glob("*.sqlite")):
                try:
                    self._send_journal(path)
                except (StoreError, sqlite3.Error) as problem:
                    problems.append(problem)
        if problems:
            raise problems[0]

    def fetch(self) -> None:
        """Take in what others sent since the last time."""
        with self._lock:
            found: dict[str, list[Stored]] = {}
            for each in self._shelf.client.listed(self._shelf.settings.prefix, FOLDER):
                name, _, _ = self._inner(each.key).partition("/")
                if NAME.fullmatch(name):
                    found.setdefault(name, []).append(each)
            for name, stored in found.items():
                with _opened(self._folder / f"{name}.sqlite") as database:
                    self._fetch_replies(database, [each for each in stored if each.key.endswith(".jsonl")])
                    self._fetch_batches(database, [each for each in stored if f"/{BATCHES}/" in self._inner(each.key)])

    def _send_journal(self, path: Path) -> None:
        segment = self._open.setdefault(path.stem, _Open())
        with _opened(path) as database:
            under_way = _batches(database)  # before the replies, so that those of one that has ended by then go first
            self._send_replies(path.stem, segment, database)
            self._send_batches(path.stem, segment, under_way)

    def _send_replies(self, name: str, segment: _Open, database: sqlite3.Connection) -> None:
        rows = database.execute(f"SELECT {ROWS} FROM replies JOIN unsent USING (key)").fetchall()  # noqa: S608
        if not rows:
            return
        lines = [json.dumps(dict(zip(ALL, row, strict=True)), ensure_ascii=False) for row in rows]
        whole = [*segment.lines, *lines]
        body = "".join(f"{line}\n" for line in whole).encode()
        key = self._shelf.key(FOLDER, name, f"{self._writer}-{segment.number:06d}.jsonl")
        number, segment.number, segment.lines = segment.number, segment.number + 1, []
        began = time.monotonic()
        self._shelf.client.write(key, body)
        if len(body) < SEGMENT_BYTES and time.monotonic() - began < LATE_S:
            segment.number, segment.lines = number, whole
        with database:
            database.executemany("DELETE FROM unsent WHERE key = ?", [row[:1] for row in rows])
            database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", [self._inner(key), len(body)])

    def _send_batches(self, name: str, segment: _Open, now: Mapping[str, str]) -> None:
        """A batch that ended is forgotten everywhere."""
        for batch, text in now.items():
            if segment.batches.get(batch) != text:
                self._shelf.client.write(self._shelf.key(FOLDER, name, BATCHES, f"{batch}.json"), text.encode())
                segment.batches[batch] = text
        for batch in segment.batches.keys() - now.keys():
            self._shelf.client.remove(self._shelf.key(FOLDER, name, BATCHES, f"{batch}.json"))
            del segment.batches[batch]

    def _fetch_replies(self, database: sqlite3.Connection, stored: Sequence[Stored]) -> None:
        seen = dict(database.execute("SELECT segment, size FROM seen"))
        new = [each for each in stored if seen.get(self._inner(each.key)) != each.size]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="answers") as threads:
            for each, found in zip(new, threads.map(lambda one: self._shelf.client.read(one.key), new), strict=True):
                if found:
                    self._take(database, each, found[0])

    def _take(self, database: sqlite3.Connection, stored: Stored, body: bytes) -> None:
        try:
            rows = [_values(json.loads(line)) for line in body.decode().splitlines()]
        except (ValueError, KeyError) as error:
            logger.warning("answers in %s cannot be read and are left out: %s", stored.key, error)
            return
        with database:
            database.executemany(f"INSERT OR IGNORE INTO replies ({ROWS}) VALUES ({', '.join('?' * len(ALL))})", rows)  # noqa: S608
            database.executemany("DELETE FROM unsent WHERE key = ?", [row[:1] for row in rows])
            database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", [self._inner(stored.key), len(body)])

    def _fetch_batches(self, database: sqlite3.Connection, stored: Sequence[Stored]) -> None:
        for each in stored:
            found = self._shelf.client.read(each.key)
            if found:
                with database:
                    row = json.loads(found[0])
                    database.execute("INSERT OR IGNORE INTO batches (name, batch_id, keys) VALUES (?, ?, ?)", row)

    def _inner(self, key: str) -> str:
        """A key below the journals' folder."""
        return key.removeprefix(f"{self._shelf.key(FOLDER)}/")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A journal with its notes of what was sent and seen; made where it is not there, or where another process is about to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'note'").fetchone():
            with Journal(path):  # its tables
                pass
            database.executescript(f"BEGIN IMMEDIATE;{NOTES}COMMIT;")
        database.execute("PRAGMA synchronous=NORMAL")  # a note that a power cut takes away is sent once more
        yield database


def _batches(database: sqlite3.Connection) -> dict[str, str]:
    """Batches under way by their names, as they are sent."""
    return {batch: json.dumps([batch, *rest]) for batch, *rest in database.execute("SELECT name, batch_id, keys FROM batches")}


def _values(line: Mapping[str, Any]) -> list[Any]:
    return [line[column] for column in ALL]
