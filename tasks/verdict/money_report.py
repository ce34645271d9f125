"""Money, guards and looks in words, for the verdict's facts; plain text, so whoever shows it escapes it."""

from collections.abc import Sequence

from tasks.config import Metric
from tasks.records import BreakEven, ContenderVerdict, Guard, Looks, Verdict
from tasks.verdict.text import DASH, counted, dollars, escape, in_dollars, markdown_table, or_dash
from tasks.verdict.wording import percent, signed

MONEY = ("contender", "tokens", "machine time", "training", "all together, $ for 1,000", "training, $ once", "rows/s", "front")


def decision_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the gate asked beside the deciding test, and how often test was looked at."""
    facts = [("guards", _guards(verdict.guards))] if verdict.guards else []
    facts += [("front", _front(verdict))] if any(line.pareto for line in verdict.contenders) else []
    facts += [("break-even", break_even_text(verdict.break_even))] if verdict.break_even else []
    return facts + ([("looks", _looks(verdict.looks))] if verdict.looks else [])


def markdown_money(verdict: Verdict) -> list[str]:
    """What each contender costs and why; nothing for a verdict of an earlier release."""
    lines = [line for line in verdict.contenders if line.money]
    if not lines:
        return []
    rows = [[escape(cell) for cell in money_cells(line)] for line in lines]
    return ["## What 1,000 predictions cost", markdown_table(MONEY, rows)]


def markdown_slices(verdict: Verdict) -> list[str]:
    """Accuracy on parts of the test rows, a contender a column."""
    if not verdict.slices:
        return []
    names = [line.name for line in verdict.contenders]
    found = {(each.column, each.value, each.contender): each for each in verdict.slices}
    rows = [
        [f"{column} = {value}", str(n), *(f"{100 * found[column, value, name].accuracy:.1f}" for name in names)]
        for column, value, n in dict.fromkeys((each.column, each.value, each.n) for each in verdict.slices)
    ]
    table = markdown_table(["rows", "n", *map(escape, names)], [[escape(cell) for cell in row] for row in rows])
    return ["## Accuracy by slice, %", table]


def break_even_text(found: BreakEven) -> str:
    """From which volume on tuning pays, in a sentence."""
    if found.answer == "unknown":
        return f"not known between {found.prompt} and {found.tuned}: a cost is missing"
    costs = f"{or_dash(found.tuned_usd_per_1000, in_dollars)} for 1,000 against {or_dash(found.prompt_usd_per_1000, in_dollars)}"
    if found.answer == "never":
        return f"never: {found.tuned} is no cheaper to run than {found.prompt} ({costs})"
    once = f"training {or_dash(found.training_usd, in_dollars)} over {counted(found.months, 'month')}"
    if found.answer == "always":
        return f"{found.tuned} is cheaper than {found.prompt} at any volume ({costs}; {once})"
    volume = counted(round(found.per_month or 0), "prediction")
    return f"{found.tuned} is cheaper than {found.prompt} from {volume} a month on ({costs}; {once})"


def total_cost(line: ContenderVerdict) -> float | None:
    """Dollars for 1,000 predictions, training included; of an earlier release's verdict without it."""
    return line.money.total_usd_per_1000 if line.money else line.cost_usd_per_1000


def money_cells(line: ContenderVerdict) -> list[str]:
    """A line of the table of costs, as `MONEY` has it."""
    money = line.money
    assert money
    parts = (
        money.tokens_usd_per_1000,
        money.time_usd_per_1000,
        money.training_usd_per_1000,
        money.total_usd_per_1000,
        money.training_usd,
    )
    front = DASH if line.pareto is None else "yes" if line.pareto else ""
    speed = _speed(money.rows_per_second) if money.rows_per_second else DASH
    return [line.name, *(or_dash(part, dollars) for part in parts), speed, front]


def _front(verdict: Verdict) -> str:
    """Those that nobody beats in both cost and quality, the cheapest first."""
    front = [(total_cost(line) or 0.0, line) for line in verdict.contenders if line.pareto]
    front.sort(key=lambda pair: pair[0])
    metric = Metric(verdict.metric)
    figures = (f"{line.name} ({in_dollars(cost)}, {line.test.told(metric)})" for cost, line in front)
    return f"nobody beats in both cost and quality: {', '.join(figures)}"


def _guards(guards: Sequence[Guard]) -> str:
    held = [guard for guard in guards if guard.held]
    lost = [f"{guard.what} ({signed(guard)}, {guard.n} rows)" for guard in guards if not guard.held]
    return f"{len(held)} of {len(guards)} hold" + (f"; not {', '.join(lost)}" if lost else "")


def _looks(looks: Looks) -> str:
    times = f"{looks.contenders} contender{'' if looks.contenders == 1 else 's'} measured on these test rows so far"
    worn = "; test is worn: new labelled rows for it are due" if looks.worn else ""
    luck = f"had none been better, luck would have promoted one with a chance of up to {percent(looks.chance_of_luck)}"
    return f"{times}; {luck}{worn}"


def _speed(rows: float) -> str:
    """Three digits that count, never in powers of ten."""
    return f"{rows:.3g}" if rows < 1000 else f"{float(f'{rows:.3g}'):,.0f}"
