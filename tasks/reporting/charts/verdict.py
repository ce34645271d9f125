"""Pictures of the verdict: differences with their intervals, cost against quality, and accuracy by slice."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from tasks.records import Comparison, ContenderVerdict, Slice
from tasks.reporting.charts.drawing import ACCENT, FAINT, INK, LOSS, MARKS, SERIES, WIN, draw, finish, short, slug, spread
from tasks.verdict.money_report import total_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation


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
        from matplotlib.ticker import MaxNLocator

        axes.plot([cost for cost, _ in front], [100 * figure for _, figure in front], color=ACCENT, linewidth=1, linestyle="--")
        right = max(cost for _, cost, _ in lines)
        for line, cost, figure in lines:
            axes.plot(cost, 100 * figure, "o", color=ACCENT if line.pareto else FAINT, markersize=8)
        axes.margins(0.12, 0.15)
        if right > 20 * least:
            axes.set_xscale("symlog", linthresh=least)
            axes.set_xticks(_marks_of_sizes(*axes.get_xlim(), least))
        else:
            low, high = axes.get_xlim()
            wider = max(0.0, max(0.01 * right, SMALLEST_SHOWN / 10) - (high - low)) / 2  # or all marks would look the same
            axes.set_xlim(low - wider, high + wider)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.xaxis.set_major_formatter(lambda value, _: cost_mark(value))
        finish(axes, "$ for 1,000 predictions, training included", "quality on test, %")
        _name_marks(axes, [(line.name, cost, 100 * figure) for line, cost, figure in sorted(lines, key=lambda each: each[2])])

    said = "; ".join(f"{line.name}: ${cost_mark(cost)} for 1,000, {100 * figure:.1f} %" for line, cost, figure in lines)
    return draw("front", "Cost against quality", said, 3.6, paint)


def _name_marks(axes: "Axes", marks: Sequence[tuple[str, float, float]]) -> None:
    """A name beside each mark, below or above it on the side with more room: the first place where it lies on nothing else."""
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure
    figure.draw_without_rendering()  # where the marks are, once the rest has its place
    frame, point = axes.get_window_extent(), figure.dpi / 72
    at = [axes.transData.transform((across, up)) for _, across, up in marks]
    taken = [Bbox.from_extents(x - 4 * point, y - 4 * point, x + 4 * point, y + 4 * point) for x, y in at]
    for (name, across, up), (x, _) in zip(marks, at, strict=True):
        note = axes.annotate(short(name, 18), (across, up), (0, 0), textcoords="offset points", color=INK)
        sides = (-8, 8) if x > (frame.x0 + frame.x1) / 2 else (8, -8)
        places = [(side, rise) for side in sides for rise in (-12, 4, -24, 16, -36, 28)]

        def lies(place: tuple[int, int], note: "Annotation" = note) -> tuple[int, "Bbox"]:
            note.set(position=place, ha="left" if place[0] > 0 else "right")
            box = note.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            return box.count_overlaps(taken) + (not inside), box

        best = min(places, key=lambda place: lies(place)[0])
        taken.append(lies(best)[1])


def cost_mark(value: float) -> str:
    """A cost at a mark of the axis, with as many digits as count; never in powers of ten."""
    return f"{Decimal(f'{value:.5g}').normalize():,f}"


def _marks_of_sizes(low: float, high: float, least: float) -> list[float]:
    """Where to mark an axis of sizes: at powers of ten, between them too where few are in view, and at most five in all."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(high))
    bottom = least if low <= 0 else low
    powers = [10.0**power for power in range(first, last + 1)]
    shown = [value for value in powers if bottom <= value <= high]
    if len(shown) < 3:
        shown = [value * part for value in powers for part in (1, 2, 5) if bottom <= value * part <= high]
    return [*([0.0] if low <= 0 else []), *shown[:: math.ceil(len(shown) / 4)]]


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
