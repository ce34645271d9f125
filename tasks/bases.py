"""Where a base model lies: an installed package, the Hub, or a folder in an allowed root. Only safetensors weights are taken."""

import importlib.util
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import BadConfig, IntegrityError, MissingPart
from tasks.settings import Base, Settings
from tasks.unpack import unpack
from tasks.workspace import digest, file_sha256

logger = logging.getLogger(__name__)
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True)
class ResolvedBase:
    """A base model on this machine."""

    id: str
    """Its public id, or the SHA-256 of a local folder's files."""
    revision: str
    path: Path
    config_sha256: str
    """Of `config.json`: an adapter loads only on a base with the same."""


def resolve_base(base: str, revision: str, settings: Settings) -> ResolvedBase:
    """Find a base model, downloading it from the Hub where it is neither packaged nor a folder.

    Raises:
        BadConfig: the name is neither a Hub id nor a readable folder, or the Hub does not have it.
        IntegrityError: packaged weights are not the ones that the settings name.
        MissingPart: the Hub cannot be reached and the base is not on this machine.
    """
    packaged = settings.bases.get(base)
    if packaged and revision in ("", packaged.revision):
        path = _package_folder(base, packaged, settings.home)
        if path:
            return _resolved(base, packaged.revision, path)
    if HUB_ID.match(base) and not base.endswith((".", "/")) and not _is_folder(base, settings):
        return _from_hub(base, revision or (packaged.revision if packaged else "main"))
    path = settings.readable(base)
    identity = digest({file.name: file_sha256(file) for file in sorted(path.iterdir()) if file.is_file()})
    return _resolved(f"folder-{identity[:12]}", identity, path)


def _is_folder(base: str, settings: Settings) -> bool:
    return any((root / base / "config.json").is_file() for root in settings.roots)


def _resolved(base: str, revision: str, path: Path) -> ResolvedBase:
    if not (path / "config.json").is_file():
        raise BadConfig(f"base {base!r} has no config.json in {path}: give a Hugging Face model folder or id")
    if _config(base, path).get("is_encoder_decoder"):
        raise BadConfig(f"base {base!r} in {path} has an encoder and a decoder: choose a base that is one of them")
    if not list(path.glob("*.safetensors")):
        raise BadConfig(f"base {base!r} has no safetensors weights in {path}; other formats can run code and are not loaded")
    return ResolvedBase(base, revision, path, file_sha256(path / "config.json"))


def _config(base: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadConfig(f"base {base!r} has a config.json that is no JSON ({error}): give a model folder or a Hub id") from None
    return found if isinstance(found, dict) else {}


def _package_folder(base: str, packaged: Base, home: Path) -> Path | None:
    package, _, inner = packaged.package.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / inner
    found = file_sha256(path / (packaged.gguf or "model.safetensors"))
    if found != packaged.weights_sha256:
        raise IntegrityError(
            f"the packaged weights of {base} have SHA-256 {found}, not {packaged.weights_sha256}: reinstall {package}"
        )
    return unpack(path / packaged.gguf, found, home / "bases") if packaged.gguf else path


def _from_hub(base: str, revision: str) -> ResolvedBase:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        path = Path(snapshot_download(base, revision=revision, allow_patterns=WANTED, token=os.environ.get("HF_TOKEN") or None))
    except RevisionNotFoundError:
        raise BadConfig(f"base {base!r} has no revision {revision!r} on the Hub") from None
    except RepositoryNotFoundError:
        raise BadConfig(f"there is no base {base!r} on the Hub, or it is private and HF_TOKEN does not open it") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise MissingPart(f"base {base!r} is not on this machine and the Hub cannot be reached ({type(error).__name__})") from None
    return _resolved(base, path.name, path)  # a snapshot's folder is named by its commit
