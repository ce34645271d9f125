"""Publish: the winner's folder goes up under the hash of its manifest, comes back in a clean process, and then the pointer moves.

    contenders/<sha256 of contender.json>/…   never changed; the manifest goes last, so what has one is whole

A run that was killed goes on: files that the store has are not sent again, and the pointer moves once.
"""

import hashlib
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig
from tasks.data.predictions import FILE as PREDICTIONS
from tasks.errors import IntegrityError, LostRace, StoreError
from tasks.manifest import FILE, ContenderManifest, read_manifest, write_manifest
from tasks.progress import progress
from tasks.records import ContenderRecord, DatasetRecord, PredictionsRecord, PublicationRecord, Verdict
from tasks.registry.card import CARD, card_text
from tasks.registry.champion import ChampionVersion, expect_champion, incarnation, move_champion, who
from tasks.registry.lineage import lineage_of
from tasks.registry.signing import sign
from tasks.registry.verify import RoundTrip, example_request, round_trip
from tasks.settings import Places
from tasks.store import Counter, StoreClient, open_store
from tasks.workspace import Building, Stage, Workspace, file_sha256, link, write_durably

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap

logger = logging.getLogger(__name__)
PUBLISH = Stage(
    "publish",
    2,
    (
        "tasks.registry.publish",
        "tasks.registry.card",
        "tasks.registry.champion",
        "tasks.registry.lineage",
        "tasks.registry.signing",
        "tasks.store",
        "tasks.registry.verify",
    ),
    shared=False,
)


@dataclass(frozen=True)
class Publication:
    """What is to be published, and on what evidence."""

    config: BakeoffConfig
    verdict: Verdict
    winner: ContenderRecord
    predictions: PredictionsRecord
    """The winner's, as it was judged."""
    dataset: DatasetRecord
    previous: ChampionVersion | None
    """The champion that the verdict compared with."""


def publish(publication: Publication, places: Places, workspace: Workspace, cap: "Cap | None" = None) -> PublicationRecord:
    """Make the verdict's winner the champion.

    Args:
        cap: for prompts and hybrids: what asking a few rows again may cost.

    Raises:
        LostRace: another publisher was quicker; nothing has to be trained or uploaded again.
        IntegrityError: what came back is not what was judged; the champion is unchanged.
        StoreError: the store refused; everything is kept, and the command that goes on is named.
    """
    config, previous = publication.config, publication.previous
    key = {
        "store": config.store,
        "champion": config.name,
        "previous": previous and [previous.version, previous.sha256],
        "incarnation": incarnation(places.settings, config.store, config.name),
    }

    def build(building: Building) -> PublicationRecord:
        return _publish(publication, places, building, cap)

    made_from, label = [publication.winner.fingerprint], f"publish {publication.winner.name}"
    try:
        return workspace.produce(PUBLISH, made_from, key, PublicationRecord, build, label)
    except LostRace:
        raise
    except StoreError as error:
        kept = f"{publication.winner.name} is kept in {publication.winner.folder}"
        raise StoreError(f"{error}; {kept}, and this goes on from there: {resuming(publication, places, workspace)}") from None


def published_verdict(client: StoreClient, version: ChampionVersion) -> Verdict:
    """The verdict by which a version was published, as the store keeps it. Raises IntegrityError where it is not there whole."""
    sha256 = version.lineage.verdict if version.lineage else ""
    found = client.read(client.key("evidence", f"{sha256}.json"))
    if not found or hashlib.sha256(found[0]).hexdigest() != sha256:
        raise IntegrityError(f"the verdict of version {version.version} of {version.name} is missing or was replaced in the store")
    return Verdict.model_validate_json(found[0]).model_copy(update={"champion": version.champion()})


def resuming(publication: Publication, places: Places, workspace: Workspace) -> str:
    """The command that goes on with the run, from any folder; its config is written beside the run's verdict."""
    file = workspace.root / "runs" / publication.verdict.run_id / "config.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, publication.config.model_dump_json(indent=2))
    settings = places.settings
    variables = {"BAKEOFF_HOME": str(settings.home), "BAKEOFF_ROOTS": os.pathsep.join(map(str, settings.roots))}
    named = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value]
    return " ".join([*named, "bakeoff", "run", shlex.quote(str(file))])


def assemble(publication: Publication, places: Places, folder: Path) -> ContenderManifest:
    """The folder that is published: the contender's files, the model card, and a manifest over both.

    Raises:
        IntegrityError: a file is not what the contender's manifest says.
    """
    winner = publication.winner
    manifest = read_manifest(winner.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in manifest.files:
        if name != CARD:
            link(winner.folder / name, folder / name)
    asks = winner.kind in ("prompt", "hybrid")
    endpoint = places.settings.endpoint(winner.occupies.removeprefix("endpoint:")) if asks else None
    request = example_request(winner.folder) if endpoint else None
    card = card_text(manifest, winner, publication.verdict, publication.dataset, endpoint, request)
    (folder / CARD).write_text(card, encoding="utf-8")
    return write_manifest(folder, manifest)


def upload_contender(client: StoreClient, folder: Path, again: bool = False) -> tuple[str, int]:
    """Copy a contender's folder up, its manifest last.

    Args:
        again: send files even where the store says that it has them.

    Returns: the SHA-256 of the manifest, which names the folder there, and the bytes sent.
    """
    manifest = read_manifest(folder)
    sha256 = file_sha256(folder / FILE)
    files = {**manifest.files, FILE: sha256}  # in this order: the manifest makes the rest a contender
    sent = 0
    with progress(f"upload {manifest.name} (bytes)", sum((folder / name).stat().st_size for name in files)) as bar:
        moved = Counter(bar.move)
        for name, expected in files.items():
            sent += client.upload(folder / name, client.key("contenders", sha256, name), expected, moved, again)
    logger.info("%s is at %s; %d bytes sent", manifest.name, client.uri("contenders", sha256), sent)
    return sha256, sent


def sweep(client: StoreClient) -> None:
    """Have the store forget uploads in parts whose uploader died long ago."""
    try:
        for key, upload in client.orphans("contenders"):
            client.abort(key, upload)
            logger.info("an upload of %s that was never finished is aborted", key)
    except StoreError as error:  # a right that publishing itself does not need
        logger.warning("uploads that were never finished were not looked for: %s", error)


def _publish(publication: Publication, places: Places, building: Building, cap: "Cap | None") -> PublicationRecord:
    client = open_store(places, publication.config.store)
    client.check()
    folder = building.inprogress / "contender"
    manifest = assemble(publication, places, folder)
    draft = _draft(publication, client, manifest, file_sha256(folder / FILE))
    champion, sent, trip = expect_champion(places.settings, client, draft), 0, None
    if champion is None:
        sweep(client)
        with _distrust(building.inprogress / "distrusted") as again:
            sha256, sent = upload_contender(client, folder, again)
            sign(client, sha256, folder)
            trip = _round_trip(publication, places, client, sha256, building.inprogress / "roundtrip", cap)
        evidence = _upload_evidence(client, publication, building.inprogress)
        about = publication.config, publication.winner, publication.dataset, publication.verdict
        lineage = lineage_of(*about, places.settings, evidence)
        champion = move_champion(places.settings, client, draft.model_copy(update={"lineage": lineage}))
        logger.info("champion %s is now version %d: %s", champion.name, champion.version, champion.uri)
    trip = trip or RoundTrip(rows=publication.dataset.rows["test"])  # proved by the earlier try that moved the pointer
    return PublicationRecord(
        champion=champion.champion(),
        files=len(manifest.files) + 1,
        uploaded_bytes=sent,
        rows_verified=trip.rows,
        largest_logit_difference=trip.largest_logit_difference,
        rows_asked_again=trip.rows_asked_again,
        answers_repeated=trip.answers_repeated,
    )


def _upload_evidence(client: StoreClient, publication: Publication, folder: Path) -> tuple[str, str]:
    """The verdict and the winner's predictions, each under its SHA-256; returns both."""
    verdict = folder / "verdict.json"
    write_durably(verdict, publication.verdict.model_dump_json(indent=2))
    hashes = []
    for file in (verdict, publication.predictions.folder / PREDICTIONS):
        hashes.append(file_sha256(file))
        client.upload(file, client.key("evidence", hashes[-1] + file.suffix), hashes[-1], lambda _: None)
    return hashes[0], hashes[1]


def _round_trip(
    publication: Publication, places: Places, client: StoreClient, sha256: str, empty: Path, cap: "Cap | None"
) -> RoundTrip:
    trip = round_trip(client, sha256, empty, publication.winner, publication.dataset, publication.predictions, places, cap)
    shutil.rmtree(empty)
    logger.info("round trip: %d test rows came out the same", trip.rows)
    return trip


@contextmanager
def _distrust(mark: Path) -> Iterator[bool]:
    """Whether an earlier try got back what it had not sent; then everything is sent again."""
    try:
        yield mark.exists()
    except IntegrityError:
        mark.touch()
        raise


def _draft(publication: Publication, client: StoreClient, manifest: ContenderManifest, sha256: str) -> ChampionVersion:
    verdict, previous = publication.verdict, publication.previous
    return ChampionVersion(
        name=publication.config.name,
        version=previous.version + 1 if previous else 1,
        previous=previous.version if previous else None,
        sha256=sha256,
        uri=client.uri("contenders", sha256),
        contender=manifest.name,
        arm=manifest.arm,
        kind=manifest.kind,
        fingerprint=manifest.fingerprint,
        run_id=verdict.run_id,
        published=datetime.now(UTC),
        publisher=who(),
        decision=verdict.decision,
        reason=verdict.reason,
        dataset=verdict.dataset.fingerprint,
        comparison=verdict.comparison,
        contenders={line.name: line.fingerprint for line in verdict.contenders},
        config=publication.config.model_dump(mode="json"),
        scores=next((line.model_dump(mode="json") for line in verdict.contenders if line.name == publication.winner.name), {}),
        looks=verdict.looks,
    )
