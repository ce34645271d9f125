"""The verdict for people: in the terminal, and as Markdown for its page in Prefect. Both tell the same story in the same order.

Names of contenders, and whatever came from a store, are data: shown as plain text, they cannot bring markup or control codes.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.records import (
    Approval,
    AskedModel,
    Champion,
    Comparison,
    ContenderRecord,
    ContenderVerdict,
    DatasetRecord,
    DatasetSummary,
    Decision,
    Judgement,
    Latency,
    Looks,
    Verdict,
    Why,
)
from tasks.verdict.effects_report import effects_table, markdown_effects, prompt_facts
from tasks.verdict.money_report import decision_facts, markdown_money, markdown_slices
from tasks.verdict.text import DASH, dollars, escape, markdown_table, milliseconds, or_dash, plain
from tasks.verdict.tuned_report import markdown_tuned, tuned_lines, tuned_table
from tasks.verdict.wording import metric_words, p_value, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

HEADLINES = {
    Decision.PUBLISH: "PUBLISHED",
    Decision.KEEP_CHAMPION: "CHAMPION KEPT",
    Decision.NOT_ENOUGH_EVIDENCE: "NOT ENOUGH EVIDENCE",
}
COLOURS = {Decision.PUBLISH: "green", Decision.KEEP_CHAMPION: "cyan", Decision.NOT_ENOUGH_EVIDENCE: "yellow"}
WINNER, FINALIST = "★", "•"
LEGEND = f"{WINNER} winner   {FINALIST} finalist of its arm, chosen on dev"
LONG_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
"""Shortened where it would break lines: `bakeoff champion show`, the champion's page in Prefect and the JSON have it whole."""

SHORT = r"\1…"


def verdict_of(
    judgement: Judgement,
    *,
    run_id: str,
    name: str,
    dataset: DatasetRecord,
    models: Sequence[AskedModel] = (),
    contenders: Sequence[ContenderRecord] = (),
    champion: Champion | None,
    looks: Looks | None = None,
    grader: str | None = None,
    spent_usd: float,
    reused: Sequence[str],
    why: Why | None = None,
    created: datetime,
) -> Verdict:
    """The verdict of a run: what the gate found, and what is true of this run alone.

    Args:
        models: behind the endpoints that are not embedded.
        contenders: this run's; of the tuned ones the verdict says what training took.
        champion: what the store points to after this run.
        looks: how often the test rows were looked at by now.
        grader: who went over free-text answers.
        spent_usd: paid to endpoints by this run.
        reused: the stages that found their product.
        why: it ran; None where somebody ran the bake-off itself.
    """
    return Verdict(
        run_id=run_id,
        name=name,
        decision=judgement.decision,
        reason=judgement.reason,
        winner=judgement.winner,
        route=judgement.route,
        metric=judgement.metric,
        more_rows=judgement.more_rows,
        contenders=judgement.contenders,
        comparison=judgement.comparison,
        comparisons=judgement.comparisons,
        guards=judgement.guards,
        slices=judgement.slices,
        break_even=judgement.break_even,
        looks=looks,
        grader=grader,
        effects=judgement.effects,
        format_spread=judgement.format_spread,
        best_prompts=judgement.best_prompts,
        tuned=tuned_lines(contenders, judgement),
        lifts=judgement.lifts,
        models=list(models),
        champion=champion,
        spent_usd=spent_usd,
        reused=list(reused),
        why=why,
        dataset=DatasetSummary(fingerprint=dataset.fingerprint, **dataset.rows),
        created=created,
    )


def approved(verdict: Verdict, word: Approval) -> Verdict:
    """The verdict after a person was asked: without a yes nothing is published, whatever the evidence."""
    if word.approved:
        return verdict.model_copy(update={"approval": word})
    refused = f"{word.by or 'a person'} did not approve it{f' ({word.note})' if word.note else ''}"
    no = refused if word.approved is False else f"nobody approved it within {word.hours:g} hours"
    return _unpublished(verdict, no, approval=word)


def withheld(verdict: Verdict, doubts: Sequence[str]) -> Verdict:
    """The verdict once the grader was looked at: on the word of one that was not validated nothing is published, whatever the
    evidence.

    Args:
        doubts: why it is not validated; empty where it is, or where nobody graded.
    """
    if not doubts:
        return verdict
    no = f"its answers were graded by {verdict.grader}, which has not been validated: {'; '.join(doubts)}"
    return _unpublished(verdict, no, doubts=list(doubts))


def _unpublished(verdict: Verdict, why_not: str, **more: Any) -> Verdict:
    """The same evidence without its winner."""
    stays = Decision.KEEP_CHAMPION if verdict.champion else Decision.NOT_ENOUGH_EVIDENCE
    reason = f"{verdict.winner} would have been published, but {why_not}. The evidence: {verdict.reason}"
    return verdict.model_copy(update={"decision": stays, "reason": reason, "winner": None, "route": None, **more})


def render_verdict(verdict: Verdict, closer: Sequence[str] = (), page: str = "") -> "RenderableType":
    """The verdict for a terminal of 80 columns or more, to be read in ten seconds.

    Args:
        closer: commands that show more.
        page: where the run's report lies.
    """
    from rich.console import Group
    from rich.text import Text

    colour = COLOURS[verdict.decision]
    head = Text.assemble((HEADLINES[verdict.decision], f"bold {colour}"), "  ", (plain(headline(verdict)), "bold"))
    reason = Text(plain(verdict.reason))
    parts = [Text(), head, reason, Text(), _table(verdict), Text(LEGEND, style="dim"), Text()]
    effects = effects_table(verdict)
    if effects:
        parts += [*effects, Text()]
    tuned = tuned_table(verdict)
    if tuned:
        parts += [*tuned, Text()]
    return Group(*parts, _facts(verdict, closer, page))


def markdown_verdict(verdict: Verdict, closer: Sequence[str] = ()) -> str:
    """The verdict as Markdown."""
    rows = [[escape(cell) for cell in _cells(line, verdict)] for line in verdict.contenders]
    parts = [
        f"# {HEADLINES[verdict.decision]}: {escape(headline(verdict))}",
        escape(verdict.reason),
        markdown_table(["", *COLUMNS], rows),
        f"{LEGEND}. Intervals are Wilson's; rows without a usable answer count as wrong.",
    ]
    if verdict.comparisons:
        parts += ["## On the same test rows", markdown_table(COMPARED, _compared(verdict.comparisons)), HURDLES]
    parts += [*markdown_money(verdict), *markdown_slices(verdict), *markdown_effects(verdict)]
    parts += markdown_tuned(verdict)
    failures = [_failures(line) for line in verdict.contenders if line.failures]
    if failures:
        parts += ["## Rows without a usable answer", "\n".join(f"- {escape(text)}" for text in failures)]
    facts = [*_decided(verdict), *decision_facts(verdict), *prompt_facts(verdict), *_where(verdict, closer)]
    parts += [
        "## The rest",
        "\n".join(f"- **{title}** {escape(LONG_HASH.sub(SHORT, text))}" for title, text in facts),
    ]
    return "\n\n".join(parts) + "\n"


def table_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The contenders' table as rows for an artifact, numbers as numbers."""
    return [
        {
            "contender": plain(line.name),
            "arm": line.arm.value,
            "winner": line.name == verdict.winner,
            "finalist": line.finalist,
            "dev accuracy": line.dev.accuracy,
            "test accuracy": line.test.accuracy,
            "interval": f"{percent(line.test.interval[0])} to {percent(line.test.interval[1])}",
            "macro-F1": line.test.macro_f1,
            "failed": line.test.failed,
            "usd per 1000": line.cost_usd_per_1000,
            "p50 ms": line.latency_ms.p50,
            "p95 ms": line.latency_ms.p95,
        }
        for line in verdict.contenders
    ]


COLUMNS = ("contender", "arm", "dev %", "test % [interval]", "F1 %", "$/1,000", "p50/p95 ms")
COMPARED = ("compared", "points", "only the first right", "only the other right", "p", "p, Holm")
HURDLES = (
    "Intervals are each by itself. Whoever is published has passed every hurdle at the gate's level, which needs no correction; "
    "the column p, Holm is for reading all comparisons at once."
)


def headline(verdict: Verdict) -> str:
    """Who won, or that nobody did."""
    if verdict.winner:
        line = next((line for line in verdict.contenders if line.name == verdict.winner), None)
        shown = f" with {line.test.told(verdict.metric)}" if line and verdict.decision is Decision.PUBLISH else ""
        return f"{verdict.winner}{shown}"
    stays = f"; the champion {verdict.champion.contender} stays" if verdict.champion else ""
    return f"no new champion{stays}"


def _cells(line: ContenderVerdict, verdict: Verdict) -> list[str]:
    """One line of the table as text: the mark, then `COLUMNS`."""
    low, high = line.test.interval
    return [
        _mark(line, verdict),
        plain(line.name),
        line.arm.value,
        f"{100 * line.dev.accuracy:.1f}",
        f"{100 * line.test.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        or_dash(line.test.macro_f1, lambda value: f"{100 * value:.1f}"),
        or_dash(line.cost_usd_per_1000, dollars),
        _latency(line.latency_ms),
    ]


def _mark(line: ContenderVerdict, verdict: Verdict) -> str:
    if line.name == verdict.winner:
        return WINNER
    return FINALIST if line.finalist else ""


def _table(verdict: Verdict) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("", width=1)
    for place, column in enumerate(COLUMNS):
        is_name = place == 0  # names give way on a narrow terminal, figures never
        table.add_column(Text(column), justify="left" if place < 2 else "right", no_wrap=not is_name, overflow="fold")
    for line in verdict.contenders:
        style = "bold" if line.name == verdict.winner else ""
        table.add_row(*(Text(cell) for cell in _cells(line, verdict)), style=style)
    return table


def _facts(verdict: Verdict, closer: Sequence[str], page: str) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    facts = [
        *_decided(verdict),
        *decision_facts(verdict),
        *_whole(verdict),
        *prompt_facts(verdict),
        *(("failed", _failures(line)) for line in verdict.contenders if line.failures),
    ]
    for title, text in [*facts, *_where(verdict, closer), *([("report", page)] if page else [])]:
        grid.add_row(Text(title, style="dim"), Text(LONG_HASH.sub(SHORT, plain(text))))
    return grid


def _decided(verdict: Verdict) -> list[tuple[str, str]]:
    """The deciding test, with how often the two differed."""
    found = verdict.comparison
    if not found:
        return []
    differed = f"only {found.contender} was right on {found.only_contender}, only {found.against} on {found.only_against}"
    rows = f"{found.n} rows" if found.clusters is None else f"{found.n} rows in {found.clusters} clusters"
    graded = [("graded by", f"{verdict.grader}, where an answer is not its reference's text")] if verdict.grader else []
    return [("decided by", f"{metric_words(found.metric)}, {found.test} on {rows}: {differed}"), *graded]


def _whole(verdict: Verdict) -> list[tuple[str, str]]:
    """The figures on dev and test together, where both are halves of one split of the source."""
    figures = [f"{line.name} {percent(line.whole.accuracy)}" for line in verdict.contenders if line.whole]
    return [("whole split", f"{', '.join(figures)} (dev and test together)")] if figures else []


def _where(verdict: Verdict, closer: Sequence[str]) -> list[tuple[str, str]]:
    """Where the champion lies, what went into the run, and how to look closer."""
    champion, rows, reused = verdict.champion, verdict.dataset, len(verdict.reused)
    facts = [
        *([("why", verdict.why.words)] if verdict.why else []),
        *_approval(verdict),
        ("champion", f"{champion.contender}, version {champion.version}, {champion.uri}" if champion else "none yet"),
        ("rows", f"{rows.train:,} train, {rows.dev:,} dev, {rows.test:,} test; data set {rows.fingerprint[:12]}"),
        ("spent", f"${verdict.spent_usd:.4f}" + (f"; {reused} product{'s' if reused > 1 else ''} reused" if reused else "")),
    ]
    facts += [("model", model_words(model)) for model in verdict.models]
    return facts + ([("look closer", "; ".join(closer))] if closer else [])


def _approval(verdict: Verdict) -> list[tuple[str, str]]:
    """Who let the winner become champion; what a person refused is in the reason."""
    word = verdict.approval
    if not (word and word.approved):
        return []
    return [("approved by", f"{word.by or 'a person'}{f': {word.note}' if word.note else ''}")]


def model_words(model: AskedModel) -> str:
    """The model behind an endpoint, at what prices of which day."""
    day = f" of {model.priced_on}" if model.priced_on else ""
    price = f"${model.usd_per_million_input:g} in, ${model.usd_per_million_output:g} out a million tokens ({model.priced_by}{day})"
    ends = f"; its provider ends it on {model.shutdown_date}" if model.shutdown_date else ""
    return f"{model.endpoint}: {model.model}, {price}{ends}"


def _failures(line: ContenderVerdict) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(line.failures.items(), key=lambda item: -item[1]))
    return f"{line.name}: {line.test.failed} of {line.test.n} test rows (dev and test together: {kinds})"


def _compared(comparisons: Sequence[Comparison]) -> list[list[str]]:
    return [
        [
            escape(f"{found.contender} against {found.against}"),
            escape(
                f"{100 * found.difference:+.1f} [{100 * found.interval[0]:.1f}, {100 * found.interval[1]:.1f}] of "
                f"{metric_words(found.metric)}"
            ),
            str(found.only_contender),
            str(found.only_against),
            escape(p_value(found.p_value)),
            escape(or_dash(found.p_holm, p_value)),
        ]
        for found in comparisons
    ]


def _latency(latency: Latency) -> str:
    if latency.p50 is None or latency.p95 is None:
        return DASH
    return f"{milliseconds(latency.p50)}/{milliseconds(latency.p95)}"
