"""What grows while a stage runs (checkpoints, chunks of answers), kept on S3 as well, so that a worker on another machine goes on.

    inprogress/<stage>/<fingerprint>/<sha256>         files by content
    inprogress/<stage>/<fingerprint>/snapshot.json    which there were at one moment; replaced on condition, so by one worker

A snapshot names only files that have arrived, so it is whole. What is being written when it is taken (a checkpoint aside, a half
file) is left out, and a worker that lost its claim cannot replace the snapshot of the one that took over.
"""

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from threading import Lock

from tasks.errors import IntegrityError, LostClaim
from tasks.sharing.products import FolderManifest, SharedFile, fetch_files, read_folder_manifest, send_files
from tasks.store import StoreClient
from tasks.workspace import BEING_WRITTEN, file_sha256, write_durably

logger = logging.getLogger(__name__)
SNAPSHOT = "snapshot.json"
MARK = ".snapshot"
"""Beside the files: the ETag of the snapshot that they came from or went to. While the store has the same, nobody else went on."""

Stamp = tuple[int, int, int]
"""Size, time of change and number of a file: while they stay, so does its content."""


@dataclass
class Growing:
    """One stage's folder of what must outlive a kill, here and in the store."""

    client: StoreClient
    folder: Path
    place: str
    _etag: str | None = None
    _sent: dict[str, tuple[Stamp, SharedFile]] = field(default_factory=dict)
    _unheard: list[bytes] = field(default_factory=list)
    """Snapshots that were written, or not: the store's answer was lost."""
    _lock: Lock = field(default_factory=Lock)

    def restore(self) -> None:
        """Have what another worker left, unless what lies here goes on from it."""
        with self._lock:
            found = self.client.read(self._key(SNAPSHOT))
            mark = self.folder / MARK
            if found is None or (mark.exists() and mark.read_text(encoding="utf-8") == found[1]):
                self._etag = found[1] if found else None
                return
            self._clear()
            self._take(read_folder_manifest(found[0], self.client.uri(self.place, SNAPSHOT)))
            self._etag = found[1]
            self._replace(found[0] + b"\n")  # from here on whoever was before can replace it no more

    def send(self) -> None:
        """Bring the store up to what lies here. A file that changes meanwhile is for the next time.

        Raises:
            LostClaim: another worker goes on with it.
            StoreError: the store refuses or is out of reach; nothing is lost here.
        """
        with self._lock:
            try:
                now = self._look()
                if {name: file for name, (_, file) in now.items()} == {name: file for name, (_, file) in self._sent.items()}:
                    return
                manifest = FolderManifest(files={name: file for name, (_, file) in now.items()})
                send_files(self.client, self.folder, manifest, self.place, lambda _: None)
                if self._look() != now:
                    return
            except (FileNotFoundError, IntegrityError):  # an older checkpoint made way, or a file grew on the way
                return
            self._replace(manifest.model_dump_json(indent=1).encode())
            gone = {file.sha256 for _, file in self._sent.values()} - {file.sha256 for _, file in now.values()}
            self._sent = now
            for sha256 in gone:
                self.client.remove(self._key(sha256))

    def remove(self) -> None:
        """The product is whole: the snapshot goes first."""
        with self._lock:
            self.client.remove(self._key(SNAPSHOT))
            for each in self.client.listed(self.place):
                self.client.remove(each.key)

    def _take(self, manifest: FolderManifest) -> None:
        """Raises nothing where the snapshot cannot be used: the stage then begins anew."""
        aside = self.folder / ".taken"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            fetch_files(self.client, manifest, self.place, aside, lambda _: None)
        except IntegrityError as error:
            logger.warning("what another worker left of %s cannot be used, and is made anew: %s", self.place, error)
            return
        else:
            for path in aside.iterdir() if aside.exists() else ():
                path.rename(self.folder / path.name)
            logger.info("%s: going on with %d files that another worker left", self.place, len(manifest.files))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _replace(self, body: bytes) -> None:
        key, before = self._key(SNAPSHOT), list(self._unheard)
        self._unheard.append(body)
        etag = self.client.put_if(key, body, self._etag)
        if etag is None and (there := self.client.read(key)) and there[0] in before:
            etag = self.client.put_if(key, body, there[1])
        if etag is None:
            raise LostClaim(f"another worker goes on with {self.place}: run again to go on with what it makes")
        self._etag, self._unheard = etag, []
        with suppress(FileNotFoundError):  # the product is whole, and the folder gone
            write_durably(self.folder / MARK, etag)

    def _look(self) -> dict[str, tuple[Stamp, SharedFile]]:
        """The files that are whole, hashed where they changed."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_file() and not any(fnmatch(part, pattern) for part in name.parts for pattern in BEING_WRITTEN):
                found[name.as_posix()] = self._hash(path, name.as_posix())
        return found

    def _hash(self, path: Path, name: str) -> tuple[Stamp, SharedFile]:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns, status.st_ino
        known = self._sent.get(name)
        if known and known[0] == stamp:
            return known
        return stamp, SharedFile(sha256=file_sha256(path), size=status.st_size)

    def _key(self, name: str) -> str:
        return self.client.key(self.place, name)
