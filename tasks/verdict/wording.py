"""Figures in words; plain text, so whoever shows it escapes it."""

from tasks.records import Comparison, Guard


def percent(share: float) -> str:
    """A share as `79.2 %`."""
    return f"{100 * share:.1f} %"


def metric_words(metric: str) -> str:
    """A metric as people write it: `macro-F1`."""
    return {"macro_f1": "macro-F1", "brier": "Brier score", "ece": "expected calibration error"}.get(metric, metric)


def points(difference: float) -> str:
    """A difference of shares as `8.4 points more`, `1.0 points less`, or `as much`; rounded to what is shown."""
    shown = round(100 * difference, 1)
    return "as much" if shown == 0 else f"{abs(shown):.1f} points {'more' if shown > 0 else 'less'}"


def p_value(value: float) -> str:
    """Such as `p = 0.031`."""
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def gap(comparison: Comparison) -> str:
    """Such as `8.4 points more than tfidf [4.1, 12.6], p = 0.0003`; the interval is in points."""
    difference = points(comparison.difference)
    low, high = (100 * bound for bound in comparison.interval)
    return f"{difference} {'as' if difference == 'as much' else 'than'} {comparison.against} [{low:.1f}, {high:.1f}], " + p_value(
        comparison.p_value
    )


def signed(guard: Guard) -> str:
    """What a guard measured, with its sign: accuracy in points, calibration as it is."""
    return "not measured" if guard.difference is None else size(guard, guard.difference, "+")


def size(guard: Guard, value: float, sign: str = "") -> str:
    """A figure of a guard: accuracy in points, calibration as it is."""
    return format(value, f"{sign}.3f") if guard.what in ("brier", "ece") else format(100 * value, f"{sign}.1f")


def champion_label(name: str) -> str:
    """What the champion is called beside this run's contenders, one of which may have its name."""
    return f"{name} (champion)"
