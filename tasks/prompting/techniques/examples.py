"""`few_shot`: labelled train rows shown as examples, the same with every row or chosen for each (`pool.py`).

How many, which and in which order may be chosen on dev: every candidate is tried on the same dev rows, and the best is kept.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tasks.config import Order, Prompt, Selection
from tasks.data.examples import read_examples
from tasks.errors import BadData, EndpointError
from tasks.prompting.ask import UNREACHED, AskContext, Question, answer_questions
from tasks.prompting.messages import Pool, PromptSpec, Shot
from tasks.prompting.techniques.drafting import Drafting
from tasks.prompting.techniques.pool import BY_ROW, ExamplePool, choose_shots, make_pool, shot_tokens
from tasks.records import Example, Finding
from tasks.workspace import digest

logger = logging.getLogger(__name__)
SHOTS_SHARE = 0.5
"""Of the context, at most so much goes to labelled examples; the rest is the row's."""
MAX_UNREACHED = 0.1
"""Candidates are not compared when the endpoint was out of reach for a larger share of one's rows."""


@dataclass(frozen=True)
class Candidate:
    """One way to show examples."""

    examples: int
    selection: Selection
    order: Order

    @property
    def by_row(self) -> bool:
        return self.selection in BY_ROW

    def __str__(self) -> str:
        return f"{self.examples} {'example' if self.examples == 1 else 'examples'}, {self.selection}, {self.order}"


@dataclass(frozen=True)
class Trial:
    """How a candidate did on dev."""

    candidate: Candidate
    accuracy: float
    """Rows without an answer count as wrong."""
    tokens: int
    """Prompt and answers of all rows together."""


def few_shot(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """Labelled train rows as examples; rows too long for the context are passed over, and counted.

    Raises:
        BadData: no train row is short enough, or dev has no labelled row to choose on.
        EndpointError: candidates could not be compared, since the endpoint was out of reach.
        BudgetReached: as asking raises it.
    """
    shelf = _Shelf(spec, drafting)
    tried = candidates(drafting.prompt)
    drafts = {candidate: shelf.draft(candidate) for candidate in tried}  # what cannot be shown is refused before anything is asked
    best = tried[0] if len(tried) == 1 else _best_on_dev(drafts, drafting, shelf)
    shelf.report(best)
    if best.by_row:
        shelf.pool(best.selection).save(drafting.folder, best.selection)
    return drafts[best]


def candidates(prompt: Prompt) -> list[Candidate]:
    """What is to be tried, the config's own choice first. Examples that are the same for every row have no nearest one, so
    `nearest_last` is no order of theirs."""
    numbers = [prompt.examples, *prompt.examples_tried]
    selections = [prompt.selection, *prompt.selections_tried]
    orders = [prompt.order, *prompt.orders_tried]
    found = [
        Candidate(number, selection, Order.SHUFFLED if order is Order.NEAREST_LAST and selection not in BY_ROW else order)
        for number, selection, order in product(numbers, selections, orders)
    ]
    return list(dict.fromkeys(found))


def rows_to_try(drafting: Drafting) -> list[Example]:
    """Labelled dev rows, at most `tried_rows`, chosen by hash: the same for every candidate and every prompt.

    Raises:
        BadData: there are none.
    """
    rows = [row for row in read_examples(drafting.dataset, "dev") if row.label is not None]
    if not rows:
        raise BadData(f"prompt {drafting.prompt.name!r} chooses its examples on dev, which has no labelled row: label some")
    chosen = sorted(rows, key=lambda row: digest(row.example))[: drafting.prompt.tried_rows]
    return sorted(chosen, key=lambda row: row.row)


@dataclass
class _Shelf:
    """The train rows, and how each candidate shows some of them."""

    spec: PromptSpec
    drafting: Drafting
    _pool: ExamplePool | None = None
    _ranked: dict[Selection, list[list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = [row for row in read_examples(self.drafting.dataset, "train") if row.label is not None]
        self.room = self._room()

    def _room(self) -> float:
        """Tokens that examples may take together."""
        context = self.drafting.endpoint.context_tokens
        return (context - self.drafting.prompt.max_answer_tokens - self.spec.thinking_tokens) * SHOTS_SHARE

    def short(self, candidate: Candidate) -> list[Example]:
        """The rows that may be shown: one that comes with every row must leave place for the others, one chosen by row need not."""
        room = int(self.room) if candidate.by_row else self.room / candidate.examples
        return [row for row in self.rows if shot_tokens(row) <= room]

    def draft(self, candidate: Candidate) -> PromptSpec:
        """The prompt with this candidate's examples. Raises BadData when no train row is short enough."""
        short = self.short(candidate)
        if not short:
            name, context = self.drafting.prompt.name, self.drafting.endpoint.context_tokens
            raise BadData(
                f"no train row is short enough to show {candidate.examples} examples in half of {context} tokens: "
                f"lower `examples` of prompt {name!r}"
            )
        if candidate.by_row:
            pool = Pool(selection=candidate.selection, order=candidate.order, count=candidate.examples, room=int(self.room))
            return self.spec.model_copy(update={"shots": [], "pool": pool})
        return self.spec.model_copy(update={"shots": self._fixed(candidate, short), "pool": None})

    def pool(self, selection: Selection) -> ExamplePool:
        """What examples are chosen from by row, embedded once that is needed."""
        if self._pool is None:
            self._pool = make_pool([row for row in self.rows if shot_tokens(row) <= int(self.room)])
        if selection is Selection.NEAREST and self._pool.vectors is None:
            self._pool = self._pool.embedded(self.drafting.settings)
        return self._pool

    def questions(self, spec: PromptSpec, examples: Sequence[Example]) -> list[Question]:
        """What a draft asks about these rows, which must be the same each time."""
        if spec.pool is None:
            return [Question(example) for example in examples]
        selection = spec.pool.selection
        pool = self.pool(selection)
        if selection not in self._ranked:
            most = max(candidate.examples for candidate in candidates(self.drafting.prompt))
            self._ranked[selection] = pool.rank(selection, examples, most, self.drafting.settings)
        shots = choose_shots(spec.pool, pool, spec.labels, examples, self._ranked[selection])
        return [Question(example, each) for example, each in zip(examples, shots, strict=True)]

    def report(self, candidate: Candidate) -> None:
        """Tell which train rows the kept candidate cannot show."""
        name, total = self.drafting.prompt.name, len(self.rows)
        passed_over = total - len(self.short(candidate))
        if passed_over:
            self._find("too_long", passed_over, f"{name}: {passed_over} of {total} train rows are too long to be shown as examples")
        if candidate.by_row:
            pool, fitting = self.pool(candidate.selection), total - passed_over
            if len(pool.rows) < fitting:
                told = f"{name}: examples are chosen among {len(pool.rows)} of {fitting} train rows (each text once, by hash)"
                self._find("pool", fitting - len(pool.rows), told)

    def _find(self, kind: str, count: int, message: str) -> None:
        logger.info("%s", message)
        self.drafting.findings.append(Finding(kind=kind, count=count, message=message))

    def _fixed(self, candidate: Candidate, short: Sequence[Example]) -> list[Shot]:
        choose = _balanced if candidate.selection is Selection.BALANCED else _random
        rows = choose(short, self.spec.labels, candidate.examples, self.drafting.prompt.seed)
        if candidate.order is Order.GROUPED:
            rows = sorted(rows, key=lambda row: self.spec.labels.index(str(row.label)))
        return [Shot(inputs=row.inputs, label=str(row.label)) for row in rows]


def _best_on_dev(drafts: dict[Candidate, PromptSpec], drafting: Drafting, shelf: _Shelf) -> Candidate:
    """The candidate with the best accuracy on dev; among equals the one that takes fewer tokens."""
    rows, context = rows_to_try(drafting), drafting.ask()
    trials = [_try(candidate, spec, rows, context, shelf) for candidate, spec in drafts.items()]
    best = max(trials, key=lambda trial: (trial.accuracy, -trial.tokens))
    for trial in trials:
        result = f"accuracy {trial.accuracy:.3f} on {len(rows)} dev rows, {trial.tokens:,} tokens"
        message = f"{drafting.prompt.name}: {trial.candidate}: {result}{' (kept)' if trial is best else ''}"
        logger.info("%s", message)
        drafting.findings.append(Finding(kind="tried", count=len(rows), message=message))
    return best.candidate


def _try(candidate: Candidate, spec: PromptSpec, rows: Sequence[Example], context: AskContext, shelf: _Shelf) -> Trial:
    answers = answer_questions(spec, shelf.questions(spec, rows), context)
    unreached = sum(answer.failure in UNREACHED for answer in answers)
    if unreached > MAX_UNREACHED * len(rows):
        raise EndpointError(
            f"{spec.model} gave no reply to {unreached} of {len(rows)} dev rows with {candidate}, so the candidates cannot be "
            f"compared; what was answered is kept: run again when the endpoint {spec.endpoint!r} answers"
        )
    right = sum(answer.label == row.label for answer, row in zip(answers, rows, strict=True))
    return Trial(candidate, right / len(rows), sum(answer.input_tokens + answer.output_tokens for answer in answers))


def _balanced(rows: Sequence[Example], labels: Sequence[str], count: int, seed: int) -> list[Example]:
    """As many rows of each label as can be, then shuffled so that no label always comes last. Depends on rows and seed alone."""
    if not labels:  # free text has none to balance
        return _random(rows, labels, count, seed)
    chooser: Any = random.Random(f"{seed}")  # noqa: S311
    pools = []
    for label in labels:
        pool = sorted((row for row in rows if row.label == label), key=lambda row: row.example)
        chooser.shuffle(pool)
        pools.append(pool)
    chosen: list[Example] = []
    while len(chosen) < count and any(pools):
        for pool in chooser.sample(pools, len(pools)):
            if pool and len(chosen) < count:
                chosen.append(pool.pop())
    chooser.shuffle(chosen)
    return chosen


def _random(rows: Sequence[Example], labels: Sequence[str], count: int, seed: int) -> list[Example]:
    """So many rows, whatever their labels. Depends on rows and seed alone."""
    chooser = random.Random(f"{seed}")  # noqa: S311
    return chooser.sample(sorted(rows, key=lambda row: row.example), min(count, len(rows)))
