"""The pictures of a search and of a learning curve, as SVG; the same figures give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.records import CurveRecord, SweepRecord, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, ACCENT, FAINT = "#30475e", "#d1495b", "#b9c2cb"
RANKS = ("#8fb8de", "#4f86c6", "#2c5f9e", "#1b3a63", "#0b1d33")
MARKS = ("o", "s", "^", "D", "v", "P")


def draw_sweep(sweep: SweepRecord, path: Path) -> None:
    """Dev accuracy against learning rate, a mark a trial (colour by rank, shape by targets, hollow where it was given up), beside
    dev accuracy by epoch."""
    best = sweep.trials[sweep.chosen]
    with _figure(path, 10, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        _draw_trials(left, sweep, best)
        for trial in sorted(sweep.trials, key=lambda each: each.outcome == "complete"):
            epochs, style = range(1, len(trial.epochs) + 1), {"complete": "-", "pruned": ":"}.get(trial.outcome, ":")
            colour = ACCENT if trial is best else INK if trial.outcome == "complete" else FAINT
            width = 2.2 if trial is best else 1.0
            right.plot(epochs, trial.epochs, style, color=colour, linewidth=width, marker=".", zorder=3 if trial is best else 2)
        right.set_xlabel("epoch (dotted: given up)")
        right.set_ylabel("accuracy (dev)")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.grid(alpha=0.25)
        right.spines[["top", "right"]].set_visible(False)


def draw_curve(curve: CurveRecord, dev_rows: int, path: Path) -> None:
    """Dev accuracy with its intervals against train rows, and the law through it, dashed up to twice the rows."""
    import numpy

    from tasks.tuning.learning_curve import accuracy_at

    rows = [point.rows for point in curve.points]
    found = [point.dev_accuracy for point in curve.points]
    with _figure(path, 7, 4.4) as figure:
        axes = figure.add_subplot()
        low = [point.dev_accuracy - point.interval[0] for point in curve.points]
        high = [point.interval[1] - point.dev_accuracy for point in curve.points]
        axes.errorbar(rows, found, [low, high], fmt="o", color=INK, capsize=3, markersize=5, label="dev accuracy, 95 % interval")
        law = [(float(at), accuracy_at(curve.intercept, curve.slope, at)) for at in numpy.geomspace(rows[0], 2 * rows[-1], 60)]
        known = [point for point in law if point[0] <= rows[-1]]
        axes.plot(*zip(*known, strict=True), color=INK, linewidth=1)
        axes.plot(*zip(*law[len(known) - 1 :], strict=True), "--", color=ACCENT, linewidth=1.2, label="with twice the labels")
        axes.plot(2 * rows[-1], law[-1][1], "o", color=ACCENT, markersize=6)
        axes.set_xscale("log", base=2)
        axes.set_xticks([*rows, 2 * rows[-1]], [f"{at:,}" for at in [*rows, 2 * rows[-1]]])
        axes.set_xlabel("train rows")
        axes.set_ylabel(f"accuracy ({dev_rows:,} dev rows)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)


def _draw_trials(axes: "Axes", sweep: SweepRecord, best: Trial) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    ranks = sorted({trial.rank for trial in sweep.trials})
    targets = list(dict.fromkeys(trial.targets for trial in sweep.trials))
    for trial in sweep.trials:
        if trial.dev_accuracy is None:
            continue
        colour = RANKS[min(ranks.index(trial.rank), len(RANKS) - 1)]
        face = colour if trial.outcome == "complete" else "none"
        mark = MARKS[targets.index(trial.targets) % len(MARKS)]
        axes.plot(trial.learning_rate, trial.dev_accuracy, mark, color=colour, markerfacecolor=face, markersize=6)
    said = f"chosen: {best.learning_rate:.3g}, rank {best.rank}, {100 * (best.dev_accuracy or 0):.1f} %"
    axes.plot(best.learning_rate, best.dev_accuracy or 0, "o", color=ACCENT, markersize=13, fillstyle="none", mew=1.8, label=said)
    for place, rank in enumerate(ranks if len(ranks) > 1 else []):
        axes.plot([], [], "o", color=RANKS[min(place, len(RANKS) - 1)], label=f"rank {rank}")
    for place, name in enumerate(targets if len(targets) > 1 else []):
        axes.plot([], [], MARKS[place % len(MARKS)], color=FAINT, label=name)
    if any(trial.outcome == "pruned" for trial in sweep.trials):
        axes.plot([], [], "o", color=INK, markerfacecolor="none", label="given up")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate")
    axes.set_ylabel("accuracy (dev)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=3, fontsize=8)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure that is written when the `with` ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "bakeoff", "font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None})
