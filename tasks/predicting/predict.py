"""The stages of a prediction run, as plain functions.

    inprogress/predicted/<fingerprint>/chunks/000001.parquet   answers, a chunk of rows at a time, while a file is predicted
    products/predicted/<fingerprint>/chunks/…                  the same when it is whole

A run that was killed goes on after the last whole chunk; within a chunk what was paid for is in the journal.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.child import GENTLE
from tasks.config import BakeoffConfig
from tasks.contenders.answers import read_answers, write_answers
from tasks.contenders.loader import Predictor, load_contender
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.predicting.files import inputs_of, write_predicted
from tasks.predicting.records import PredictedFile, PredictedRecord, PredictFile, PredictionReport
from tasks.predicting.rows import answer_rows
from tasks.progress import progress
from tasks.records import Answer, Champion, ContenderRecord, Failure
from tasks.settings import Settings
from tasks.workspace import Building, Stage, Workspace, file_sha256, link, write_durably

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext

logger = logging.getLogger(__name__)
T = TypeVar("T")
PREDICTED = Stage(
    "predicted",
    4,
    (
        "tasks.contenders.answers",
        "tasks.contenders.tuned",
        "tasks.contenders.usable",
        "tasks.data.tables",
        "tasks.predicting.files",
        "tasks.predicting.predict",
        "tasks.predicting.rows",
        "tasks.tuning.batches",
        "tasks.tuning.faster",
        "tasks.tuning.attention",
        "tasks.tuning.cores",
        "tasks.tuning.joined",
    ),
)
CHUNKS, REPORT = "chunks", "prediction.json"
ROWS_A_CHUNK = 4_096
ROWS_A_BATCH = 50_000
"""Rows a chunk where an endpoint is asked in batches; as many as OpenAI takes in one."""
UNANSWERED = (Failure.ENDPOINT, Failure.DEADLINE, Failure.STOPPED, Failure.BUDGET)
"""Failures that say nothing of the row: the next run asks again."""


@dataclass(frozen=True)
class Seat:
    """A contender that predicts; loaded when the first row needs it, so a run that finds everything loads nothing."""

    contender: ContenderRecord
    asking: "Callable[[ContenderRecord], AskContext | None]"
    """Gives what it asks with, its endpoint listening; None for one that asks nobody."""
    settings: Settings
    workspace: Workspace
    rows_a_chunk: int = ROWS_A_CHUNK
    quick: bool = False
    """Whether a classifier may round where its labels stay the same."""

    @cached_property
    def manifest(self) -> ContenderManifest:
        """What its folder says of it."""
        return read_manifest(self.contender.folder)

    @cached_property
    def predictor(self) -> Predictor:
        """Loaded once for all files of a run."""
        for name, value in GENTLE.items():
            os.environ.setdefault(name, value)
        return load_contender(self.contender.folder, self.asking(self.contender), self.settings, self.quick)

    @property
    def chunk(self) -> int:
        """Rows a chunk."""
        name = self.contender.occupies.removeprefix("endpoint:")
        in_batches = name != self.contender.occupies and self.settings.endpoint(name).batch
        return ROWS_A_BATCH if in_batches else self.rows_a_chunk


def predict_file(seat: Seat, file: PredictFile, max_characters: int, prefix: str = "") -> PredictedFile:
    """Predict a file's rows, or find that they are predicted, and write them with their answers.

    Raises:
        BudgetReached, EndpointError: what was answered is kept; run again to go on.
        BadData: the file changed meanwhile.
    """
    predicted = predict_rows(seat, file, max_characters)
    write_predicted(file, answers_of(predicted), prefix)
    if predicted.failures:
        logger.warning("%s: %d of %d rows have no usable answer (%s)", file.path.name, *_failed(predicted))
    return PredictedFile(
        input=str(file.path),
        output=str(file.to),
        rows=predicted.rows,
        labels=predicted.labels,
        failures=predicted.failures,
        cost_usd=predicted.cost_usd,
        reused=predicted.reused,
    )


def report_of(
    config: BakeoffConfig, champion: Champion, files: Sequence[PredictedFile], run_id: str, spent_usd: float
) -> PredictionReport:
    """The result of a run."""
    return PredictionReport(
        run_id=run_id,
        name=config.name,
        champion=champion,
        files=list(files),
        rows=sum(file.rows for file in files),
        labels=_sum(file.labels for file in files),
        failures=_sum(file.failures for file in files),
        spent_usd=spent_usd,
        created=datetime.now(UTC),
    )


def keep_report(report: PredictionReport, workspace: Workspace) -> None:
    """Keep a run's result under its id."""
    folder = workspace.root / "runs" / report.run_id
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / REPORT, report.model_dump_json(indent=2))


def predict_rows(seat: Seat, file: PredictFile, max_characters: int) -> PredictedRecord:
    """The answers to a file's rows, found or made. Rows that had no reply for lack of a working endpoint are asked again by the
    next run."""
    inputs = [file_sha256(seat.contender.folder / FILE), file.sha256]
    config: dict[str, Any] = {"max_characters": max_characters, "rows_a_chunk": seat.chunk}
    config |= {"quick": True} if seat.quick else {}
    space, earlier = seat.workspace, None
    while (found := space.find(PREDICTED, inputs, config, PredictedRecord)) and _unanswered(found.failures):
        earlier = found.folder / CHUNKS
        config = config | {"attempt": config.get("attempt", 0) + 1}

    def build(building: Building) -> PredictedRecord:
        chunks = building.inprogress / CHUNKS
        chunks.mkdir(exist_ok=True)
        if earlier:
            _take_over(earlier, chunks)
        answer_chunks(seat, file, max_characters, chunks)
        for chunk in _files(chunks):
            link(chunk, building.folder / CHUNKS / chunk.name)
        return _record(chunks)

    return space.produce(PREDICTED, inputs, config, PredictedRecord, build, f"predicted {file.path.name}")


def answer_chunks(seat: Seat, file: PredictFile, max_characters: int, folder: Path) -> None:
    """Answer a file's rows into `folder`, a chunk at a time; chunks that are there stay as they are."""
    manifest = seat.manifest
    rows = inputs_of(file, manifest.inputs, max_characters)
    with progress(f"predict {file.path.name}", file.rows) as bar:
        for number, chunk in enumerate(_chunks(rows, seat.chunk)):
            path = folder / f"{number:06d}.parquet"
            if not path.exists():
                first = number * seat.chunk + 1
                write_answers(path, answer_rows(seat.predictor, chunk, manifest.labels, first))
            bar.advance(len(chunk))


def _take_over(earlier: Path, chunks: Path) -> None:
    """Chunks of an earlier try in which every row was answered, or never could be."""
    for chunk in _files(earlier):
        if not (chunks / chunk.name).exists() and not _unanswered(Counter(_kinds(read_answers(chunk)))):
            link(chunk, chunks / chunk.name)


def _record(chunks: Path) -> PredictedRecord:
    rows, usd = 0, 0.0
    labels: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for chunk in _files(chunks):
        answers = read_answers(chunk)
        rows += len(answers)
        usd += sum(answer.cost_usd for answer in answers)
        labels.update(answer.label for answer in answers if answer.label is not None)
        failures.update(_kinds(answers))
    return PredictedRecord(rows=rows, labels=dict(sorted(labels.items())), failures=dict(sorted(failures.items())), cost_usd=usd)


def answers_of(predicted: PredictedRecord) -> Iterator[Answer]:
    """The answers to a file's rows, in order."""
    return (answer for chunk in _files(predicted.folder / CHUNKS) for answer in read_answers(chunk))


def _files(chunks: Path) -> list[Path]:
    return sorted(chunks.glob("[0-9]*.parquet"))


def _chunks(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _kinds(answers: Iterable[Answer]) -> Iterator[str]:
    return (answer.failure.value for answer in answers if answer.failure)


def _unanswered(failures: dict[str, int]) -> int:
    return sum(failures.get(kind.value, 0) for kind in UNANSWERED)


def _failed(predicted: PredictedRecord) -> tuple[int, int, dict[str, int]]:
    return sum(predicted.failures.values()), predicted.rows, predicted.failures


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
