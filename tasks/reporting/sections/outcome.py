"""What came out: the contenders, their differences, and cost against quality."""

from collections.abc import Mapping

from tasks.records import ContenderVerdict, Verdict
from tasks.reporting.charts.verdict import cost_and_figure
from tasks.reporting.parts import Chart, Section, Table
from tasks.verdict.effects_report import count_effects, effect_words
from tasks.verdict.money_report import decision_facts
from tasks.verdict.text import DASH, dollars, milliseconds, or_dash
from tasks.verdict.wording import p_value

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
    said = ["An interval that leaves out 0 shows a difference."]
    said += [f"Decided by {found.contender} against {found.against}: {found.test} on {found.n:,} rows."] if found else []
    table = Table("Paired differences", COMPARED, rows)
    return Section("Differences on the same rows", said, charts=[Chart("Paired differences", pictures["differences"], table)])


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
    said = ["Up and to the left is better; on the dashed line are those that nobody beats in both."]
    said += [f"Not shown, since a figure is not known: {', '.join(unknown)}."] if unknown else []
    table = Table("Cost and quality", ("contender", "$ for 1,000", "quality %", "on the front"), rows)
    return Section("Cost against quality", said, charts=[Chart("Cost against quality", pictures["front"], table)])


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
