"""A real contender with its real predictions, ready to publish; as a module, a publisher that can be killed:

python -m tests.registry.making MADE WORKSPACE STORE CONTENDER     with BAKEOFF_… settings in the environment
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.places import LivePlaces
from tasks.config import BakeoffConfig, Trivial
from tasks.contenders.trivial import build_trivial
from tasks.evaluation.predictions import predict
from tasks.manifest import ContenderManifest, read_manifest, write_manifest
from tasks.prompting.budget import Cap
from tasks.records import (
    Arm,
    ContenderRecord,
    ContenderVerdict,
    DatasetRecord,
    DatasetSummary,
    Decision,
    Latency,
    Looks,
    PredictionsRecord,
    Scores,
    Verdict,
)
from tasks.registry.champion import ChampionVersion, current_champion, move_champion
from tasks.registry.publish import Publication, publish, upload_contender
from tasks.settings import Places, Settings, load_settings
from tasks.store import StoreClient
from tasks.workspace import Workspace, digest
from tests.tiny_model import SIZES, make_dataset

NAME = "tiny"


def make_publication(
    root: Path,
    places: Places,
    store: str,
    kind: Trivial = Trivial.MAJORITY,
    previous: ChampionVersion | None = None,
) -> Publication:
    """A trivial contender (they need no model), made once under `root`."""
    workspace = Workspace(root / "workspace")
    dataset = tiny_dataset(root)
    winner = build_trivial(kind, dataset, workspace)
    predictions = predict(winner, dataset, places, Cap(0.0), workspace)
    return publication_of(winner, predictions, dataset, store, previous)


def tiny_dataset(root: Path) -> DatasetRecord:
    if (root / "dataset").exists():
        return DatasetRecord.model_validate_json((root / "dataset.json").read_text()).model_copy(
            update={"folder": root / "dataset"}
        )
    dataset = make_dataset(root / "dataset")
    (root / "dataset.json").write_text(dataset.model_dump_json())
    return dataset


def publication_of(
    winner: ContenderRecord,
    predictions: PredictionsRecord,
    dataset: DatasetRecord,
    store: str,
    previous: ChampionVersion | None = None,
) -> Publication:
    config = BakeoffConfig(name=NAME, dataset="tiny.csv", store=store)
    return Publication(config, make_verdict(winner, dataset), winner, predictions, dataset, previous)


def make_verdict(winner: ContenderRecord, dataset: DatasetRecord) -> Verdict:
    """What a gate would say of one contender; its figures are not the registry's matter."""
    latency = Latency(p50=1.0, p95=2.0)
    scores = Scores(
        accuracy=0.9,
        interval=(0.8, 0.95),
        macro_f1=0.9,
        n=SIZES["test"],
        failed=0,
        cost_usd_per_1000=0.01,
        latency_ms=latency,
    )
    line = ContenderVerdict(
        name=winner.name,
        arm=winner.arm,
        fingerprint=winner.fingerprint,
        dev=scores,
        test=scores,
        finalist=True,
        cost_usd_per_1000=0.01,
        latency_ms=latency,
    )
    rows = dataset.rows
    return Verdict(
        run_id="run-1",
        name=NAME,
        decision=Decision.PUBLISH,
        reason="It is better | <b>by far</b>.",
        winner=winner.name,
        contenders=[line, line.model_copy(update={"name": "other", "arm": Arm.PROMPT})],
        comparison=None,
        comparisons=[],
        champion=None,
        looks=Looks(fingerprint=digest("test rows"), contenders=3, chance_of_luck=0.07, worn=False),
        spent_usd=0.0,
        reused=[],
        dataset=DatasetSummary(fingerprint=dataset.fingerprint, train=rows["train"], dev=rows["dev"], test=rows["test"]),
        created=datetime.now(UTC),
    )


def make_folder(folder: Path, name: str, kind: str = "majority", files: dict[str, str] | None = None) -> Path:
    """A contender's folder that takes no time to make: it always answers `negative`, and has files of one's own."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (files or {"note.txt": name}).items():
        (folder / file).write_text(text)
    manifest = ContenderManifest(
        name=name,
        arm=Arm.PROMPT if kind == "prompt" else Arm.TRIVIAL,
        kind=kind,
        labels=["negative", "positive"],
        inputs=["text"],
        fingerprint=digest(name),
        dataset=digest("tiny"),
        occupies="device",
        spec={"label": "negative", "share": 0.5},
    )
    write_manifest(folder, manifest)
    return folder


def make_champion(
    settings: Settings, client: StoreClient, folder: Path, previous: ChampionVersion | None = None, **changes: Any
) -> ChampionVersion:
    """Upload a folder and make it champion after `previous`, as a publication does, without the round trip."""
    manifest = read_manifest(folder)
    sha256, _ = upload_contender(client, folder)
    draft = ChampionVersion(
        name=NAME,
        version=previous.version + 1 if previous else 1,
        previous=previous.version if previous else None,
        sha256=sha256,
        uri=client.uri("contenders", sha256),
        contender=manifest.name,
        arm=manifest.arm,
        kind=manifest.kind,
        fingerprint=manifest.fingerprint,
        run_id="run-1",
        published=datetime.now(UTC),
        publisher="somebody@somewhere",
        decision=Decision.PUBLISH,
        reason="It is better.",
        dataset=manifest.dataset,
        comparison=None,
        contenders={manifest.name: manifest.fingerprint},
        config=BakeoffConfig(name=NAME, dataset="tiny.csv", store="direct").model_dump(mode="json"),
    )
    return move_champion(settings, client, draft.model_copy(update=changes))


def main(made: Path, workspace: Path, store: str, kind: str) -> None:
    """Publish against whatever is champion now, as a run would."""
    with LivePlaces(load_settings()) as places:
        previous = current_champion(places, store, NAME)
        publish(make_publication(made, places, store, Trivial(kind), previous), places, Workspace(workspace))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
