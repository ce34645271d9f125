"""The load stage: from a source to validated train, dev and test splits (`tasks/data/build.py`), or the product that is there."""

from typing import Any

from tasks.config import Dataset
from tasks.data.sources import find_source
from tasks.records import DatasetRecord
from tasks.settings import Settings
from tasks.workspace import Building, Stage, Workspace

LOAD = Stage(
    "load",
    1,
    (
        "tasks.data.sources",
        "tasks.data.text_files",
        "tasks.data.mapped",
        "tasks.data.reading",
        "tasks.data.duplicates",
        "tasks.data.rows",
        "tasks.data.validate",
        "tasks.data.split",
        "tasks.data.separate",
        "tasks.data.examples",
        "tasks.data.build",
        "tasks.data.load",
    ),
)


def load(dataset: Dataset, settings: Settings, workspace: Workspace) -> DatasetRecord:
    """The validated splits of a data set, reused when the source's bytes and the config's part are the same.

    Raises:
        BadData: rows, columns, labels or splits are wrong; all that was found, with counts and row numbers.
        BadConfig, OutsideRoots, MissingPart: the source cannot be had.
    """
    source = find_source(dataset, settings)

    def made(building: Building) -> DatasetRecord:
        from tasks.data.build import build

        return build(dataset, source, building)

    return workspace.produce(LOAD, [source.revision], _asked(dataset), DatasetRecord, made)


def find_loaded(dataset: Dataset, revision: str, workspace: Workspace) -> DatasetRecord | None:
    """The splits of a revision of the source where they are in the workspace; else None."""
    return workspace.find(LOAD, [revision], _asked(dataset), DatasetRecord)


def _asked(dataset: Dataset) -> dict[str, Any]:
    """All but the revision, of which the source's own says more."""
    return dataset.model_dump(mode="json", exclude={"revision"})
