"""One function over contenders: every contender's answers on dev and test, in one schema.

predictions.parquet     a row a `Prediction`: dev then test, in the splits' order; no row is ever dropped
logits.safetensors      `logits` [rows, the contender's labels], the same order, for contenders that have them
tuned/                  for hybrids: the same two files of its tuned part
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.child import run_child
from tasks.contenders.answers import read_answers
from tasks.contenders.hybrid import TUNED, merge, prompt_part, questions, read_spec, tuned_part
from tasks.contenders.usable import fault_of
from tasks.data.answers import same_text
from tasks.data.examples import read_examples, split_path
from tasks.data.predictions import FILE, read_predictions, write_table
from tasks.errors import IntegrityError
from tasks.manifest import read_manifest
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
from tasks.workspace import Building, Stage, Workspace, link

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext
    from tasks.prompting.budget import Cap

logger = logging.getLogger(__name__)
STAGE = Stage(
    "predictions",
    2,
    (
        "tasks.evaluation.predictions",
        "tasks.data.predictions",
        "tasks.bases",
        "tasks.device",
        "tasks.contenders.answers",
        "tasks.contenders.hybrid",
        "tasks.contenders.loader",
        "tasks.contenders.predict",
        "tasks.contenders.trivial",
        "tasks.contenders.tuned",
        "tasks.contenders.usable",
        "tasks.contenders.writing",
        "tasks.data.answers",
        "tasks.data.completions",
        "tasks.tuning.language.causal",
        "tasks.prompting.ask",
        "tasks.prompting.budget",
        "tasks.prompting.conversation",
        "tasks.prompting.endpoint",
        "tasks.prompting.messages",
        "tasks.prompting.journal",
        "tasks.prompting.parsing",
        "tasks.tuning.batches",
        "tasks.tuning.faster",
        "tasks.tuning.attention",
        "tasks.tuning.cores",
        "tasks.tuning.joined",
        "tasks.tuning.methods",
    ),
)
SCORED: tuple[Split, ...] = ("dev", "test")
LOGITS = "logits.safetensors"
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
    beside: dict[str, float | None] = field(default_factory=dict)
    """As in `PredictionsRecord`."""
    tuned: Path | None = None
    """For hybrids: where the tuned part's predictions lie."""


def predict(
    contender: ContenderRecord, dataset: DatasetRecord, places: Places, cap: "Cap", workspace: Workspace, max_failed: float = 1.0
) -> PredictionsRecord:
    """A contender's predictions on dev and test.

    Prompts are asked from here, within `cap`; the endpoint is looked up (and started, where it is embedded) only when there is
    something to ask. Everything else predicts in a child process. Hybrids do both, and neither twice: the predictions of their
    tuned part are a product by themselves, and what their prompt was asked before is in the journal.

    Args:
        max_failed: stop asking an endpoint once more than this share of the rows failed.

    Raises:
        BudgetReached: the cap would have been passed; what was paid for is kept.
        IntegrityError: the contender did not give one answer a row.
    """
    asked = contender.kind in ("prompt", "hybrid")

    def build(building: Building) -> PredictionsRecord:
        examples = {split: read_examples(dataset, split) for split in SCORED}
        if contender.kind == "hybrid":
            of_tuned = predict(tuned_part(contender), dataset, places, cap, workspace)
            answered = _combine(contender, of_tuned, examples, places, cap, workspace, max_failed)
        elif asked:
            answered = _ask(contender, examples, places, cap, workspace, max_failed)
        else:
            answered = _in_child(contender, dataset, places, building)
        return _write(building.folder, contender, dataset, examples, answered)

    inputs = [contender.fingerprint, dataset.fingerprint]
    config = {"max_failed": max_failed} if asked else {"latency_rows": LATENCY_ROWS}
    config |= {"latency_rows": LATENCY_ROWS} if contender.kind == "hybrid" else {}
    config |= _next_attempt(workspace, inputs, config) if asked else {}
    return workspace.produce(STAGE, inputs, config, PredictionsRecord, build, f"predictions {contender.name}")


def _next_attempt(workspace: Workspace, inputs: list[str], config: dict[str, Any]) -> dict[str, int]:
    """What tells these predictions from earlier ones in which rows had no reply for lack of a working endpoint.

    Those rows are asked again by the next run; all others are in the journal.
    """
    attempt: dict[str, int] = {}
    while found := workspace.find(STAGE, inputs, config | attempt, PredictionsRecord):
        unreached = sum(found.failures.get(kind, 0) for kind in (Failure.ENDPOINT, Failure.DEADLINE))
        if not unreached:
            break
        logger.info("predictions %s: %d rows that had no reply are asked again", found.contender, unreached)
        attempt = {"attempt": attempt.get("attempt", 0) + 1}
    return attempt


def join(
    contender: str, split: str, examples: Sequence[Example], answers: Sequence[Answer], labels: Sequence[str]
) -> list[Prediction]:
    """One prediction an example: its answer beside its reference.

    Args:
        labels: the data set's; empty for free text, where an answer is right when it says the same as its reference.

    Raises:
        IntegrityError: there is not one answer an example.
    """
    if len(examples) != len(answers):
        raise IntegrityError(f"{contender} gave {len(answers)} answers for {len(examples)} {split} rows: one a row is needed")
    return [_join(contender, split, example, answer, labels) for example, answer in zip(examples, answers, strict=True)]


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

    context = _context(contender, places, cap, workspace, max_failed)
    every = [example for split in SCORED for example in examples[split]]
    answers = load_contender(contender.folder, context, places.settings).predict(every)
    return Answered(
        answers=_by_split(answers, examples),
        machine=contender.occupies,
        rows_per_second=concurrent_speed([answer.latency_ms for answer in answers], context.endpoint.concurrency),
        spent_usd=context.meter.usd,
        requests=context.meter.requests,
    )


def _combine(
    hybrid: ContenderRecord,
    of_tuned: PredictionsRecord,
    examples: dict[Split, list[Example]],
    places: Places,
    cap: "Cap",
    workspace: Workspace,
    max_failed: float,
) -> Answered:
    """Ask a hybrid's prompted part about the rows that it is to answer, and put both parts' answers together."""
    from tasks.prompting.ask import answer_questions

    first = read_predictions(of_tuned)
    every = [example for split in SCORED for example in examples[split]]
    spec = read_spec(read_manifest(hybrid.folder))
    asked = questions(hybrid.folder, spec, every, first)
    machine, speed = of_tuned.machine, of_tuned.rows_per_second
    if not asked:
        return Answered(_by_split(merge(first, {}), examples), machine, speed, tuned=of_tuned.folder)
    context = _context(hybrid, places, cap, workspace, max_failed)
    second = answer_questions(prompt_part(hybrid.folder, spec), list(asked.values()), context)
    asked_speed = concurrent_speed([answer.latency_ms for answer in second], context.endpoint.concurrency)
    return Answered(
        answers=_by_split(merge(first, dict(zip(asked, second, strict=True))), examples),
        machine=machine,
        rows_per_second=speed,
        spent_usd=context.meter.usd,
        requests=context.meter.requests,
        beside={hybrid.occupies: len(asked) / len(every) / asked_speed if asked_speed else None},
        tuned=of_tuned.folder,
    )


def _context(contender: ContenderRecord, places: Places, cap: "Cap", workspace: Workspace, max_failed: float) -> "AskContext":
    """With what a contender's endpoint is asked; it listens from here on."""
    from tasks.prompting.ask import AskContext

    return AskContext.of(contender.occupies.removeprefix("endpoint:"), places, cap, workspace, max_failed)


def _by_split(answers: list[Answer], examples: dict[Split, list[Example]]) -> dict[str, list[Answer]]:
    cut = len(examples["dev"])
    return {"dev": answers[:cut], "test": answers[cut:]}


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
    answers: dict[str, list[Answer]] = {split: read_answers(out / f"{split}.parquet") for split in SCORED}
    return Answered(answers, machine=result["device"], rows_per_second=result["rows_per_second"])


def _write(
    folder: Path, contender: ContenderRecord, dataset: DatasetRecord, examples: dict[Split, list[Example]], answered: Answered
) -> PredictionsRecord:
    rows = [
        row for split in SCORED for row in join(contender.name, split, examples[split], answered.answers[split], dataset.labels)
    ]
    write_table(folder / FILE, rows)
    _write_logits(folder, [answer.logits for split in SCORED for answer in answered.answers[split]])
    for file in (answered.tuned / name for name in (FILE, LOGITS) if answered.tuned):
        if file.exists():
            link(file, folder / TUNED / file.name)
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
        beside=answered.beside,
    )


def _write_logits(folder: Path, logits: Sequence[list[float] | None]) -> None:
    known = [row for row in logits if row is not None]
    if not known or len(known) < len(logits):
        return
    import numpy
    from safetensors.numpy import save_file

    save_file({"logits": numpy.asarray(known, dtype=numpy.float32)}, folder / LOGITS)


def _join(contender: str, split: str, example: Example, answer: Answer, labels: Sequence[str]) -> Prediction:
    failure = fault_of(answer, labels)
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
        draft=answer.draft,
    )


def _same(answer: Answer, reference: str, labels: Sequence[str]) -> bool:
    return answer.label == reference if labels else same_text(answer.answer, reference)
