"""Pictures of the verdict: differences with their intervals, cost against quality, and accuracy by slice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.records import Comparison, ContenderVerdict, Slice
from tasks.reporting.charts.drawing import ACCENT, FAINT, INK, LOSS, MARKS, SERIES, WIN, draw, finish, short, slug, spread
from tasks.verdict.money_report import total_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SMALLEST_SHOWN = 1e-4
"""Dollars for 1,000; less is as good as nothing, as in the tables."""


def draw_differences(found: Sequence[Comparison]) -> str:
    """A forest plot: a line a comparison, its point the difference, its bar the interval."""

    def paint(axes: "Axes") -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, each in enumerate(reversed(found)):
            low, high = (100 * bound for bound in each.interval)
            colour = WIN if low > 0 else LOSS if high < 0 else FAINT
            axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(100 * each.difference, place, "s", color=colour, markersize=7)
        names = [f"{short(each.contender, 18)}\nover {short(each.against, 22)}" for each in reversed(found)]
        axes.set_yticks(range(len(found)), names)
        axes.set_ylim(-0.6, len(found) - 0.4)
        finish(axes, f"points of {found[0].metric.replace('_', '-')}, with the interval", grid="x")

    said = "; ".join(f"{each.contender} over {each.against}: {100 * each.difference:+.1f} points" for each in found)
    return draw("differences", "Paired differences on the same test rows", said, 0.75 + 0.5 * len(found), paint)


def draw_front(lines: Sequence[tuple[ContenderVerdict, float, float]]) -> str:
    """Cost against quality, the front of those that nobody beats in both as a line.

    Args:
        lines: contenders with their cost for 1,000 and their figure, 0 to 1.
    """
    front = sorted(((cost, figure) for line, cost, figure in lines if line.pareto))
    least = max(SMALLEST_SHOWN, min((cost for _, cost, _ in lines if cost > 0), default=1.0))

    def paint(axes: "Axes") -> None:
        axes.plot([cost for cost, _ in front], [100 * figure for _, figure in front], color=ACCENT, linewidth=1, linestyle="--")
        right = max(cost for _, cost, _ in lines)
        taken: list[float] = []
        for line, cost, figure in sorted(lines, key=lambda each: each[2]):
            colour = ACCENT if line.pareto else FAINT
            axes.plot(cost, 100 * figure, "o", color=colour, markersize=8)
            aside = cost > (right * least) ** 0.5 if right > 0 else False
            move = 12 if any(abs(100 * figure - other) < 1.5 for other in taken) else 0
            taken.append(100 * figure)
            axes.annotate(
                short(line.name, 18),
                (cost, 100 * figure),
                xytext=(-8, 4 + move) if aside else (8, -12 - move),
                textcoords="offset points",
                ha="right" if aside else "left",
                color=INK,
            )
        if right > 20 * least:
            axes.set_xscale("symlog", linthresh=least)
            axes.xaxis.get_major_locator().set_params(numticks=6)  # type: ignore[call-arg]
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.margins(0.12, 0.15)
        finish(axes, "$ for 1,000 predictions, training included", "quality on test, %")

    said = "; ".join(f"{line.name}: ${cost:.4g} for 1,000, {100 * figure:.1f} %" for line, cost, figure in lines)
    return draw("front", "Cost against quality", said, 3.6, paint)


def draw_slices(column: str, found: Sequence[Slice], contenders: Sequence[str]) -> str:
    """Accuracy on parts of the test rows, a mark a contender, with intervals."""
    values = list(dict.fromkeys(each.value for each in found))

    def paint(axes: "Axes") -> None:
        step = 0.6 / max(1, len(contenders))
        for number, name in enumerate(contenders):
            mine = {each.value: each for each in found if each.contender == name}
            places = [len(values) - 1 - place + 0.3 - step * (number + 0.5) for place in range(len(values))]
            reach = spread([mine[value].accuracy for value in values], [mine[value].interval for value in values])
            style = {"fmt": MARKS[number % len(MARKS)], "color": SERIES[number % len(SERIES)]}
            axes.errorbar([100 * mine[value].accuracy for value in values], places, xerr=reach, label=f" {short(name)}", **style)  # type: ignore[arg-type]
        axes.set_yticks(range(len(values)), [short(value) for value in reversed(values)])
        axes.set_ylim(-0.6, len(values) - 0.4)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=3, labelcolor=INK)
        finish(axes, "accuracy on test, %, with the interval", grid="x")

    said = "; ".join(f"{each.contender} where {column} is {each.value}: {100 * each.accuracy:.1f} %" for each in found)
    height = 1.1 + len(values) * max(0.35, 0.16 * len(contenders))
    return draw(slug("slices", column), f"Accuracy by {column}", said, height, paint)


def cost_and_figure(line: ContenderVerdict, metric: str) -> tuple[float, float] | None:
    """Where a contender stands in the picture of cost and quality; None where a figure is not known."""
    cost, figure = total_cost(line), line.test.by(metric)
    return None if cost is None or figure is None else (cost, figure)
