"""A data set of labels and columns alone, for prompts that are made without any row."""

from collections.abc import Sequence

from tasks.records import SPLITS, DatasetRecord
from tasks.workspace import Building, Stage, Workspace

STAGE = Stage("rowless", 1, ("tasks.grading.rowless",))


def without_rows(inputs: Sequence[str], labels: Sequence[str], workspace: Workspace) -> DatasetRecord:
    """Three empty splits; what is calibrated on dev elsewhere stays as it is."""

    def build(building: Building) -> DatasetRecord:
        import pyarrow
        import pyarrow.parquet

        empty = pyarrow.table({"example": [], "row": [], "inputs": [], "label": []})
        for split in SPLITS:
            pyarrow.parquet.write_table(empty, building.folder / f"{split}.parquet")
        return DatasetRecord(
            source="",
            revision="",
            inputs=list(inputs),
            labels=list(labels),
            rows=dict.fromkeys(SPLITS, 0),
            label_rows={split: dict.fromkeys(labels, 0) for split in SPLITS},
        )

    config = {"inputs": list(inputs), "labels": list(labels)}
    return workspace.produce(STAGE, [], config, DatasetRecord, build, "columns and grades")
