"""The round trip: what S3 returns, loaded in a clean process, must answer as the contender did when it was judged.

Run as a module it is that clean process for prompts: it renders messages from a downloaded folder and returns their hash. Of a
hybrid both parts are proved: the tuned one's logits, and the messages that the prompted one is asked with because of them.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tasks.child import run_child, serve_child
from tasks.contenders.hybrid import PROMPT, TUNED, prompt_part, questions, read_spec, render_hint
from tasks.data.examples import read_example_file, split_path
from tasks.data.predictions import FILE, read_predictions, read_table
from tasks.errors import BudgetReached, IntegrityError
from tasks.manifest import read_manifest
from tasks.records import Answer, ContenderRecord, DatasetRecord, Model, PredictionsRecord
from tasks.registry.champion import fetch_contender
from tasks.settings import Places
from tasks.store import StoreClient

if TYPE_CHECKING:
    import numpy as np

    from tasks.prompting.ask import Question
    from tasks.prompting.budget import Cap
    from tasks.prompting.messages import PromptSpec

logger = logging.getLogger(__name__)

LOGIT_TOLERANCE = 1e-3
"""Contenders predict in float32, so another order of additions (an accelerator's kernels, another number of threads) moves a logit
by about 1e-5. On one CPU the difference is 0 as a rule; wrong weights move logits by tenths and more."""
ASKED_AGAIN = 5
"""Rows of a prompt that are paid for a second time, at most."""


class RoundTrip(Model):
    """What came out the same."""

    rows: int
    largest_logit_difference: float | None = None
    rows_asked_again: int = 0
    answers_repeated: int = 0


class Judged(NamedTuple):
    """How the contender answered the test rows when it was judged."""

    labels: list[str | None]
    logits: "np.ndarray | None"
    """[rows, labels]"""


def round_trip(
    client: StoreClient,
    sha256: str,
    empty: Path,
    contender: ContenderRecord,
    dataset: DatasetRecord,
    predictions: PredictionsRecord,
    places: Places,
    cap: "Cap | None" = None,
) -> RoundTrip:
    """Download a published contender into `empty`, hash it again, load it in a clean process and compare.

    Args:
        contender: as it lies on this machine.
        predictions: its answers when it was judged.
        cap: for prompts and hybrids: what asking a few rows again may cost; None asks none.

    Raises:
        IntegrityError: bytes, messages, labels or logits are not the same.
    """
    shutil.rmtree(empty, ignore_errors=True)
    published = empty / "contender"
    fetch_contender(client, sha256, published)
    if contender.kind == "prompt":
        return _same_messages(published, contender, dataset, predictions, places, cap)
    if contender.kind == "hybrid":
        of_tuned = predictions.model_copy(update={"folder": predictions.folder / TUNED})
        trip = _same_answers(published / TUNED, empty, dataset, of_tuned, places)
        asked = _same_messages(published, contender, dataset, predictions, places, cap, of_tuned.folder / FILE)
        return asked.model_copy(update={"rows": trip.rows, "largest_logit_difference": trip.largest_logit_difference})
    return _same_answers(published, empty, dataset, predictions, places)


def compare(labels: list[str | None], logits: "np.ndarray | None", judged: Judged) -> float | None:
    """The largest difference between two sets of logits [rows, labels] of the same rows.

    A label may differ only where the two best logits lie within the tolerance of each other: rounding decides such a row.

    Raises:
        IntegrityError: another number of rows, another label, or logits further apart than the tolerance.
    """
    import numpy as np

    if len(labels) != len(judged.labels) or (logits is None) != (judged.logits is None):
        raise IntegrityError(f"what S3 returned answers {len(labels)} rows; {len(judged.labels)} were judged")
    differ = [row for row, (new, old) in enumerate(zip(labels, judged.labels, strict=True)) if new != old]
    if logits is None or judged.logits is None:
        _refuse(differ, judged.labels, labels)
        return None
    difference = float(np.abs(logits.astype(judged.logits.dtype) - judged.logits).max(initial=0.0))
    if logits.shape != judged.logits.shape or not difference <= LOGIT_TOLERANCE:  # NaN is refused too
        raise IntegrityError(
            f"what S3 returned gives other logits than were judged: they differ by up to {difference:.4g}, allowed is "
            f"{LOGIT_TOLERANCE}; it was not made champion"
        )
    best = np.sort(judged.logits, axis=1)[:, -2:]
    _refuse([row for row in differ if best[row, -1] - best[row, 0] > LOGIT_TOLERANCE], judged.labels, labels)
    return difference


def _refuse(rows: list[int], judged: list[str | None], labels: list[str | None]) -> None:
    if rows:
        row = rows[0]
        raise IntegrityError(
            f"what S3 returned answers {len(rows)} test rows otherwise than when it was judged, first row {row + 1}: "
            f"{labels[row]!r}, not {judged[row]!r}; it was not made champion"
        )


def _same_answers(
    published: Path, empty: Path, dataset: DatasetRecord, predictions: PredictionsRecord, places: Places
) -> RoundTrip:
    """Predict the test rows in a clean process."""
    out = empty / "answers"
    out.mkdir()
    request = {
        "contender": str(published),
        "splits": {"test": str(split_path(dataset, "test"))},
        "out": str(out),
        "roots": [str(root) for root in places.settings.roots],
    }
    run_child("tasks.contenders.predict", request)
    said = "label" if dataset.labels else "answer"
    labels, logits = _answers(out / "test.parquet", said)
    judged = read_judged(predictions, said)
    difference = compare(labels, logits if judged.logits is not None else None, judged)
    return RoundTrip(rows=len(labels), largest_logit_difference=difference)


def read_judged(predictions: PredictionsRecord, said: str = "label") -> Judged:
    """Labels (for free text: answers) and logits of the test rows in a predictions product."""
    import pyarrow.parquet as pq

    table = pq.read_table(predictions.folder / FILE, columns=["split", said])
    test = [row for row, split in enumerate(table["split"].to_pylist()) if split == "test"]
    labels = table[said].to_pylist()
    file = predictions.folder / "logits.safetensors"
    if not file.exists():
        return Judged([labels[row] for row in test], None)
    from safetensors.numpy import load_file

    return Judged([labels[row] for row in test], load_file(file)["logits"][test])


def _answers(path: Path, said: str) -> "tuple[list[str | None], np.ndarray | None]":
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    logits = table["logits"].to_pylist() if "logits" in table.column_names else []
    whole = bool(logits) and all(row is not None for row in logits)
    return table[said].to_pylist(), np.asarray(logits, dtype="float64") if whole else None


def _same_messages(
    published: Path,
    contender: ContenderRecord,
    dataset: DatasetRecord,
    predictions: PredictionsRecord,
    places: Places,
    cap: "Cap | None",
    first: Path | None = None,
) -> RoundTrip:
    """Render the test rows in a clean process and here; then ask a few again.

    Args:
        first: for hybrids: what the tuned part answered when it was judged. Both sides use that, and not what the clean process
            made of it, since a last digit may turn a hint's per cent.
    """
    request = {"examples": str(split_path(dataset, "test"))} | ({"first": str(first)} if first else {})
    theirs = run_child("tasks.registry.verify", request | {"contender": str(published)}, light=True)
    ours = messages_sha256(request | {"contender": str(contender.folder)})
    if theirs != ours:
        raise IntegrityError(
            f"the prompt that S3 returned renders other messages than {contender.name} does here (SHA-256 {theirs['sha256'][:12]}, "
            f"not {ours['sha256'][:12]}, over {ours['rows']} rows); it was not made champion"
        )
    said: Literal["label", "answer"] = "label" if dataset.labels else "answer"
    judged = [None if row.failure else getattr(row, said) for row in read_predictions(predictions, "test")]
    asked, repeated = _ask_again(request | {"contender": str(published)}, judged, said, places, cap)
    return RoundTrip(rows=ours["rows"], rows_asked_again=asked, answers_repeated=repeated)


def messages_sha256(request: Mapping[str, str]) -> dict[str, Any]:
    """The hash of the requests that a folder makes of every row of a parquet of examples; a hybrid's of those that it asks about.

    Args:
        request: `contender` (folder), `examples` (parquet file), and for hybrids `first` (parquet file of predictions, of whose
            test rows the examples are).

    Returns: `sha256` and `rows`.
    """
    import hashlib

    from tasks.prompting.messages import build_request
    from tasks.workspace import canonical

    spec, asked = _asked(request)
    total = hashlib.sha256()
    for row, question in asked.items():
        body = build_request(spec, question.example.inputs, question.shots, question.hint)
        total.update(f"{row} {canonical(body)}\n".encode())
    return {"sha256": total.hexdigest(), "rows": len(asked)}


def _asked(request: Mapping[str, str]) -> "tuple[PromptSpec, dict[int, Question]]":
    """What a prompt's or a hybrid's folder asks, by the row's place, and with which prompt."""
    from tasks.prompting.ask import questions_of, read_prompt

    folder, examples = Path(request["contender"]), list(read_example_file(Path(request["examples"])))
    if "first" in request:
        first = read_table(Path(request["first"]), "test")
        pair = read_spec(read_manifest(folder))
        return prompt_part(folder, pair), questions(folder, pair, examples, first)
    spec = read_prompt(folder)
    return spec, dict(enumerate(questions_of(folder, spec, examples)))


def example_request(contender: Path) -> dict[str, Any]:
    """The body that a prompt's or a hybrid's folder sends, with the inputs' names in place of their values."""
    from tasks.prompting.ask import read_prompt
    from tasks.prompting.messages import build_request

    manifest, hint = read_manifest(contender), ""
    if manifest.kind == "hybrid":
        pair, contender = read_spec(manifest), contender / PROMPT
        hint = render_hint(pair, "<label>", "<percent>") if pair.hint else ""
    spec = read_prompt(contender)
    return build_request(spec, {name: f"<{name}>" for name in spec.inputs}, hint=hint)


def _ask_again(
    request: Mapping[str, str], judged: Sequence[str | None], said: Literal["label", "answer"], places: Places, cap: "Cap | None"
) -> tuple[int, int]:
    """Ask the endpoint about the first test rows that had an answer of its, without the journal. Returns rows asked, answers
    repeated.

    A remote LLM need not repeat itself, so another answer is counted and not refused; no usable one at all is.

    Args:
        judged: what was said of each test row; None where nothing usable was.
        said: which part of an answer that is: its label, or for free text the whole.
    """
    from tasks.prompting.ask import AskContext, answer_questions

    spec, asked = _asked(request)
    answered = [row for row in asked if judged[row]][:ASKED_AGAIN]
    if cap is None or not answered:
        return 0, 0
    try:
        answers = answer_questions(spec, [asked[row] for row in answered], AskContext.of(spec.endpoint, places, cap, None))
    except BudgetReached as error:
        logger.warning("round trip: no row was asked again: %s", error)
        return 0, 0
    _refuse_silence(answers)
    repeated = sum(getattr(answer, said) == judged[row] for row, answer in zip(answered, answers, strict=True))
    return len(answers), repeated


def _refuse_silence(answers: list[Answer]) -> None:
    failures = [answer.failure for answer in answers if answer.failure]
    if failures and len(failures) == len(answers):
        raise IntegrityError(
            f"none of {len(answers)} test rows got a usable answer with the prompt that S3 returned (first failure: "
            f"{failures[0]}); it was not made champion: check the endpoint and run again"
        )


if __name__ == "__main__":
    serve_child(messages_sha256)
