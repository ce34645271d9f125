"""What a new champion must be shown to be no worse at than the old one: parts of the rows, and calibration."""

from collections.abc import Callable, Iterator, Sequence

from tasks.config import Gate
from tasks.evaluation.clusters import design_effect
from tasks.records import Difference, Guard, Slice
from tasks.verdict.contestants import Contestant, Rows
from tasks.verdict.measures import both_sure, brier_difference, ece_difference
from tasks.verdict.power import rows_by_interval, rows_to_bound
from tasks.verdict.statistics import pair, wilson

Measure = Callable[[Contestant, Contestant, Rows, float], Difference | None]


def find_guards(gate: Gate, contender: Contestant, champion: Contestant, label: str, rows: Rows) -> list[Guard]:
    """Everything that the gate's margins ask, held or not. Nothing is corrected for how many there are: all must hold, so more of
    them only make it harder.

    Args:
        label: what the champion is called.
    """
    found = [
        _slice_guard(gate, contender, champion, label, f"{column} = {value}", places, rows)
        for column in gate.slices
        for value, places in rows.of(column, gate.slice_rows).items()
    ]
    asked: list[tuple[str, float | None, Measure]] = [
        ("brier", gate.brier_margin, brier_difference),
        ("ece", gate.ece_margin, ece_difference),
    ]
    for name, margin, measure in asked:
        if margin is not None:
            # what is drawn again from a handful is far too sure:
            lacking = rows.lacking(both_sure(contender, champion), gate.minimum_rows)
            difference = measure(contender, champion, rows, gate.alpha)
            found.append(_calibration_guard(name, margin, difference, contender, champion, label, lacking, gate.alpha))
    return found


def find_slices(gate: Gate, contestants: Sequence[Contestant], rows: Rows) -> list[Slice]:
    """Every contender's accuracy on every slice of the rows."""
    return [found for each in contestants for column in rows.slices for found in _slices(gate, each, column, rows)]


def _slices(gate: Gate, each: Contestant, column: str, rows: Rows) -> Iterator[Slice]:
    for value, places in rows.of(column, gate.slice_rows).items():
        right, codes = each.right[places], rows.codes(places)
        effect = 1.0 if codes is None else design_effect(right.astype(float), codes)
        yield Slice(
            contender=each.name,
            column=column,
            value=value,
            n=len(places),
            accuracy=float(right.mean()),
            interval=wilson(right.sum() / effect, len(places) / effect, gate.alpha),
        )


def _slice_guard(
    gate: Gate, contender: Contestant, champion: Contestant, label: str, what: str, places: list[int], rows: Rows
) -> Guard:
    both = pair(contender.right[places], champion.right[places], rows.codes(places))
    low, high = both.interval(gate.alpha)
    held = True if low > -gate.slice_margin else False if high < -gate.slice_margin else None
    distance = min(both.difference, 0.0) + gate.slice_margin  # a lead on few rows is not planned with
    wanted = rows_to_bound(both.effective, distance, gate.alpha) * both.counts.n / both.effective.n if distance > 0 else 0
    return Guard(
        contender=contender.name,
        against=label,
        what=what,
        margin=gate.slice_margin,
        difference=both.difference,
        interval=(low, high),
        n=len(places),
        held=held,
        more_rows=max(1, round(wanted) - len(places)) if held is None and distance > 0 else None,
    )


def _calibration_guard(
    what: str,
    margin: float,
    found: Difference | None,
    contender: Contestant,
    champion: Contestant,
    label: str,
    lacking: int,
    alpha: float,
) -> Guard:
    """Less is better here. Two that do not differ at all have no interval, and none is worse.

    Args:
        lacking: rows for want of which nothing is shown.
    """
    same = found is not None and found.interval is None and contender.probabilities == champion.probabilities
    held: bool | None = True if same else None
    if found and found.interval:
        held = True if found.interval[1] < margin else False if found.interval[0] > margin else None
    if lacking:
        held = None
    distance, more = margin - max(found.difference, 0.0) if found else 0.0, lacking
    if held is None and not lacking and found and found.interval and distance > 0:
        more = max(1, rows_by_interval(found.n, found.interval, 0.0, distance, alpha))
    return Guard(
        contender=contender.name,
        against=label,
        what=what,
        margin=margin,
        difference=found.difference if found else None,
        interval=found.interval if found else None,
        n=found.n if found else 0,
        held=held,
        more_rows=more or None,
    )
