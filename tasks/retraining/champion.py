"""What the champion learned from, what it said then, and what it says now."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig
from tasks.data.load import find_loaded
from tasks.errors import IntegrityError
from tasks.manifest import ContenderManifest, read_manifest
from tasks.predicting.predict import Seat, answers_of, predict_rows
from tasks.records import Answer, ContenderRecord, DatasetRecord, Record
from tasks.registry.champion import ChampionVersion, fetch_champion
from tasks.retraining.rows import RowsRecord
from tasks.retraining.statistics import count
from tasks.settings import Places
from tasks.store import open_store
from tasks.workspace import Building, Stage, Workspace, file_sha256

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext

STAGE = Stage("said", 1, ("tasks.retraining.champion",))
NO_ANSWER = "(no answer)"


class SaidRecord(Record):
    """What the champion said about dev and test rows when it was chosen."""

    labels: dict[str, int]
    """Rows by label."""


@dataclass(frozen=True)
class Reigning:
    """The champion, fetched and loaded only when something asks for it."""

    champion: ChampionVersion
    config: BakeoffConfig | None
    """That it was chosen by; None where this release does not know it."""
    store: str
    max_characters: int
    """Of a row, as the config has it now."""
    places: Places
    workspace: Workspace
    asking: "Callable[[ContenderRecord], AskContext | None]"
    """Gives what a prompt asks with."""

    @cached_property
    def seat(self) -> Seat:
        """Predicts with it."""
        contender = fetch_champion(self.places, self.store, self.champion, self.workspace)
        return Seat(contender, self.asking, self.places.settings, self.workspace)

    @property
    def manifest(self) -> ContenderManifest:
        """What its folder says of it."""
        return read_manifest(self.seat.contender.folder, check_files=False)

    def learned_from(self) -> DatasetRecord | None:
        """The rows that it learned from; None where they are not in this workspace, or its record does not name them."""
        lineage = self.champion.lineage
        if not lineage or not self.config:
            return None
        return find_loaded(self.config.dataset, lineage.data.revision, self.workspace)

    def said(self) -> SaidRecord | None:
        """What it said when it was chosen; None where its record does not name that."""
        lineage = self.champion.lineage
        if not lineage:
            return None
        sha256 = lineage.predictions

        def build(building: Building) -> SaidRecord:
            import pyarrow.parquet

            client, file = open_store(self.places, self.store), building.inprogress / "predictions.parquet"
            client.download(client.key("evidence", f"{sha256}.parquet"), file, lambda _: None)
            if file_sha256(file) != sha256:
                raise IntegrityError(f"{client.uri('evidence', f'{sha256}.parquet')} was corrupted or replaced")
            return SaidRecord(labels=count(pyarrow.parquet.read_table(file, columns=["label"])["label"].to_pylist(), NO_ANSWER))

        return self.workspace.produce(STAGE, [sha256], {}, SaidRecord, build, "said before")

    def says(self, rows: RowsRecord) -> list[Answer]:
        """Its answers to rows, found or made.

        Raises:
            BudgetReached, EndpointError: what was answered is kept; run again to go on.
        """
        return list(answers_of(predict_rows(self.seat, rows.file(), self.max_characters)))
