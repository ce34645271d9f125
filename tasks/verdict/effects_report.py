"""The table of effects for people: what each technique does on each endpoint, what it costs, and what else the prompts show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.config import Technique
from tasks.records import BestPrompt, Effect, FormatSpread, Verdict
from tasks.verdict.text import DASH, dollars, escape, markdown_table, milliseconds, or_dash, plain
from tasks.verdict.wording import p_value, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("prompt", "effect on test, points", "p, Holm", "$/point", "tokens")
MARKDOWN_COLUMNS = (
    "prompt",
    "techniques",
    "dev / test %",
    "effect on test, points",
    "p, Holm",
    "$/1,000 more",
    "$/point",
    "tokens in / out",
    "p50 ms",
)
"""As many as the page in Prefect has room for; the table artifact and the JSON have all figures."""
FINDINGS = {"gain": "gain", "loss": "loss", "none": "no difference found"}


def count_effects(verdict: Verdict) -> int:
    """How many effects were measured; there is nothing to show of a single prompt."""
    return sum(effect.comparison is not None for effect in verdict.effects)


def effects_table(verdict: Verdict) -> "list[RenderableType]":
    """The effects for a terminal of 80 columns or more; empty where there are none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not count_effects(verdict):
        return []
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        table.add_column(Text(column), justify="left" if place < 2 else "right", no_wrap=place > 0, overflow="fold")
    several = _several(verdict)
    for effect in verdict.effects:
        table.add_row(*(Text(cell) for cell in _cells(effect, several)), style="" if effect.comparison else "dim")
    return [table, Text(f"{_legend(verdict)}; tokens written a row", style="dim")]


def markdown_effects(verdict: Verdict) -> list[str]:
    """The effects as paragraphs of Markdown; empty where there are none."""
    if not count_effects(verdict):
        return []
    parts = ["## What techniques do"]
    for endpoint in dict.fromkeys(effect.endpoint for effect in verdict.effects):
        rows = [_markdown_cells(effect) for effect in verdict.effects if effect.endpoint == endpoint]
        title = [f"### On {escape(endpoint)}"] if _several(verdict) else []
        parts += [*title, markdown_table(MARKDOWN_COLUMNS, [[escape(cell) for cell in row] for row in rows])]
    return [*parts, escape(f"{_legend(verdict)}; tokens of a row; intervals are each by itself")]


def prompt_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What else the prompts show, a title and a sentence each: formats, reviews, from dev to test, and the best by endpoint."""
    facts = [("formats", _formats(found)) for found in verdict.format_spread]
    for effect in verdict.effects:
        if effect.repaired is not None:
            facts.append(("review", f"{effect.contender}: {effect.repaired} test rows repaired, {effect.damaged} damaged"))
        if Technique.OPTIMIZED.value in effect.techniques:
            dev = percent(effect.accuracy + effect.dev_gap)
            facts.append(("dev to test", f"{effect.contender}: {dev} on dev, {percent(effect.accuracy)} on test"))
    return facts + ([("best prompts", _best(verdict.best_prompts))] if verdict.best_prompts else [])


def effect_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The effects as rows for an artifact, numbers as numbers; empty where there are none."""
    return [_row(effect) for effect in verdict.effects] if count_effects(verdict) else []


def effect_words(effect: Effect) -> str:
    """Such as `no difference found: -0.5 [-3.1, +2.1]`, in points; for a baseline its accuracy."""
    found = effect.comparison
    if effect.contender == effect.baseline:
        return f"baseline{', not plain' if effect.techniques else ''}: {percent(effect.accuracy)}"
    if found is None or effect.finding is None:
        return "no scores on the baseline's rows"
    low, high = (_signed(bound) for bound in found.interval)
    return f"{FINDINGS[effect.finding]}: {_signed(found.difference)} [{low}, {high}]"


def _several(verdict: Verdict) -> bool:
    return len({effect.endpoint for effect in verdict.effects}) > 1


def _cells(effect: Effect, several: bool) -> list[str]:
    words = effect_words(effect)
    if several and effect.contender == effect.baseline:
        where = effect.endpoint if len(effect.endpoint) <= 16 else f"{effect.endpoint[:15]}…"
        words = words.replace("baseline", f"baseline on {where}", 1)
    return [
        plain(effect.contender),
        plain(words),
        or_dash(effect.p_holm, _p),
        or_dash(_price(effect), dollars),
        or_dash(effect.extra_output_tokens, _more) if effect.comparison else or_dash(effect.output_tokens, "{:.1f}".format),
    ]


def _markdown_cells(effect: Effect) -> list[str]:
    tokens = (or_dash(value, "{:.1f}".format) for value in (effect.input_tokens, effect.output_tokens))
    return [
        effect.contender,
        " + ".join(_techniques(effect)) or DASH,
        f"{100 * (effect.accuracy + effect.dev_gap):.1f} / {100 * effect.accuracy:.1f}",
        effect_words(effect),
        or_dash(effect.p_holm, _p),
        or_dash(effect.extra_usd_per_1000, _more_dollars),
        or_dash(_price(effect), dollars),
        " / ".join(tokens),
        or_dash(effect.latency_p50_ms, milliseconds),
    ]


def _row(effect: Effect) -> dict[str, Any]:
    """With figures as long as a table on a page can show."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in _figures(effect).items()}


def _figures(effect: Effect) -> dict[str, Any]:
    found = effect.comparison
    low, high = found.interval if found else (None, None)
    return {
        "prompt": plain(effect.contender),
        "endpoint": effect.endpoint,
        "techniques": " + ".join(_techniques(effect)),
        "against": plain(effect.baseline) if found else None,
        "test accuracy": effect.accuracy,
        "difference": found.difference if found else None,
        "low": low,
        "high": high,
        "p": found.p_value if found else None,
        "p Holm": effect.p_holm,
        "finding": FINDINGS[effect.finding] if effect.finding else None,
        "extra usd per 1000": effect.extra_usd_per_1000,
        "usd per point": effect.usd_per_point,
        "input tokens": effect.input_tokens,
        "output tokens": effect.output_tokens,
        "extra output tokens": effect.extra_output_tokens,
        "p50 ms": effect.latency_p50_ms,
        "dev less test": effect.dev_gap,
        "repaired": effect.repaired,
        "damaged": effect.damaged,
    }


def _legend(verdict: Verdict) -> str:
    number = count_effects(verdict)
    return (
        f"against the baseline on the same test rows; p by Holm over {number} effect{'s' if number > 1 else ''}; "
        "$/point for 1,000 rows"
    )


def _price(effect: Effect) -> float | None:
    """Dollars per point, where a gain was found: what may be luck is not priced for people."""
    return effect.usd_per_point if effect.finding == "gain" else None


def _techniques(effect: Effect) -> list[str]:
    """With the format, where there is one: `structured (xml)`."""
    structured = f"{Technique.STRUCTURED.value} ({effect.format})"
    return [structured if each == Technique.STRUCTURED.value else each for each in effect.techniques]


def _formats(found: FormatSpread) -> str:
    each = ", ".join(f"{found.formats[name]} {percent(share)} ({name})" for name, share in found.accuracies.items())
    return f"{100 * found.spread:.1f} points apart on {found.endpoint} by format alone: {each}"


def _best(found: Sequence[BestPrompt]) -> str:
    """The best by endpoint, and that the best for one is not the best for another where that was seen."""
    each = ", ".join(f"{best.contender} for {best.endpoint} ({percent(best.dev_accuracy)})" for best in found)
    beaten = [
        f"the best prompt for {best.endpoint} is not the best for {endpoint}, where {other} does better"
        for best in found
        for endpoint, other in best.beaten_on.items()
    ]
    return "; ".join([f"on dev {each}", *beaten])


def _signed(share: float) -> str:
    return _more(100 * share)


def _more(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # adding 0.0 turns a negative zero into zero


def _p(value: float) -> str:
    return p_value(value).removeprefix("p ").removeprefix("= ").replace("< ", "<")


def _more_dollars(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{dollars(abs(value))}"
