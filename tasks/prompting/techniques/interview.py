"""`flipped`: the model asks the questions. It interviews the task's owner until it could label by itself, or may ask no more; the
exchange becomes the prompt's guidelines.

Labelled train rows, the config's `task.answers`, or a person may answer. A person is asked before the prompt is made
(`interview_person`), since only a flow can pause. What the model asks and what it is told are data: shown, never rendered.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.config import Interview, Prompt, Selection, Task
from tasks.data.examples import input_text, read_examples
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap, count_tokens
from tasks.prompting.messages import PromptSpec, render_instructions, render_text, template_of
from tasks.prompting.techniques.drafting import Drafting, Exchange
from tasks.prompting.techniques.free_text import say
from tasks.prompting.techniques.pool import ExamplePool, make_pool
from tasks.prompting.techniques.wording import TASK
from tasks.records import DatasetRecord, Example, Failure, Finding, Record
from tasks.settings import Places
from tasks.workspace import Building, Stage, Workspace, write_durably

logger = logging.getLogger(__name__)
STAGE = Stage("interview", 1, ("tasks.prompting.techniques.free_text", "tasks.prompting.techniques.interview"))
READY = re.compile(r"\W*ready\b", re.IGNORECASE)
QUESTION_TOKENS = 64
LONGEST_QUESTION = 300
"""In characters; what goes on is no question that a person would read."""
ROWS_A_LABEL = 2
LONGEST_ROW = 200
"""In characters, of a row that is shown as an answer."""
NOTHING = "I have nothing to add; use your judgement."
GUIDELINES_SHARE = 0.25
"""Of the context, at most so much goes to what the interview brought."""

Answerer = Callable[[str], Exchange]
"""Answers one question."""
AskPerson = Callable[[str, float, str], str | None]
"""Has a person answer a question within so many seconds, under a key that names the question within the run; None where nobody
did (`tasks.orchestration.pauses.ask_person`)."""


class InterviewRecord(Record):
    """What a person, and after the deadline whoever stood in, told the model."""

    exchanges: list[Exchange]


def flipped(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The model interviews the task's owner; question and answer become guidelines, beside those that the prompt has.

    Raises:
        BudgetReached, EndpointError: as asking raises them.
    """
    prompt, exchanges = drafting.prompt, drafting.transcript
    if exchanges is None:
        owner = stand_in(prompt, drafting.task, drafting.dataset)
        exchanges = interview(spec, prompt.questions, owner, drafting.ask())
    shown = fitting(exchanges, drafting.endpoint.context_tokens)
    message = f"{prompt.name}: {told_by(exchanges, prompt.interview)}"
    if len(shown) < len(exchanges):
        message += f"; the last {len(exchanges) - len(shown)} did not fit a quarter of the context, and are left out"
    logger.info("%s", message)
    drafting.findings.append(Finding(kind="interview", count=len(exchanges), message=message))
    guidelines = "\n\n".join(filter(None, [spec.guidelines, as_guidelines(shown)]))
    return spec.model_copy(update={"guidelines": guidelines})


def interview_person(
    prompt: Prompt,
    task: Task,
    dataset: DatasetRecord,
    places: Places,
    cap: Cap,
    workspace: Workspace,
    ask_person: AskPerson,
) -> list[Exchange] | None:
    """Have a person interviewed, within `interview_minutes`; then `task.answers` or train rows stand in. What a person said is kept
    in the workspace: nobody is asked twice, also where the run was killed between two questions.

    Returns: the transcript for `build_prompt`; None where no person answered any question, so that the next run asks again.

    Raises:
        BudgetReached, EndpointError: as asking raises them.
    """
    endpoint = places.settings.endpoint(prompt.endpoint)
    subject = _subject(prompt, task, dataset, endpoint.model)
    config = {
        "instructions": subject.instructions,
        "answers": task.answers,
        "questions": prompt.questions,
        "endpoint": prompt.endpoint,
        "model": endpoint.model,
    }

    def build(building: Building) -> InterviewRecord:
        kept = building.inprogress / "exchanges.json"
        before = [Exchange.model_validate(each) for each in json.loads(kept.read_text())] if kept.exists() else []
        person = _Person(prompt, stand_in(prompt, task, dataset), ask_person, kept, before)
        context = AskContext.of(prompt.endpoint, places, cap, workspace)
        exchanges = interview(subject, prompt.questions, person, context, before)
        if not person.answered:
            raise _NobodyAnswered
        return InterviewRecord(exchanges=exchanges)

    try:
        record = workspace.produce(STAGE, [dataset.fingerprint], config, InterviewRecord, build, label=f"interview {prompt.name}")
    except _NobodyAnswered:
        logger.warning("%s: no person answered; it goes on as unattended, and the next run asks again", prompt.name)
        return None
    return record.exchanges


def _subject(prompt: Prompt, task: Task, dataset: DatasetRecord, model: str) -> PromptSpec:
    """The prompt as far as the interview knows it."""
    return PromptSpec(
        endpoint=prompt.endpoint,
        model=model,
        techniques=prompt.techniques,
        labels=dataset.labels,
        inputs=dataset.inputs,
        instructions=render_instructions(prompt.instructions or task.instructions or TASK, dataset.labels, dataset.inputs),
        template="{{ text }}",
        structured=False,
        max_answer_tokens=prompt.max_answer_tokens,
    )


def interview(
    spec: PromptSpec, most: int, answer: Answerer, context: AskContext, before: Sequence[Exchange] = ()
) -> list[Exchange]:
    """Question and answer in turn, until the model is ready, asks nothing new, or has asked `most` questions.

    Args:
        spec: the prompt so far; the model sees its instructions and labels.
        before: the exchange so far, where an interview goes on.
    """
    exchanges = list(before)
    while len(exchanges) < most:
        question = next_question(spec, exchanges, context)
        if not question:
            break
        exchanges.append(answer(question))
    return exchanges


def next_question(spec: PromptSpec, exchanges: Sequence[Exchange], context: AskContext) -> str:
    """What the model wants to know next; empty where it is ready, or says nothing new."""
    told = [each.model_dump(include={"question", "answer"}) for each in exchanges]
    text = render_text(template_of("interview"), instructions=spec.instructions, labels=spec.labels, exchanges=told)
    said = say(text, QUESTION_TOKENS, spec, context)
    question = "" if said.failure in (Failure.REFUSED, Failure.TOO_LONG) else read_question(said.answer)
    asked = {each.question.casefold() for each in exchanges}
    return "" if question.casefold() in asked else question


def read_question(text: str) -> str:
    """The first question in what the model said, on one line; empty where it says that it is ready."""
    line = " ".join(text.split())
    if READY.match(line):
        return ""
    question, mark, _ = line.partition("?")
    return (question + mark)[:LONGEST_QUESTION].strip(' "')


def as_guidelines(exchanges: Sequence[Exchange]) -> str:
    """The exchange as text."""
    return "\n\n".join(f"Question: {each.question}\nAnswer: {each.answer}" for each in exchanges)


def fitting(exchanges: Sequence[Exchange], context_tokens: int) -> list[Exchange]:
    """As much of the exchange, from its beginning, as the context has room for."""
    kept = list(exchanges)
    while kept and count_tokens(as_guidelines(kept)) > GUIDELINES_SHARE * context_tokens:
        kept.pop()
    return kept


def told_by(exchanges: Sequence[Exchange], wanted: Interview) -> str:
    """How many questions were asked, and who answered them, in words."""
    names = {Interview.HUMAN: "a person", Interview.CONFIG: "task.answers", Interview.ROWS: "labelled train rows"}
    by = [f"{names[who]} answered {count}" for who in Interview if (count := sum(each.by is who for each in exchanges))]
    asked = f"the model asked {len(exchanges)} question{'' if len(exchanges) == 1 else 's'}"
    missed = wanted is Interview.HUMAN and not all(each.by is Interview.HUMAN for each in exchanges)
    return "; ".join([asked, *by, *(["a person was to answer all, and did not"] if missed else [])])


def stand_in(prompt: Prompt, task: Task, dataset: DatasetRecord) -> Answerer:
    """Who answers when no person does: as the config says, and for a person `task.answers` where there are any, else train rows."""
    by = prompt.interview
    if by is Interview.HUMAN:
        by = Interview.CONFIG if task.answers else Interview.ROWS
    return _Answers(task.answers) if by is Interview.CONFIG else _Rows(dataset)


@dataclass
class _Answers:
    """The config's answers, each given once, to the question that it fits best."""

    answers: list[str]
    used: set[int] = field(default_factory=set)

    def __call__(self, question: str) -> Exchange:
        rows = [Example(example=str(n), row=n + 1, inputs={"text": text}, label=None) for n, text in enumerate(self.answers)]
        free = [place for place in _by_fit(ExamplePool(rows), question) if place not in self.used]
        self.used.update(free[:1])
        return Exchange(question=question, answer=self.answers[free[0]] if free else NOTHING, by=Interview.CONFIG)


class _Rows:
    """Labelled train rows that share the question's rare words, a couple of each label; none is shown twice."""

    def __init__(self, dataset: DatasetRecord) -> None:
        self.labels = dataset.labels
        self.pool = make_pool([row for row in read_examples(dataset, "train") if row.label is not None])
        self.used: set[int] = set()

    def __call__(self, question: str) -> Exchange:
        free = [place for place in _by_fit(self.pool, question) if place not in self.used]
        of_label = [[place for place in free if self.pool.rows[place].label == label][:ROWS_A_LABEL] for label in self.labels]
        chosen = [place for places in of_label for place in places]
        self.used.update(chosen)
        lines = [self._line(self.pool.rows[place]) for place in chosen]
        return Exchange(question=question, answer="\n".join(["For example:", *lines]) if lines else NOTHING, by=Interview.ROWS)

    def _line(self, row: Example) -> str:
        text = " ".join(input_text(row.inputs).split())
        cut = text if len(text) <= LONGEST_ROW else f"{text[:LONGEST_ROW].rstrip()}…"
        return f'"{cut}" -> {row.label}'


@dataclass
class _Person:
    """A person, until the deadline; then whoever stands in."""

    prompt: Prompt
    instead: Answerer
    ask: AskPerson
    kept: Path
    answered: list[Exchange]
    """What a person said so far; on disk after each answer."""
    gone: bool = False
    _until: float = 0.0

    def __post_init__(self) -> None:
        self.answered = list(self.answered)
        self._until = time.monotonic() + 60 * self.prompt.interview_minutes

    def __call__(self, question: str) -> Exchange:
        left = self._until - time.monotonic()
        said = None if self.gone else self.ask(question, left, f"{self.prompt.name}-{len(self.answered) + 1}")
        if said is None:
            if not self.answered:
                raise _NobodyAnswered
            self.gone = True
            return self.instead(question)
        self.answered.append(Exchange(question=question, answer=said or NOTHING, by=Interview.HUMAN))
        write_durably(self.kept, json.dumps([each.model_dump(mode="json") for each in self.answered], ensure_ascii=False))
        return self.answered[-1]


class _NobodyAnswered(Exception):
    """No person answered any question."""


def _by_fit(pool: ExamplePool, question: str) -> list[int]:
    """Places in a pool, the row that fits the question best first."""
    asked = Example(example="", row=1, inputs={"text": question}, label=None)
    return pool.rank(Selection.BM25, [asked], len(pool.rows))[0]
