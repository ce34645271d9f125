"""A judge: a contender that grades free-text answers. Any contender can be one; as a rule it is a prompt that reasons first."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from tasks.config import BakeoffConfig, Interview, Prompt, Technique
from tasks.errors import BadConfig
from tasks.grading.records import Grade
from tasks.grading.rowless import without_rows
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.prompting.ask import AskContext, answer_questions, questions_of
from tasks.prompting.endpoint import preflight
from tasks.prompting.messages import PromptSpec
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import Answer, ContenderRecord, Example, Failure, Model
from tasks.settings import Places, Settings
from tasks.workspace import Workspace, digest, file_sha256

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


class FreeText(NamedTuple):
    """An answer to be judged."""

    question: str
    reference: str
    """The right answer, as a person put it."""
    answer: str


class Judged(Model):
    """What a judge makes of one free-text answer."""

    grade: Grade
    right: bool
    """Whether the grade is among those that count as right; never without a grade."""


@dataclass(frozen=True)
class Judge:
    """A contender that grades."""

    contender: ContenderRecord
    ask: AskContext | None
    """With what it asks; None for one that asks nobody."""
    settings: Settings
    workspace: Workspace

    @cached_property
    def manifest(self) -> ContenderManifest:
        """What its folder says of it."""
        return read_manifest(self.contender.folder)

    @cached_property
    def spec(self) -> PromptSpec | None:
        """Its prompt; None for other kinds."""
        return PromptSpec.model_validate(self.manifest.spec) if self.manifest.kind == "prompt" else None

    @cached_property
    def fingerprint(self) -> str:
        """Names the judge: its folder's content, and where it asks. Another model, wording or server is another judge."""
        asked = self.ask.endpoint if self.ask else None
        where = [asked.service or asked.base_url, asked.model] if asked else []
        return digest({"contender": file_sha256(self.contender.folder / FILE), "asks": where})


def pick_prompt(config: BakeoffConfig, name: str, settings: Settings) -> Prompt:
    """The prompt of this name, or the first; checked as far as that costs nothing.

    Raises:
        BadConfig: there is none, its endpoint cannot be used, or it needs train rows, which grading has not.
    """
    found = [prompt for prompt in config.prompts if name in ("", prompt.name)]
    if not found:
        known = ", ".join(prompt.name for prompt in config.prompts) or "none"
        raise BadConfig(f"there is no prompt {name!r} to grade with; the config has {known}")
    prompt = found[0]
    wants = _wants_train_rows(prompt, config)
    if wants:
        without = [each.name for each in config.prompts if not _wants_train_rows(each, config)]
        others = f"name another with --prompt ({', '.join(without)})" if without else "add a prompt without it"
        raise BadConfig(
            f"prompt {prompt.name!r} is made with {wants}, which needs train rows, and grading has none: {others}, or let a "
            "bake-off make it and grade with its champion (--champion)"
        )
    preflight(prompt.endpoint, settings.endpoint(prompt.endpoint))
    return prompt


def _wants_train_rows(prompt: Prompt, config: BakeoffConfig) -> str:
    """The first technique of a prompt that cannot do without train rows; empty if all can."""
    for technique in prompt.techniques:
        told = prompt.interview is Interview.CONFIG and bool(config.task.answers)
        if technique in (Technique.FEW_SHOT, Technique.OPTIMIZED) or (technique is Technique.FLIPPED and not told):
            return technique.value
    return ""


def build_judge(
    prompt: Prompt, config: BakeoffConfig, grades: Sequence[str], places: Places, cap: "Cap", workspace: Workspace
) -> ContenderRecord:
    """The contender that grades by this prompt, made without any row. Raises as `build_prompt` does."""
    return build_prompt(prompt, config.task, without_rows(config.dataset.inputs, grades, workspace), places, cap, workspace)


def grade_rows(judge: Judge, rows: Sequence[Example], spec: PromptSpec | None = None) -> list[Grade]:
    """One grade a row, in order; rows that say the same are asked about once. What was answered before is not asked again.

    Args:
        spec: another wording of the judge's prompt; its own if None.

    Raises:
        BudgetReached, EndpointError: as asking raises them; what was paid for is kept.
    """
    distinct = {row.example: row for row in rows}
    answers = _answer(judge, list(distinct.values()), spec)
    grades = {name: _read(answer, judge.manifest.labels) for name, answer in zip(distinct, answers, strict=True)}
    return [grades[row.example] for row in rows]


def check_fits(judge: Judge, right: Collection[str]) -> None:
    """Raises BadConfig where a judge does not see three columns (question, reference, answer), or does not give the grades in
    `right`."""
    columns = judge.manifest.inputs
    unknown = [grade for grade in right if grade not in judge.manifest.labels]
    if unknown or not right:
        known = ", ".join(judge.manifest.labels)
        wrong = f"not {', '.join(unknown)}" if unknown else "none is named as right"
        raise BadConfig(f"judge {judge.manifest.name!r} gives {known}, and {wrong}: name those of its grades that are right")
    if len(columns) != 3:
        raise BadConfig(
            f"judge {judge.manifest.name!r} sees {', '.join(columns)}: answers are judged by a question, a reference and an "
            "answer, so its config has three columns under dataset.inputs, in this order"
        )


def judge_answers(judge: Judge, answers: Sequence[FreeText], right: Collection[str]) -> list[Judged]:
    """What the judge makes of any contender's free-text answers, in order.

    Args:
        right: the grades that count as right.

    Raises:
        BadConfig: the judge does not see three columns (question, reference, answer), or does not give the grades in `right`.
        BudgetReached, EndpointError: as `grade_rows`.
    """
    check_fits(judge, right)
    columns = judge.manifest.inputs
    inputs = [dict(zip(columns, answer, strict=True)) for answer in answers]
    rows = [Example(example=digest(each), row=number, inputs=each, label=None) for number, each in enumerate(inputs, 1)]
    return [Judged(grade=grade, right=grade.grade in right) for grade in grade_rows(judge, rows)]


def unseen(judge: Judge, rows: Sequence[Example]) -> list[Example]:
    """The rows that the judge's prompt does not show as examples, with their grade: on the others agreement would prove nothing."""
    if judge.spec is None or not (judge.spec.shots or judge.spec.pool):
        return list(rows)
    questions = questions_of(judge.contender.folder, judge.spec, rows)
    shown = [judge.spec.shots if question.shots is None else question.shots for question in questions]
    return [row for row, shots in zip(rows, shown, strict=True) if all(shot.inputs != row.inputs for shot in shots)]


def _answer(judge: Judge, rows: Sequence[Example], spec: PromptSpec | None) -> list[Answer]:
    if spec is None:
        from tasks.contenders.loader import load_contender

        return load_contender(judge.contender.folder, judge.ask, judge.settings).predict(rows)
    assert judge.ask, "only prompts have wordings, and prompts ask"
    return answer_questions(spec, questions_of(judge.contender.folder, spec, rows), judge.ask)


def _read(answer: Answer, grades: Collection[str]) -> Grade:
    """A grade, or why there is none. It fails closed: what is not one of the grades, or comes with a probability that is none, is
    no grade."""
    sure = answer.probability
    odd = answer.label not in grades or (sure is not None and not (math.isfinite(sure) and 0 <= sure <= 1))
    failure = answer.failure or (Failure.INVALID if odd else None)
    if failure:
        return Grade(grade=None, reason=answer.reason, failure=failure)
    return Grade(grade=answer.label, confidence=None if sure is None else round(sure, 4), reason=answer.reason)
