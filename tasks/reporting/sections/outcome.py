"""What came out: the contenders, their differences, and cost against quality."""

from collections.abc import Mapping

from tasks.records import Comparison, ContenderVerdict, Verdict
from tasks.reporting.charts.verdict import cost_and_figure
from tasks.reporting.parts import Chart, Section, Table
from tasks.verdict.effects_report import count_effects, effect_words
from tasks.verdict.money_report import decision_facts
from tasks.verdict.report import HURDLES
from tasks.verdict.text import DASH, dollars, milliseconds, or_dash
from tasks.verdict.wording import metric_words, p_value

HEAD = ("contender", "arm", "dev %", "test % [interval]", "macro-F1 %", "$ for 1,000", "p50 / p95 ms", "failed")
COMPARED = ("compared", "points", "interval", "only the first right", "only the other right", "p", "p, Holm")


def contenders_section(verdict: Verdict) -> Section:
    """Everybody's figures."""
    place = next((place for place, line in enumerate(verdict.contenders) if line.name == verdict.winner), None)
    rows = [_line(line, line.name == verdict.winner) for line in verdict.contenders]
    said = (
        "★ winner, • finalist of its arm, chosen on dev. Test decides, between finalists alone. Intervals are Wilson's; a row "
        "without a usable answer counts as wrong."
    )
    tables = [Table("Contenders", HEAD, rows, words=2, marked=place)]
    if count_effects(verdict):
        head = ("prompt", "endpoint", "techniques", "effect on test, points", "p, Holm")
        effects = [
            [each.contender, each.endpoint, ", ".join(each.techniques) or "none", effect_words(each), or_dash(each.p_holm, p_value)]
            for each in verdict.effects
        ]
        tables.append(Table("What techniques do", head, effects, words=4))
    return Section("Contenders", said=[said], facts=decision_facts(verdict), tables=tables)


def differences_section(verdict: Verdict, pictures: Mapping[str, str]) -> Section | None:
    """Who was better than whom on the same rows; None where nobody was compared."""
    if not verdict.comparisons:
        return None
    rows = [
        [
            f"{each.contender} over {each.against}",
            f"{100 * each.difference:+.1f}",
            f"{100 * each.interval[0]:+.1f} to {100 * each.interval[1]:+.1f}",
            f"{each.only_contender:,}",
            f"{each.only_against:,}",
            p_value(each.p_value),
            or_dash(each.p_holm, p_value),
        ]
        for each in verdict.comparisons
    ]
    found = verdict.comparison
    said = [HURDLES]
    if found:
        by = f"{metric_words(found.metric)}, {found.test} on {found.n:,} rows"
        said.insert(0, f"Decided by {found.contender} against {found.against}: {by}.")
    table = Table(f"Paired differences, points of {metric_words(verdict.metric)}", COMPARED, rows)
    charts = [Chart("Paired differences", pictures["differences"], table)]
    return Section("Differences on the same rows", said, charts=charts, tables=[_others(found)] if found and found.others else [])


def _others(found: Comparison) -> Table:
    """What else was measured of the two that decided."""
    rows = []
    for each in found.others:
        scale, digits = (100, 1) if each.metric in ("accuracy", "macro_f1") else (1, 3)
        low, high = each.interval or (None, None)
        interval = DASH if low is None or high is None else f"{scale * low:+.{digits}f} to {scale * high:+.{digits}f}"
        rows.append([metric_words(each.metric), f"{scale * each.difference:+.{digits}f}", interval, f"{each.n:,}"])
    caption = f"{found.contender} over {found.against}, measure by measure (of errors less is better)"
    return Table(caption, ("measure", "difference", "interval", "rows"), rows)


def front_section(verdict: Verdict, pictures: Mapping[str, str]) -> Section | None:
    """Cost against quality; None where no cost is known."""
    if "front" not in pictures:
        return None
    rows = []
    for line in verdict.contenders:
        place = cost_and_figure(line, verdict.metric)
        if place:
            rows.append([line.name, dollars(place[0]), f"{100 * place[1]:.1f}", "yes" if line.pareto else ""])
    unknown = [line.name for line in verdict.contenders if not cost_and_figure(line, verdict.metric)]
    drawn = "Up and to the left is better; on the dashed line are those that nobody beats in both."
    said = [f"Not shown, since a figure is not known: {', '.join(unknown)}."] if unknown else []
    table = Table("Cost and quality", ("contender", "$ for 1,000", "quality %", "on the front"), rows)
    return Section("Cost against quality", said, charts=[Chart("Cost against quality", pictures["front"], table)], drawn=[drawn])


def _line(line: ContenderVerdict, winner: bool) -> list[str]:
    low, high = line.test.interval
    latency = line.latency_ms
    timed = latency.p50 is not None and latency.p95 is not None
    return [
        f"{'★ ' if winner else '• ' if line.finalist else ''}{line.name}",
        line.arm.value,
        f"{100 * line.dev.accuracy:.1f}",
        f"{100 * line.test.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        or_dash(line.test.macro_f1, lambda value: f"{100 * value:.1f}"),
        or_dash(line.cost_usd_per_1000, dollars),
        f"{milliseconds(latency.p50 or 0)} / {milliseconds(latency.p95 or 0)}" if timed else DASH,
        f"{line.test.failed:,} of {line.test.n:,}" if line.test.failed else "0",
    ]
