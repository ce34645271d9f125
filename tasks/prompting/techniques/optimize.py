"""`optimized`: instructions rewritten from dev errors, examples bootstrapped, within a budget of requests and dollars.

Half of dev teaches: its errors are shown to the model, which rewrites the instructions (the optimiser is GEPA). The other half
selects: what is not better there is not kept. Rewritten instructions are data; they are shown, never rendered.
"""

import importlib.util
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.data.examples import input_text, read_examples
from tasks.errors import MissingPart
from tasks.prompting.budget import count_tokens
from tasks.prompting.conversation import most_requests
from tasks.prompting.messages import PromptSpec, Shot, render_instructions, render_text, template_of
from tasks.prompting.techniques.drafting import Drafting
from tasks.prompting.techniques.examples import SHOTS_SHARE
from tasks.prompting.techniques.pool import FILE, VECTORS, shot_tokens
from tasks.prompting.techniques.trials import Exhausted, Trials
from tasks.prompting.techniques.wording import FORMS, NAMES
from tasks.records import Answer, Example, Failure, Finding
from tasks.workspace import digest

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

logger = logging.getLogger(__name__)
COMPONENT = "instructions"
"""What GEPA calls the text that it evolves."""
INSTRUCTIONS_SHARE = 0.6
"""Of the budget, so much goes to instructions; the rest to examples."""
TRIALS_OF_DEV = 6
"""A half of dev is at most so large that the budget would pay for asking about it so many times."""
FEWEST_ROWS = 5
ERRORS_AT_ONCE = 4
"""Rows that the model is shown for one rewriting; right ones among them, so that mending one label does not break the other."""
REWRITE_TOKENS = 400
REWRITE_TEMPERATURE = 0.7
LONGEST_ROW = 600
"""In characters, of a row that is shown for rewriting."""
MOST_CONTEXT = 0.2
"""Of the context, at most so much goes to rewritten instructions."""
SETS = 4
"""Sets of bootstrapped examples, at most."""


@dataclass(frozen=True)
class Halves:
    """Dev rows by what they are for; no row is in both."""

    teach: list[Example]
    select: list[Example]


def optimized(spec: PromptSpec, drafting: Drafting) -> PromptSpec:
    """The prompt with the instructions and the examples that did best on the half of dev that selects; as it was where nothing did
    better.

    Raises:
        MissingPart: the optimiser is not installed.
        BudgetReached: the run's cap has no more room. The search's own budget ends the search, and the best so far is kept.
        EndpointError: as asking raises it.
    """
    if importlib.util.find_spec("gepa") is None:
        raise MissingPart("technique optimized needs the package gepa: `pip install '.[optimize]'` in the project's folder")
    prompt = drafting.prompt
    halves = halve_dev(spec, drafting)
    trials = Trials(drafting.folder, drafting.ask(), prompt.optimize_calls, prompt.optimize_usd)
    search = Search(spec, drafting, halves, trials)
    best = search.run()
    if spec.pool and best.pool is None:
        for name in (FILE, VECTORS):  # the rows that few_shot chose from are shown no more
            (drafting.folder / name).unlink(missing_ok=True)
    return best


def halve_dev(spec: PromptSpec, drafting: Drafting) -> Halves:
    """Labelled dev rows in two halves by hash, each as large as `tried_rows` and the budget allow; empty where that is too small to
    tell anything."""
    prompt = drafting.prompt
    rows = [row for row in read_examples(drafting.dataset, "dev") if row.label is not None]
    rows.sort(key=lambda row: digest([prompt.seed, row.example]))
    most = max(FEWEST_ROWS, prompt.optimize_calls // (TRIALS_OF_DEV * most_requests(spec)))
    size = min(most, prompt.tried_rows, len(rows) // 2)
    size = size if size >= FEWEST_ROWS else 0
    return Halves(rows[:size], rows[size : 2 * size])


class Search:
    """One search; `run` leads through it."""

    def __init__(self, spec: PromptSpec, drafting: Drafting, halves: Halves, trials: Trials) -> None:
        self.spec, self.drafting, self.halves, self.trials = spec, drafting, halves, trials
        self.rewritten = [spec]
        """Prompts that differ in their instructions, in the order in which they came up."""
        self.exemplified: list[PromptSpec] = []
        """Prompts that differ in their examples."""
        self.exhausted = False

    def run(self) -> PromptSpec:
        """The best prompt that was found; tells the findings."""
        best = self.spec
        if not self.halves.select:
            self._report(best)
            return best
        for share, step in ((INSTRUCTIONS_SHARE, self._rewrite), (1.0, self._bootstrap)):
            self.trials.limit(share)
            try:
                step(best)
            except Exhausted:
                self.exhausted = True
            best = self.best()
        self._report(best)
        return best

    def best(self) -> PromptSpec:
        """The prompt that gets most of the selecting rows right; among equals the one that came up first."""
        tried = [each for each in [*self.rewritten, *self.exemplified] if self._tried(each)]
        return max(tried, key=self.score) if self.spec in tried else self.spec

    def score(self, spec: PromptSpec) -> int:
        """Selecting rows that a prompt which was tried on all of them gets right."""
        return sum(self.trials.right(spec, self.halves.select))

    def with_instructions(self, text: str) -> PromptSpec:
        """The prompt with other instructions, which name the labels if they do not; with its own where these are unusable."""
        most = MOST_CONTEXT * self.drafting.endpoint.context_tokens
        if not text.strip() or text == self.spec.instructions or count_tokens(text) > most:
            return self.spec
        text = text.strip()
        if any(label.casefold() not in f"{text}\n{self.spec.answer_form}".casefold() for label in self.spec.labels):
            text += f"\n{render_instructions(NAMES, self.spec.labels, self.spec.inputs)}"
        spec = self.spec.model_copy(update={"instructions": text})
        if spec not in self.rewritten:
            self.rewritten.append(spec)
        return spec

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        """GEPA's language model: it says new instructions; nothing where it was cut or refused."""
        said = self.trials.say(str(prompt), REWRITE_TOKENS, self.spec, REWRITE_TEMPERATURE)
        return "" if said.failure in (Failure.CUT, Failure.REFUSED, Failure.TOO_LONG) else said.answer

    def _rewrite(self, spec: PromptSpec) -> None:
        """Have GEPA rewrite the instructions from the errors on the teaching rows."""
        from gepa.api import optimize
        from gepa.utils import MaxCandidateProposalsStopper

        self.trials.right(spec, self.halves.select)
        right = self.trials.right(spec, self.halves.teach)
        wrong = [row for row, good in zip(self.halves.teach, right, strict=True) if not good]
        others = [row for row, good in zip(self.halves.teach, right, strict=True) if good]
        if not wrong:
            return
        adapter: Any = Adapter(self)
        optimize(
            seed_candidate={COMPONENT: spec.instructions},
            trainset=wrong + others[: len(wrong)],
            valset=self.halves.select,
            adapter=adapter,
            reflection_lm=self.reflect,
            reflection_prompt_template=render_text(template_of("rewrite"), labels=spec.labels),
            reflection_minibatch_size=min(ERRORS_AT_ONCE, len(wrong) + len(others[: len(wrong)])),
            stop_callbacks=[MaxCandidateProposalsStopper(self.trials.most_calls)],
            logger=_Log(),
            seed=self.drafting.prompt.seed,
        )

    def _bootstrap(self, spec: PromptSpec) -> None:
        """Try sets of labelled train rows that the prompt itself gets right."""
        self.trials.right(spec, self.halves.select)
        wanted = self.drafting.prompt.examples
        rows = self._train_rows(spec)
        form = self._form_with_examples(spec)
        for start in range(0, min(len(rows), 2 * wanted * SETS), 2 * wanted):
            asked = rows[start : start + 2 * wanted]
            good = [row for row, right in zip(asked, self.trials.right(spec, asked), strict=True) if right][:wanted]
            if good:
                shots = [Shot(inputs=row.inputs, label=str(row.label)) for row in good]
                candidate = spec.model_copy(update={"shots": shots, "pool": None, "answer_form": form})
                self.exemplified.append(candidate)
                self.trials.right(candidate, self.halves.select)

    def _train_rows(self, spec: PromptSpec) -> list[Example]:
        """Labelled train rows that are short enough to be shown, the labels in turn; chosen by the seed."""
        context = self.drafting.endpoint.context_tokens
        room = (context - spec.max_answer_tokens - spec.thinking_tokens) * SHOTS_SHARE / self.drafting.prompt.examples
        chooser: Any = random.Random(self.drafting.prompt.seed)  # noqa: S311
        piles = []
        for label in spec.labels:
            rows = [row for row in read_examples(self.drafting.dataset, "train") if row.label == label and shot_tokens(row) <= room]
            piles.append(chooser.sample(sorted(rows, key=lambda row: row.example), len(rows)))
        longest = max(map(len, piles), default=0)
        return [pile[place] for place in range(longest) for pile in piles if place < len(pile)]

    def _form_with_examples(self, spec: PromptSpec) -> str:
        """How to answer where examples are shown (`wording.FORMS`)."""
        if not spec.structured or spec.shots or spec.pool:
            return spec.answer_form
        return render_instructions(FORMS, spec.labels, spec.inputs)

    def _tried(self, spec: PromptSpec) -> bool:
        return bool(self.halves.select) and self.trials.known(spec, self.halves.select)

    def _report(self, best: PromptSpec) -> None:
        """Tell what the search did, and where it ended."""
        prompt, trials, count = self.drafting.prompt, self.trials, len(self.rewritten) - 1 + len(self.exemplified)
        told = "the budget, or dev, is too small to compare anything; the prompt is as it was"
        if self._tried(self.spec):
            told = (
                f"{len(self.rewritten) - 1} rewritten instructions and {len(self.exemplified)} sets of examples were tried, with "
                f"{trials.calls} requests at most and ${trials.usd:.4f}; {self._gain(best)}"
            )
        if self.exhausted:
            told += f"; the budget ({prompt.optimize_calls} requests, ${prompt.optimize_usd:g}) ended the search"
        logger.info("%s: %s", prompt.name, told)
        self.drafting.findings.append(Finding(kind="optimized", count=count, message=f"{prompt.name}: {told}"))

    def _gain(self, best: PromptSpec) -> str:
        rows = len(self.halves.select)
        changes = {
            "rewritten instructions": best.instructions != self.spec.instructions,
            f"{len(best.shots)} bootstrapped examples": best in self.exemplified,
        }
        kept = " and ".join(what for what, changed in changes.items() if changed) or "the prompt as it was"
        before, after = self.score(self.spec) / rows, self.score(best) / rows
        return f"accuracy on the {rows} dev rows that select: {before:.3f} before, {after:.3f} after; kept: {kept}"


class Adapter:
    """What GEPA knows of prompts (`gepa.core.adapter.GEPAAdapter`)."""

    propose_new_texts = None

    def __init__(self, search: Search) -> None:
        self.search = search

    def evaluate(
        self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False
    ) -> "EvaluationBatch[tuple[Example, Answer], Answer]":
        """1 for each row that the candidate gets right."""
        from gepa.core.adapter import EvaluationBatch

        answers = self.search.trials.answers(self.search.with_instructions(candidate[COMPONENT]), batch)
        scores = [float(answer.label == row.label) for answer, row in zip(answers, batch, strict=True)]
        traces = list(zip(batch, answers, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=answers, scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: "EvaluationBatch[tuple[Example, Answer], Answer]",
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What the model is shown of each row: its text, the answer, and what is right."""
        shown = [_as_feedback(row, answer) for row, answer in eval_batch.trajectories or []]
        return dict.fromkeys(components_to_update, shown)


def _as_feedback(row: Example, answer: Answer) -> dict[str, str]:
    text = input_text(row.inputs)
    verdict = "Right." if answer.label == row.label else f"Wrong: the right label is {row.label}."
    return {
        "Text": text if len(text) <= LONGEST_ROW else f"{text[:LONGEST_ROW].rstrip()}…",
        "Answer": answer.label or f"no label ({answer.failure})",
        "Verdict": verdict,
    }


class _Log:
    """GEPA's log among ours."""

    def log(self, message: str) -> None:
        logger.debug("gepa: %s", message)
