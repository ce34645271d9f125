"""One function over contenders: every contender's answers on dev and test, in one schema.

predictions.parquet     a row a `Prediction`: dev then test, in the splits' order; no row is ever dropped
logits.safetensors      `logits` [rows, the contender's labels], the same order, for contenders that have them
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.child import run_child
from tasks.data.examples import read_examples, split_path
from tasks.errors import IntegrityError
from tasks.records import (
    Answer,
    ContenderRecord,
    DatasetRecord,
    Example,
    Failure,
    Prediction,
    PredictionsRecord,
    Split,
)
from tasks.settings import Places
from tasks.workspace import Building, Stage, Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap

logger = logging.getLogger(__name__)
STAGE = Stage(
    "predictions",
    1,
    (
        "tasks.evaluation.predictions",
        "tasks.bases",
        "tasks.device",
        "tasks.contenders.loader",
        "tasks.contenders.predict",
        "tasks.contenders.trivial",
        "tasks.contenders.tuned",
        "tasks.prompting.ask",
        "tasks.prompting.budget",
        "tasks.prompting.endpoint",
        "tasks.prompting.messages",
        "tasks.prompting.journal",
        "tasks.prompting.parsing",
        "tasks.tuning.batches",
        "tasks.tuning.methods",
    ),
)
SCORED: tuple[Split, ...] = ("dev", "test")
LATENCY_ROWS = 50
"""Test rows that a contender on a device predicts singly, to be timed."""


@dataclass(frozen=True)
class Answered:
    """A contender's answers by split, in the splits' order, and how they were come by."""

    answers: dict[str, list[Answer]]
    machine: str
    rows_per_second: float
    spent_usd: float = 0.0
    requests: int = 0


def predict(
    contender: ContenderRecord, dataset: DatasetRecord, places: Places, cap: "Cap", workspace: Workspace, max_failed: float = 1.0
) -> PredictionsRecord:
    """A contender's predictions on dev and test.

    Prompts are asked from here, within `cap`; the endpoint is looked up (and started, where it is embedded) only when there is
    something to ask. Everything else predicts in a child process.

    Args:
        max_failed: stop asking an endpoint once more than this share of the rows failed.

    Raises:
        BudgetReached: the cap would have been passed; what was paid for is kept.
        IntegrityError: the contender did not give one answer a row.
    """
    asked = contender.kind == "prompt"

    def build(building: Building) -> PredictionsRecord:
        examples = {split: read_examples(dataset, split) for split in SCORED}
        if asked:
            answered = _ask(contender, examples, places, cap, workspace, max_failed)
        else:
            answered = _in_child(contender, dataset, places, building)
        return _write(building.folder, contender, dataset, examples, answered)

    inputs = [contender.fingerprint, dataset.fingerprint]
    config = {"max_failed": max_failed} if asked else {"latency_rows": LATENCY_ROWS}
    return workspace.produce(STAGE, inputs, config, PredictionsRecord, build, f"predictions {contender.name}")


def join(
    contender: str, split: str, examples: Sequence[Example], answers: Sequence[Answer], labels: Sequence[str]
) -> list[Prediction]:
    """One prediction an example: its answer beside its reference.

    Args:
        labels: the data set's; empty for free text, where an answer is right when it equals its reference.

    Raises:
        IntegrityError: there is not one answer an example.
    """
    if len(examples) != len(answers):
        raise IntegrityError(f"{contender} gave {len(answers)} answers for {len(examples)} {split} rows: one a row is needed")
    return [_join(contender, split, example, answer, labels) for example, answer in zip(examples, answers, strict=True)]


def read_predictions(record: PredictionsRecord, split: str | None = None) -> list[Prediction]:
    """The rows of a predictions product, of one split or of both, in order."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(record.folder / "predictions.parquet").to_pylist()
    return [Prediction.model_validate(row) for row in rows if split in (None, row["split"])]


def _ask(
    contender: ContenderRecord,
    examples: dict[Split, list[Example]],
    places: Places,
    cap: "Cap",
    workspace: Workspace,
    max_failed: float,
) -> Answered:
    """Ask an endpoint for both splits in one go."""
    from tasks.contenders.loader import load_contender
    from tasks.prompting.ask import AskContext, journal_path

    name = contender.occupies.removeprefix("endpoint:")
    endpoint = places.endpoint(name)
    context = AskContext(endpoint, cap, journal_path(workspace.root, name), max_failed)
    every = [example for split in SCORED for example in examples[split]]
    answers = load_contender(contender.folder, context, places.settings).predict(every)
    cut = len(examples["dev"])
    return Answered(
        answers={"dev": answers[:cut], "test": answers[cut:]},
        machine=contender.occupies,
        rows_per_second=concurrent_speed([answer.latency_ms for answer in answers], endpoint.concurrency),
        spent_usd=context.meter.usd,
        requests=context.meter.requests,
    )


def concurrent_speed(latencies: Sequence[float | None], concurrency: int) -> float:
    """Rows per second of an endpoint that answers `concurrency` rows at once (Little's law); 0 where nothing was timed.

    By latency and not by the clock, since answers from the journal take no time.
    """
    timed = [latency for latency in latencies if latency]
    return 1000 * min(concurrency, len(timed)) * len(timed) / sum(timed) if timed else 0.0


def _in_child(contender: ContenderRecord, dataset: DatasetRecord, places: Places, building: Building) -> Answered:
    out = building.inprogress / "answers"
    request = {
        "contender": str(contender.folder),
        "splits": {split: str(split_path(dataset, split)) for split in SCORED},
        "out": str(out),
        "latency_rows": LATENCY_ROWS,
        "roots": [str(root) for root in places.settings.roots],
    }
    result = run_child("tasks.contenders.predict", request)
    answers: dict[str, list[Answer]] = {split: _read_answers(out / f"{split}.parquet") for split in SCORED}
    return Answered(answers, machine=result["device"], rows_per_second=result["rows_per_second"])


def _read_answers(path: Path) -> list[Answer]:
    import pyarrow.parquet as parquet

    return [Answer.model_validate(row) for row in parquet.read_table(path).to_pylist()]


def _write(
    folder: Path, contender: ContenderRecord, dataset: DatasetRecord, examples: dict[Split, list[Example]], answered: Answered
) -> PredictionsRecord:
    rows = [
        row for split in SCORED for row in join(contender.name, split, examples[split], answered.answers[split], dataset.labels)
    ]
    write_table(folder / "predictions.parquet", rows)
    _write_logits(folder, [answer.logits for split in SCORED for answer in answered.answers[split]])
    failures = Counter(row.failure.value for row in rows if row.failure)
    if failures:
        logger.warning("%s: %d of %d rows have no usable answer (%s)", contender.name, failures.total(), len(rows), dict(failures))
    return PredictionsRecord(
        contender=contender.name,
        arm=contender.arm,
        rows={split: len(examples[split]) for split in SCORED},
        failures=dict(failures),
        spent_usd=answered.spent_usd,
        requests=answered.requests,
        rows_per_second=answered.rows_per_second,
        machine=answered.machine,
    )


def write_table(path: Path, rows: Sequence[Prediction]) -> None:
    """Write predictions as parquet, with the same columns and types whatever the rows hold."""
    import pyarrow
    import pyarrow.parquet as parquet

    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    types = dict.fromkeys(Prediction.model_fields, text)
    types |= dict.fromkeys(("score", "probability", "latency_ms", "cost_usd"), number)
    types |= {"input_tokens": whole, "output_tokens": whole, "correct": pyarrow.bool_()}
    schema = pyarrow.schema(list(types.items()))
    parquet.write_table(pyarrow.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=schema), path)


def _write_logits(folder: Path, logits: Sequence[list[float] | None]) -> None:
    known = [row for row in logits if row is not None]
    if not known or len(known) < len(logits):
        return
    import numpy
    from safetensors.numpy import save_file

    save_file({"logits": numpy.asarray(known, dtype=numpy.float32)}, folder / "logits.safetensors")


def _join(contender: str, split: str, example: Example, answer: Answer, labels: Sequence[str]) -> Prediction:
    failure = answer.failure or _unusable(answer, labels)
    label = None if failure or not labels else answer.label
    correct = failure is None and example.label is not None and _same(answer, example.label, labels)
    return Prediction(
        contender=contender,
        split=split,
        example=example.example,
        answer=answer.answer,
        label=label,
        reference=example.label,
        score=float(correct),
        correct=correct,
        probability=None if failure else answer.probability,
        latency_ms=answer.latency_ms,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        cost_usd=answer.cost_usd,
        failure=failure,
    )


def _same(answer: Answer, reference: str, labels: Sequence[str]) -> bool:
    return answer.label == reference if labels else answer.answer.strip() == reference.strip()


def _unusable(answer: Answer, labels: Sequence[str]) -> Failure | None:
    """Logits that are not numbers name no label, whatever their largest is; and a class is either known or no answer."""
    numbers = [*(answer.logits or []), *([] if answer.probability is None else [answer.probability])]
    if not all(map(math.isfinite, numbers)):
        return Failure.INVALID
    return Failure.INVALID if labels and answer.label not in labels else None
