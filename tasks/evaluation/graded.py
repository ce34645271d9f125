"""Free-text answers that a grader has gone over: right is what says the same as its reference, and what the grader finds right.

predictions.parquet     as from `tasks/evaluation/predictions.py`, `correct` and `score` by the grader
grades.json             what the grader said of each answer that it was asked about, with its reason
"""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from tasks.data.examples import input_text, read_examples
from tasks.data.predictions import FILE, read_predictions, write_table
from tasks.errors import EndpointError
from tasks.grading.judge import FreeText, Judge, Judged, judge_answers
from tasks.prompting.ask import UNREACHED, Meter
from tasks.records import DatasetRecord, PredictionsRecord, Split
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
STAGE = Stage("graded", 2, ("tasks.evaluation.graded", "tasks.grading.judge", "tasks.grading.referee"))
GRADES = "grades.json"
SCORED: tuple[Split, ...] = ("dev", "test")


def regrade(
    predictions: PredictionsRecord, dataset: DatasetRecord, judge: Judge, right: Collection[str], workspace: Workspace
) -> PredictionsRecord:
    """The same predictions, scored by a grader. It is asked about answers that are whole and are not their reference's text; equal
    ones once. An answer for which it gives no grade is wrong; one for which there was no reply at all is not judged by that.

    Args:
        right: the grades that count as right.

    Raises:
        BadConfig: the grader sees other columns than a question, a reference and an answer, or gives none of these grades.
        BudgetReached, EndpointError: as asking raises them, or the grader was out of reach for some answers; what was paid for is
            kept.
    """

    def build(building: Building) -> PredictionsRecord:
        meter = Meter()
        asking = replace(judge, ask=replace(judge.ask, meter=meter)) if judge.ask else judge
        rows = read_predictions(predictions)
        questions = {each.example: input_text(each.inputs) for split in SCORED for each in read_examples(dataset, split)}
        open_rows = [number for number, row in enumerate(rows) if not row.correct and row.failure is None]
        asked = [FreeText(questions[row.example], row.reference or "", row.answer) for row in (rows[n] for n in open_rows)]
        found = dict(zip(open_rows, judge_answers(asking, asked, right), strict=True))
        _refuse_outage(predictions.contender, list(found.values()))
        ungraded = sum(judged.grade.grade is None for judged in found.values())
        if ungraded:
            logger.warning("%s: the grader gave no grade for %d of %d answers", predictions.contender, ungraded, len(found))
        for number, judged in found.items():
            rows[number] = rows[number].model_copy(update={"correct": judged.right, "score": float(judged.right)})
        write_table(building.folder / FILE, rows)
        said = [{"split": rows[n].split, "example": rows[n].example, **judged.grade.model_dump()} for n, judged in found.items()]
        (building.folder / GRADES).write_text(json.dumps(said, indent=1), encoding="utf-8")
        return predictions.model_copy(
            update={
                "fingerprint": "",
                "reused": False,
                "spent_usd": predictions.spent_usd + meter.usd,
                "requests": predictions.requests + meter.requests,
            }
        )

    made_from, label = [predictions.fingerprint, judge.fingerprint], f"grades {predictions.contender}"
    return workspace.produce(STAGE, made_from, {"right": sorted(right)}, PredictionsRecord, build, label)


def _refuse_outage(contender: str, found: Sequence[Judged]) -> None:
    """An answer whose grader was out of reach is neither right nor wrong, and what is kept would say wrong for ever. A run again
    asks about those alone."""
    unreached = sum(judged.grade.failure in UNREACHED for judged in found)
    if unreached:
        raise EndpointError(
            f"the grader gave no reply to {unreached} of {len(found)} answers of {contender}; its other grades are kept: run again "
            "when its endpoint answers"
        )
