"""Products on S3, which cannot rename: a manifest written last commits one.

products/<stage>/<fingerprint>/<sha256>         its files by content, so that two that make the same are not in each other's way
products/<stage>/<fingerprint>/manifest.json    their names, sizes and hashes; written once, on condition that there is none
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from tasks.errors import IntegrityError
from tasks.progress import progress
from tasks.records import Model
from tasks.store import Counter, StoreClient
from tasks.workspace import file_sha256

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
AT_ONCE = 8
"""Files on their way at the same time."""
WORTH_A_BAR = 8 << 20
"""Fewer bytes are there before anybody has read how many of them are."""


class SharedFile(Model):
    """A file as it lies in the store, under its hash."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class FolderManifest(Model):
    """A folder of files, by their names in it."""

    format: Literal[1] = 1
    files: dict[str, SharedFile]

    @field_validator("files")
    @classmethod
    def _plain_paths(cls, files: dict[str, SharedFile]) -> dict[str, SharedFile]:
        for name in files:
            if not is_plain(name):
                raise ValueError(f"file name {name[:60]!r} is not a plain relative path")
        return files


def is_plain(name: str) -> bool:
    """Whether a name stays in the folder that it is used in."""
    path = PurePosixPath(name)
    return bool(name) and not (path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name or len(name) > 300)


def read_folder_manifest(body: bytes, where: str) -> FolderManifest:
    """Raises IntegrityError where it is none."""
    try:
        return FolderManifest.model_validate_json(body)
    except ValidationError as error:
        raise IntegrityError(f"{where} is malformed ({error.errors()[0]['msg']}): remove it, and it is made again") from None


def describe(folder: Path, files: Iterable[Path]) -> FolderManifest:
    """The manifest of files that lie in a folder."""
    found = {path.relative_to(folder).as_posix(): SharedFile(sha256=file_sha256(path), size=path.stat().st_size) for path in files}
    return FolderManifest(files=found)


def send_files(client: StoreClient, folder: Path, manifest: FolderManifest, place: str, told: Callable[[int], None]) -> None:
    """Copy a folder's files to a place in the store, each under its hash; what is there already is not sent again.

    Raises:
        StoreError, IntegrityError: one did not arrive as it was sent.
    """

    def send(named: tuple[str, SharedFile]) -> None:
        name, file = named
        client.upload(folder / name, client.key(place, file.sha256), file.sha256, told)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="send") as threads:
        list(threads.map(send, manifest.files.items()))


def fetch_files(client: StoreClient, manifest: FolderManifest, place: str, folder: Path, told: Callable[[int], None]) -> None:
    """Copy files down from a place, and hash every byte again.

    Raises:
        StoreError: the store refuses or is out of reach.
        IntegrityError: a file is missing there, or is not what the manifest says.
    """

    def fetch(named: tuple[str, SharedFile]) -> None:
        name, file = named
        path, key = folder / name, client.key(place, file.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download(key, path, told)
        if path.stat().st_size != file.size or file_sha256(path) != file.sha256:
            where = client.uri(place, file.sha256)
            raise IntegrityError(f"{where} ({name}) was corrupted or replaced: remove what lies beside it, and it is made again")

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as threads:
        list(threads.map(fetch, manifest.files.items()))


def commit(client: StoreClient, folder: Path, place: str, title: str, still: Callable[[], None] = lambda: None) -> bool:
    """Copy a product up; it is there for all once this returns, and before that for nobody.

    Args:
        still: raises where the product is no longer this worker's to make; asked when all files are there.

    Returns: whether it is this one that is there; false where another worker committed theirs meanwhile, which stays.

    Raises:
        StoreError, IntegrityError: as `send_files`.
    """
    manifest = describe(folder, sorted(path for path in folder.rglob("*") if path.is_file()))
    with _bar(f"share {title}", manifest) as told:
        send_files(client, folder, manifest, place, told)
    still()
    return client.put_if(client.key(place, MANIFEST), manifest.model_dump_json(indent=1).encode(), None) is not None


def fetch(client: StoreClient, place: str, folder: Path, title: str) -> bool:
    """Copy a product down to a folder that is not there yet. Returns False where the store has none.

    Raises:
        StoreError, IntegrityError: as `fetch_files`; nothing of it is left.
    """
    found = client.read(client.key(place, MANIFEST))
    if found is None:
        return False
    manifest = read_folder_manifest(found[0], client.uri(place, MANIFEST))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _bar(f"fetch {title}", manifest) as told:
            fetch_files(client, manifest, place, folder, told)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return True


@contextmanager
def _bar(title: str, manifest: FolderManifest) -> Iterator[Callable[[int], None]]:
    total = sum(file.size for file in manifest.files.values())
    if total < WORTH_A_BAR:
        yield lambda _: None
        return
    with progress(f"{title} (bytes)", total) as bar:
        yield Counter(bar.move)
