"""Is what was published what its version says it came from? It is made again from what is recorded, and compared."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from tasks.config import BakeoffConfig, explain
from tasks.data.predictions import FILE as PREDICTIONS
from tasks.errors import BadConfig, IntegrityError
from tasks.evaluation.scores import Evaluation
from tasks.manifest import read_manifest
from tasks.records import ContenderRecord, DatasetRecord, Model, Scores
from tasks.registry.card import CARD
from tasks.registry.champion import ChampionVersion
from tasks.registry.history import changed, flat, manifest_of
from tasks.registry.lineage import Lineage, data_lineage, environment
from tasks.store import StoreClient
from tasks.workspace import file_sha256

MEASURED = {"accuracy", "macro_f1", "n", "failed"}
"""Of the scores: what does not depend on time and prices."""


class Reproduction(Model):
    """What came out when a version was made again. Differences are pairs: as recorded, as made now."""

    version: int
    contender: str
    same: bool
    """Whether rows, labels and metrics are the same. Bytes may differ all the same, between devices."""
    data: dict[str, tuple[Any, Any]]
    files: dict[str, tuple[Any, Any]]
    """SHA-256 by file; without the card, which tells of the other contenders too."""
    rows: int
    """Predictions that were compared: dev and test."""
    other_labels: list[str]
    """Rows whose label is another: split, row hash, then the labels."""
    metrics: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]


def recorded_config(champion: ChampionVersion) -> BakeoffConfig:
    """The config of a version with its contender and that one's parts alone; the whole where it does not stand there by name.

    Raises:
        BadConfig: this version of the project does not know such a config.
    """
    lineage = recorded_lineage(champion)
    try:
        config = BakeoffConfig.model_validate(champion.config)
    except ValidationError as error:
        made_by = lineage.environment.commit or f"bakeoff {lineage.environment.packages.get('bakeoff', '?')}"
        raise BadConfig(f"{explain(error, f'the config of version {champion.version}')}; it was made by {made_by}") from None
    return config.alone([champion.contender])


def recorded_lineage(champion: ChampionVersion) -> Lineage:
    """Raises IntegrityError where a version has none."""
    if champion.lineage is None:
        raise IntegrityError(
            f"version {champion.version} of {champion.name!r} was published without its lineage: nothing to compare"
        )
    return champion.lineage


def compare_made(
    client: StoreClient, champion: ChampionVersion, dataset: DatasetRecord, contender: ContenderRecord, evaluation: Evaluation
) -> Reproduction:
    """What differs between what is recorded and what was made now.

    Raises:
        IntegrityError: the recorded manifest or predictions are not in the store as they were.
    """
    lineage = recorded_lineage(champion)
    with TemporaryDirectory(prefix="bakeoff-") as folder:
        before = manifest_of(client, champion, Path(folder)).files
        recorded = _labels(_evidence(client, lineage.predictions, Path(folder)))
    after = read_manifest(contender.folder).files
    labels = changed(recorded, _labels(evaluation.predictions.folder / PREDICTIONS))
    data = changed(flat(lineage.data), flat(data_lineage(dataset)))
    metrics = {
        f"{split}.{path}": pair
        for split, scores in (("dev", evaluation.scores.dev), ("test", evaluation.scores.test))
        for path, pair in changed(_measured(champion.scores.get(split, {})), _measured(scores)).items()
    }
    return Reproduction(
        version=champion.version,
        contender=champion.contender,
        same=not (data or labels or metrics),
        data=data,
        files={name: pair for name, pair in changed(before, after).items() if name != CARD},
        rows=len(recorded),
        other_labels=[f"{row}: {old!r}, now {new!r}" for row, (old, new) in labels.items()],
        metrics=metrics,
        environment=changed(flat(lineage.environment), flat(environment())),
    )


def _measured(scores: Scores | dict[str, Any]) -> dict[str, Any]:
    plain = scores.model_dump(mode="json") if isinstance(scores, Scores) else scores
    return {name: value for name, value in plain.items() if name in MEASURED}


def _evidence(client: StoreClient, sha256: str, folder: Path) -> Path:
    path = folder / "predictions.parquet"
    client.download(client.key("evidence", f"{sha256}.parquet"), path, lambda _: None)
    if file_sha256(path) != sha256:
        raise IntegrityError(f"{client.uri('evidence', f'{sha256}.parquet')} was corrupted or replaced")
    return path


def _labels(predictions: Path) -> dict[str, str | None]:
    """The label of every row, by split and row hash; free text by the answer itself."""
    import pyarrow.parquet as pq

    columns = pq.read_table(predictions, columns=["split", "example", "label", "answer"]).to_pydict()
    rows = zip(columns["split"], columns["example"], columns["label"], columns["answer"], strict=True)
    free = all(label is None for label in columns["label"])
    return {f"{split} {example}": answer if free else label for split, example, label, answer in rows}
