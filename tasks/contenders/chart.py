"""The picture of a routing hybrid: what asking more would have cost on dev, and what it would have given."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tasks.contenders.hybrid import Point

INK, ACCENT = "#30475e", "#d1495b"


def draw_routing(curve: "Sequence[Point]", threshold: float, path: Path) -> None:
    """Write an SVG: accuracy against dollars for 1,000 rows, or against the share of rows asked where cost is not known or does
    not differ. The same curve gives the same bytes.

    Args:
        curve: from never asking to always asking.
        threshold: the one that was chosen, one of the curve's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    costs = [point.usd_per_1000 for point in curve]
    priced = None not in costs and len(set(costs)) > 1
    across = [point.usd_per_1000 or 0.0 if priced else 100 * point.share_asked for point in curve]
    chosen = next(place for place, point in enumerate(curve) if point.threshold == threshold)
    with matplotlib.rc_context({"svg.hashsalt": "bakeoff", "font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(across, [point.accuracy for point in curve], color=INK, linewidth=1.5, marker=".", markersize=5)
        for place, name in ((0, "never asks"), (len(curve) - 1, "always asks")):
            _name(axes, across[place], curve[place].accuracy, name, place == 0)
        point = curve[chosen]
        said = f"chosen: threshold {threshold:.3g}, asks {point.share_asked:.0%}, accuracy {point.accuracy:.3f}"
        axes.plot(across[chosen], point.accuracy, "o", color=ACCENT, markersize=9, label=said)
        axes.set_xlabel("dollars for 1,000 rows (dev)" if priced else "rows asked, % (dev)")
        axes.set_ylabel("accuracy (dev)")
        axes.margins(x=0.2, y=0.1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _name(axes: "Axes", across: float, up: float, text: str, first: bool) -> None:
    """A word outside one end of the curve, where no line crosses it."""
    axes.annotate(
        text,
        (across, up),
        xytext=(-8 if first else 8, 0),
        textcoords="offset points",
        ha="right" if first else "left",
        va="center",
        color=INK,
    )
