"""Pictures of one contender: what it confuses, how far its probabilities can be believed, and how it learned."""

import math
from typing import TYPE_CHECKING

from tasks.records import CurveRecord, SweepRecord, TrainingFacts
from tasks.reporting.charts.drawing import ACCENT, FAINT, INK, MARKS, WIN, draw, finish, lean_names, short, slug, spread
from tasks.reporting.records import Bin, Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = 3.6
"""Inches of a picture that stands beside others."""
MOST_LABELS = 20
"""Of a confusion matrix that is drawn."""
SMALLEST_NUMBER = 6
"""Points."""
NO_ANSWER = "no answer"
NARROW, WIDE = 0.35, 1.3
"""Decades of learning rates: below, only the ends have numbers; beyond, only the powers of ten."""


def draw_confusion(contender: str, found: Confusion) -> str:
    """A square a pair of labels: the darker, the larger its share of the rows with this right label."""
    count = len(found.labels)
    columns = [*found.labels, *([NO_ANSWER] if any(answer == count for _, answer, _ in found.cells) else [])]
    totals = [sum(rows for right, _, rows in found.cells if right == place) for place in range(count)]

    def paint(axes: "Axes") -> None:
        from matplotlib.patches import Rectangle

        for right, answer, rows in found.cells:
            shade = 0.08 + 0.47 * rows / totals[right]
            axes.add_patch(Rectangle((answer, right), 1, 1, facecolor=WIN if right == answer else ACCENT, alpha=shade, linewidth=0))
            if count <= 10:
                axes.text(answer + 0.5, right + 0.5, f"{rows:,}", ha="center", va="center", fontsize=10 if count <= 5 else 8)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(count, 0)
        names = [short(label, 16) for label in columns]
        axes.set_xticks([place + 0.5 for place in range(len(columns))], names)
        axes.set_yticks([place + 0.5 for place in range(count)], names[:count])
        axes.tick_params(length=0, labelsize=9 if count <= 10 else 7)
        finish(axes, "answered", "right")
        axes.grid(visible=False)
        lean_names(axes)
        _fit_numbers(axes)

    said = "; ".join(f"right {found.labels[right]}, answered {columns[answer]}: {rows}" for right, answer, rows in found.cells[:40])
    height = 2.6 if count < 4 else 3.2 + 0.08 * count
    return draw(slug("confusion", contender), f"What {contender} answered, by what is right", said, height, paint, SMALL)


def _fit_numbers(axes: "Axes") -> None:
    """Make the numbers in the squares as small as the widest of them needs to be; leave them out where nobody could read them."""
    widest = max((text.get_window_extent().width for text in axes.texts), default=0.0)
    square = axes.get_window_extent().width / axes.get_xlim()[1]
    if widest <= 0.9 * square:
        return
    for text in list(axes.texts):
        size = float(text.get_fontsize()) * 0.9 * square / widest
        if size < SMALLEST_NUMBER:
            text.remove()
        else:
            text.set_fontsize(size)


def draw_reliability(contender: str, bins: list[Bin]) -> str:
    """The share that was right against the probability that was given, the larger the mark the more rows."""
    most = max(each.rows for each in bins)

    def paint(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
        axes.plot([each.probability for each in bins], [each.right for each in bins], color=ACCENT, linewidth=1)
        for each in bins:
            axes.plot(each.probability, each.right, "o", color=ACCENT, markersize=3 + 9 * (each.rows / most) ** 0.5)
        axes.set_xlim(-0.03, 1.05)
        axes.set_ylim(-0.03, 1.05)
        finish(axes, "probability it gave its answer", "share that was right")

    said = "; ".join(f"{each.rows} rows at {each.probability:.2f}: {each.right:.2f} right" for each in bins)
    return draw(slug("reliability", contender), f"How far {contender}'s probabilities can be believed", said, 3.2, paint, SMALL)


def draw_loss(contender: str, facts: TrainingFacts) -> str:
    """Loss on train, by step and by epoch."""

    def paint(axes: "Axes") -> None:
        axes.plot([each["epoch"] for each in facts.losses], [each["loss"] for each in facts.losses], color=FAINT, label="by step")
        across = [each["epoch"] - 0.5 for each in facts.epochs]
        axes.plot(across, [each["loss"] for each in facts.epochs], "o-", color=ACCENT, markersize=4, label="by epoch")
        axes.legend(frameon=False, labelcolor=INK)
        finish(axes, "epoch", "loss on train")

    said = "; ".join(f"epoch {each['epoch']:g}: loss {each['loss']:.3f}" for each in facts.epochs)
    return draw(slug("loss", contender), f"Loss of {contender} on train", said, 2.8, paint, SMALL)


def draw_epochs(contender: str, facts: TrainingFacts) -> str:
    """Accuracy on dev by epoch, and the epoch that was kept."""

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        across, reached = [each["epoch"] for each in facts.epochs], [100 * each["dev_accuracy"] for each in facts.epochs]
        axes.plot(across, reached, "o-", color=ACCENT, markersize=4)
        kept = reached[across.index(facts.best_epoch)]
        axes.plot(facts.best_epoch, kept, "o", color=WIN, markersize=10, label=f"kept: epoch {facts.best_epoch}")
        axes.set_xlim(0.5, max(across) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.legend(frameon=False, labelcolor=INK)
        finish(axes, "epoch", "accuracy on dev, %")

    said = "; ".join(f"epoch {each['epoch']:g}: {100 * each['dev_accuracy']:.1f} % on dev" for each in facts.epochs)
    return draw(slug("epochs", contender), f"Accuracy of {contender} on dev", said, 2.8, paint, SMALL)


def draw_learning(contender: str, curve: CurveRecord) -> str:
    """Accuracy on dev against train rows."""

    def paint(axes: "Axes") -> None:
        rows, found = [each.rows for each in curve.points], [100 * each.dev_accuracy for each in curve.points]
        reach = spread([each.dev_accuracy for each in curve.points], [each.interval for each in curve.points])
        axes.errorbar(rows, found, reach, fmt="o-", color=ACCENT, capsize=3, markersize=5)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows, [f"{at:,}" for at in rows])
        axes.minorticks_off()
        finish(axes, "train rows", "accuracy on dev, %")

    return draw(slug("learning", contender), f"How {contender} grows with its rows", curve.sentence, 2.8, paint, SMALL)


def draw_search(contender: str, sweep: SweepRecord) -> str:
    """Accuracy on dev against learning rate, a mark a trial: its shape by targets, hollow where it was given up, the chosen one
    ringed."""
    told = [(trial, trial.dev_accuracy) for trial in sweep.trials if trial.dev_accuracy is not None]
    targets = list(dict.fromkeys(trial.targets for trial, _ in told))

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        rates = [trial.learning_rate for trial, _ in told]
        decades = math.log10(max(rates) / min(rates))
        for trial, accuracy in told:
            face = ACCENT if trial.outcome == "complete" else "none"
            mark = MARKS[targets.index(trial.targets) % len(MARKS)]
            axes.plot(trial.learning_rate, 100 * accuracy, mark, color=ACCENT, markerfacecolor=face, markersize=6)
            if trial.number == sweep.chosen:
                said = f"chosen: rank {trial.rank}"
                axes.plot(trial.learning_rate, 100 * accuracy, "o", color=WIN, markersize=12, fillstyle="none", mew=1.6, label=said)
        for place, name in enumerate(targets if 1 < len(targets) <= len(MARKS) else []):  # else the table has them
            axes.plot([], [], MARKS[place], color=ACCENT, linestyle="none", label=short(name))
        if any(trial.outcome != "complete" for trial, _ in told):
            axes.plot([], [], "o", color=ACCENT, markerfacecolor="none", linestyle="none", label="given up")
        axes.set_xscale("log")
        if decades < NARROW:
            axes.set_xticks(sorted({min(rates), max(rates)}))
            axes.set_xlim(min(rates) / 1.3, max(rates) * 1.3)
        else:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if decades < WIDE else (1,), numticks=5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, labelcolor=INK, fontsize=8)
        finish(axes, "learning rate", "accuracy on dev, %")
        lean_names(axes)

    said = "; ".join(
        f"{trial.learning_rate:.3g}, rank {trial.rank}, {trial.targets}: {100 * accuracy:.1f} % on dev ({trial.outcome})"
        for trial, accuracy in told
    )
    return draw(slug("search", contender), f"What the search for {contender} tried", said, 3.4, paint, SMALL)
