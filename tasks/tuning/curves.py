"""The picture of a training: its loss by step, and its accuracy on dev by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, ACCENT, SOFT = "#30475e", "#d1495b", "#9fb0c3"
Points = Sequence[Mapping[str, float]]


def draw_curves(title: str, losses: Points, epochs: Points, best: int, path: Path) -> None:
    """Write an SVG on a ground of its own, to be read on light and dark pages. The same curves give the same bytes.

    Args:
        losses: `epoch` (with its fraction) and `loss`, in order.
        epochs: `epoch`, `loss` (its mean) and `dev_accuracy`.
        best: the epoch whose weights were kept.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "bakeoff", "font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(8, 3.4), layout="constrained", facecolor="white")
        loss, accuracy = figure.subplots(1, 2)
        across = [epoch["epoch"] for epoch in epochs]
        loss.plot([each["epoch"] for each in losses], [each["loss"] for each in losses], color=SOFT, label="by step")
        line: dict[str, Any] = {"color": INK, "linewidth": 1.8, "marker": "o", "markersize": 4}
        loss.plot([each - 0.5 for each in across], [epoch["loss"] for epoch in epochs], label="by epoch", **line)
        loss.legend(frameon=False)
        _finish(loss, "loss on train", across)
        reached = [epoch["dev_accuracy"] for epoch in epochs]
        accuracy.plot(across, reached, **line)
        kept = reached[across.index(best)]
        accuracy.plot(best, kept, "o", color=ACCENT, markersize=9, label=f"kept: epoch {best}, {kept:.3f}")
        accuracy.legend(frameon=False, loc="best")
        _finish(accuracy, "accuracy on dev", across)
        figure.suptitle(title, fontsize=10, color=INK)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _finish(axes: "Axes", name: str, epochs: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(name, fontsize=10, loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(epochs) * 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
