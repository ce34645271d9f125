"""Lineage: what a published contender came from, by hash, so that it can be made again and compared.

It stands in the version's record and not in the manifest: the environment and the time of a run do not change what a contender is,
and the manifest's hash names it. The verdict and the predictions that decided lie in the store under their own hashes.

    evidence/<sha256>.json      the verdict
    evidence/<sha256>.parquet   the contender's predictions on dev and test
"""

import hashlib
import platform
import subprocess
from datetime import date
from functools import lru_cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from tasks.config import BakeoffConfig
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.records import SPLITS, ContenderRecord, DatasetRecord, Model, Verdict
from tasks.settings import Settings
from tasks.workspace import digest, file_sha256

PACKAGES = ("cli", "deployments", "flows", "services", "serving", "tasks")
"""The project's own code."""
CODE = {".py", ".jinja", ".css"}
"""How its files' names end: modules and templates."""


class DataLineage(Model):
    """The rows."""

    source: str
    revision: str
    """As it was read: a commit, or the SHA-256 of the files."""
    fingerprint: str
    splits: dict[str, str]
    """By split, the SHA-256 of its rows' hashes and labels in order: who learned from what, and what was tested on what."""
    rows: dict[str, int]


class Environment(Model):
    """What the project ran in."""

    code: str
    """SHA-256 of the project's own code."""
    commit: str
    """Empty outside a checkout; with a plus where files differed from it."""
    lock: str
    """SHA-256 of `requirements.lock`; empty where it is not there."""
    python: str
    platform: str
    packages: dict[str, str]
    """Version by package, as installed."""


class Price(Model):
    """What an endpoint's tokens and hours cost when it was decided."""

    model: str
    usd_per_million_input: float | None
    usd_per_million_cached: float | None
    usd_per_million_output: float | None
    usd_per_hour: float
    priced_on: date | None


class Lineage(Model):
    """What a contender came from, and what made it champion."""

    data: DataLineage
    config: str
    """SHA-256 of the bake-off's config, which the record holds in full."""
    environment: Environment
    device: str = ""
    """Where the contender, or a hybrid's tuned part, was trained; empty where nothing was trained."""
    dtype: str = ""
    """In which numbers; empty likewise."""
    bases: dict[str, str]
    """Revision by base model."""
    prompts: dict[str, str]
    """SHA-256 by file, of prompts and hybrids."""
    prices: dict[str, Price]
    """By endpoint."""
    usd_per_hour: dict[str, float]
    """What an hour of a machine cost, by device."""
    verdict: str
    """SHA-256 of the verdict: the decision and its evidence."""
    predictions: str
    """SHA-256 of the contender's predictions."""


def lineage_of(
    config: BakeoffConfig,
    winner: ContenderRecord,
    dataset: DatasetRecord,
    verdict: Verdict,
    settings: Settings,
    evidence: tuple[str, str],
) -> Lineage:
    """The lineage of a contender that is about to be published.

    Args:
        evidence: SHA-256 of the verdict and of the predictions.
    """
    manifest = read_manifest(winner.folder, check_files=False)
    return Lineage(
        data=data_lineage(dataset),
        config=digest(config),
        environment=environment(),
        device=winner.training.device if winner.training else "",
        dtype=winner.training.dtype if winner.training else "",
        bases=_bases(winner.folder, manifest),
        prompts=_prompts(manifest),
        prices=_prices(config, verdict, settings),
        usd_per_hour=settings.usd_per_hour,
        verdict=evidence[0],
        predictions=evidence[1],
    )


def data_lineage(dataset: DatasetRecord) -> DataLineage:
    """The rows of a data set, by hash."""
    splits = {split: _rows_sha256(dataset, split) for split in SPLITS}
    return DataLineage(
        source=dataset.source, revision=dataset.revision, fingerprint=dataset.fingerprint, splits=splits, rows=dataset.rows
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """This process's; looked at once."""
    root = Path(__file__).parents[2]
    lock = root / "requirements.lock"
    return Environment(
        code=_code_sha256(root),
        commit=_commit(root),
        lock=file_sha256(lock) if lock.is_file() else "",
        python=platform.python_version(),
        platform=platform.platform(),
        packages=dict(sorted({each.name.lower(): each.version for each in distributions()}.items()))
        | {"bakeoff": version("bakeoff")},
    )


def _rows_sha256(dataset: DatasetRecord, split: Any) -> str:
    import pyarrow.parquet as pq

    from tasks.data.examples import split_path

    table = pq.read_table(split_path(dataset, split), columns=["example", "label"])
    return digest([table["example"].to_pylist(), table["label"].to_pylist()])


def _code_sha256(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in CODE):
        total.update(f"{path.relative_to(root).as_posix()} {file_sha256(path)}\n".encode())
    return total.hexdigest()


def _commit(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout of another user
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _bases(folder: Path, manifest: ContenderManifest) -> dict[str, str]:
    """Of the contender and of those inside it."""
    inside = [read_manifest((folder / name).parent, check_files=False) for name in manifest.files if name.endswith(f"/{FILE}")]
    bases = (each.spec.get("base") for each in (manifest, *inside))
    return {base["id"]: base["revision"] for base in bases if isinstance(base, dict)}


def _prompts(manifest: ContenderManifest) -> dict[str, str]:
    if manifest.kind not in ("prompt", "hybrid"):
        return {}
    return {name: sha256 for name, sha256 in manifest.files.items() if not name.startswith("tuned/") and not name.endswith(".svg")}


def _prices(config: BakeoffConfig, verdict: Verdict, settings: Settings) -> dict[str, Price]:
    """Of every endpoint that the bake-off asks: by the settings, else as the run found them."""
    asked = {model.endpoint: model for model in verdict.models}
    found = {}
    for name in sorted({prompt.endpoint for prompt in config.prompts} & set(settings.endpoints)):
        endpoint = settings.endpoint(name)
        source = asked.get(name, endpoint)
        found[name] = Price(
            model=endpoint.model,
            usd_per_million_input=source.usd_per_million_input,
            usd_per_million_cached=source.usd_per_million_cached,
            usd_per_million_output=source.usd_per_million_output,
            usd_per_hour=endpoint.usd_per_hour,
            priced_on=source.priced_on,
        )
    return found
