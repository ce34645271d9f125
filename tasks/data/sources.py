"""Where a data set comes from, and what identifies its bytes. Cheap: it hashes files, and asks the Hub at most once."""

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.config import Dataset
from tasks.errors import BadConfig, BadData, MissingPart, OutsideRoots
from tasks.settings import Settings
from tasks.workspace import digest, file_sha256

logger = logging.getLogger(__name__)

FORMATS: Mapping[str, Literal["parquet", "csv", "json"]] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
"""The reader by a file's ending."""
NOT_DATA = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
HUB_ID = re.compile(r"^(?=.{1,96}$)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
COMMIT = re.compile(r"^[0-9a-f]{40}$")
PACKAGE_FILE = re.compile(r"^package:(?P<package>[A-Za-z_]\w*)(?P<inner>(/[A-Za-z0-9_][\w.-]*)+)$")
HUB_TIMEOUT_S = 15.0
Hasher = Callable[[Path], str]


@dataclass(frozen=True)
class Source:
    """A source that was found: files on this machine, or a commit on the Hub."""

    name: str
    """As in the config."""
    revision: str
    """The Hub commit, or the SHA-256 of the files."""
    files: tuple[Path, ...] = ()
    """The data files, sorted; none for the Hub."""
    folder: Path | None = None
    """The folder that was named, where it was a folder."""
    subset: str = ""
    """The Hub configuration's name."""

    def check_unchanged(self) -> None:
        """Raises BadData when the files are no longer those that `revision` names."""
        if self.files and _hash(self.files, self.folder) != self.revision:
            raise BadData(f"{self.name} changed while it was read: run again when nothing writes to it")


def find_source(dataset: Dataset, settings: Settings, hashed: Hasher = file_sha256) -> Source:
    """Find what `dataset.source` names.

    Args:
        hashed: gives the SHA-256 of a file.

    Raises:
        OutsideRoots: a path that this run may not read.
        BadConfig: nothing of this name, or no format that can be read.
        BadData: the folder holds no data file.
        MissingPart: a package that is not installed, or the Hub is needed and cannot be reached.
    """
    path = locate(dataset, settings)
    return _on_hub(dataset) if path is None else _on_this_machine(dataset, path, settings, hashed)


def locate(dataset: Dataset, settings: Settings) -> Path | None:
    """The file or folder that `dataset.source` names, without reading it; None where the Hub is meant.

    Raises: as `find_source`, but for what only the Hub or a look into the folder can tell.
    """
    name = dataset.source
    if name.startswith("package:"):
        path = _package_file(name)
    elif not _exists(name, settings) and HUB_ID.match(name) and Path(name).suffix not in FORMATS:
        return None
    else:
        path = settings.readable(name)
    if dataset.revision or dataset.subset:
        raise BadConfig(f"dataset.revision and dataset.subset are for the Hub, but {name!r} is on this machine: remove them")
    if path.is_file():
        _check_format(path)
    return path


def _exists(name: str, settings: Settings) -> bool:
    try:
        return settings.readable(name).exists()
    except (OutsideRoots, BadConfig, OSError):
        return False


def _on_this_machine(dataset: Dataset, path: Path, settings: Settings, hashed: Hasher) -> Source:
    if path.is_file():
        return Source(dataset.source, _hash((path,), None, hashed), (path,))
    files = tuple(sorted(file for file in path.rglob("*") if file.suffix in FORMATS and file.is_file() and _is_data(file, path)))
    if not files:
        raise BadData(f"folder {dataset.source!r} holds no data file: {_formats()} are read")
    _check_links(files, settings)
    return Source(dataset.source, _hash(files, path, hashed), files, path)


def _is_data(file: Path, folder: Path) -> bool:
    return file.name not in NOT_DATA and not any(step.startswith(".") for step in file.relative_to(folder).parts)


def _check_links(files: tuple[Path, ...], settings: Settings) -> None:
    roots = [root.resolve() for root in settings.roots]
    for file in files:
        if not any(file.resolve().is_relative_to(root) for root in roots):
            raise OutsideRoots(f"{file} is a link out of the folders that this run may read: copy the file there")


def _check_format(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise BadConfig(f"file {path.name!r} has no ending that says how to read it: {_formats()} are read")


def _formats() -> str:
    return ", ".join(sorted(FORMATS))


def _hash(files: tuple[Path, ...], folder: Path | None, hashed: Hasher = file_sha256) -> str:
    return digest({(file.relative_to(folder) if folder else Path(file.name)).as_posix(): hashed(file) for file in files})


def _package_file(name: str) -> Path:
    """A data file inside an installed package, which is not imported."""
    match = PACKAGE_FILE.match(name)
    if not match or len(name) > 300:
        raise OutsideRoots(f"source {name[:80]!r} is not of the form package:NAME/inner/file.csv with plain names")
    spec = importlib.util.find_spec(match["package"])
    if spec is None or not spec.submodule_search_locations:
        raise MissingPart(f"package {match['package']!r} is not installed: install it, or name another dataset.source")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    path = (folder / match["inner"].lstrip("/")).resolve()
    if not path.is_relative_to(folder):
        raise OutsideRoots(f"source {name!r} lies outside the package's folder")
    _check_format(path)
    if not path.is_file():
        raise BadConfig(f"package {match['package']!r} has no file {match['inner'].lstrip('/')!r}")
    return path


def _on_hub(dataset: Dataset) -> Source:
    if Path(dataset.source).exists():  # the library would read that folder, which may lie outside the roots
        raise OutsideRoots(
            f"{dataset.source!r} is a folder here, outside the folders that this run may read, not a data set on the Hub"
        )
    commit = dataset.revision if COMMIT.match(dataset.revision) else _resolve_commit(dataset.source, dataset.revision or None)
    return Source(dataset.source, commit, subset=dataset.subset)


def _resolve_commit(name: str, revision: str | None) -> str:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi(token=os.environ.get("HF_TOKEN") or None).dataset_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except RevisionNotFoundError:
        raise BadConfig(f"data set {name!r} has no revision {revision!r} on the Hub") from None
    except RepositoryNotFoundError:
        raise BadConfig(
            f"there is no data set {name!r}, neither in the folders that this run may read nor on the Hub"
            " (or it is private, and HF_TOKEN does not open it)"
        ) from None
    except HFValidationError as error:
        raise BadConfig(f"{name!r} is no file in the folders that this run may read, and no Hub id: {error}") from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise MissingPart(
            f"data set {name!r} is in no folder that this run may read, and the Hub could not be asked for it"
            f" ({type(error).__name__}); dataset.revision with a full commit needs the Hub only once"
        ) from None
    logger.info("%s at %s is commit %s", name, revision or "its newest revision", info.sha)
    return str(info.sha)
