"""What the rows show: confusions, calibration, slices, disagreement, failures."""

from collections.abc import Mapping, Sequence

from tasks.records import Verdict
from tasks.reporting.charts.contenders import MOST_LABELS, NO_ANSWER
from tasks.reporting.charts.drawing import slug
from tasks.reporting.parts import Chart, Section, Table
from tasks.reporting.records import Confusion, Evidence

MOST_CONFUSED = 15
GONE = "The rows of this run are no longer in the workspace, so this cannot be shown."


def confusion_section(evidence: Evidence | None, pictures: Mapping[str, str]) -> Section | None:
    """What each contender takes for what; None for free text."""
    title = "What was taken for what"
    if evidence is None:
        return Section(title, [GONE])
    readings = [each for each in evidence.readings if each.confusion]
    if not readings:
        return None
    drawn, listed = [], []
    for each in readings:
        assert each.confusion
        picture = pictures.get(slug("confusion", each.contender))
        if picture:
            drawn.append(Chart(each.contender, picture, _matrix(each.contender, each.confusion)))
        else:
            listed.append(_most_confused(each.contender, each.confusion))
    said = ["Test rows by their right label (down) and the answer (across)."] if drawn else []
    said += [f"With more than {MOST_LABELS} labels, the pairs that are taken for each other most often."] if listed else []
    return Section(title, said, charts=drawn, tables=listed, drawn=["A row's shades are shares of it."] if drawn else [])


def reliability_section(verdict: Verdict, evidence: Evidence | None, pictures: Mapping[str, str]) -> Section | None:
    """How far probabilities can be believed; None where nobody gives any."""
    readings = [each for each in evidence.readings if each.bins] if evidence else []
    if not readings:
        return None
    head = ("probability", "rows", "mean probability", "share right")
    charts = []
    for each in readings:
        rows = [
            [f"{bin.low:.1f} to {bin.high:.1f}", f"{bin.rows:,}", f"{bin.probability:.3f}", f"{bin.right:.3f}"] for bin in each.bins
        ]
        table = Table(f"Reliability of {each.contender}", head, rows)
        charts.append(Chart(each.contender, pictures[slug("reliability", each.contender)], table))
    figures = [
        [line.name, f"{line.test.brier:.3f}", f"{line.test.ece:.3f}"]
        for line in verdict.contenders
        if line.test.brier is not None and line.test.ece is not None
    ]
    tables = [Table("Calibration on test; less is better", ("contender", "Brier score", "expected calibration error"), figures)]
    drawn = ["On the dashed line a contender is right as often as it says; under it, it is too sure. Larger marks mean more rows."]
    return Section("How far probabilities can be believed", drawn=drawn, charts=charts, tables=tables if figures else [])


def slices_section(verdict: Verdict, pictures: Mapping[str, str]) -> Section | None:
    """Accuracy on parts of the rows; None where there are none."""
    charts = []
    names = [line.name for line in verdict.contenders]
    for column in dict.fromkeys(each.column for each in verdict.slices):
        found = {(each.value, each.contender): each for each in verdict.slices if each.column == column}
        rows = []
        for value in dict.fromkeys(value for value, _ in found):
            cells = [found.get((value, name)) for name in names]
            rows.append(
                [
                    value,
                    f"{next(each.n for each in cells if each):,}",
                    *(f"{100 * each.accuracy:.1f}" if each else "" for each in cells),
                ]
            )
        picture = pictures.get(slug("slices", column))
        if picture:
            charts.append(Chart(f"By {column}", picture, Table(f"Accuracy by {column}, %", ("rows", "n", *names), rows)))
    if not charts:
        return None
    return Section("Accuracy by slice", drawn=["The finalists are drawn; the tables have everybody."], charts=charts)


def differing_section(evidence: Evidence | None) -> Section:
    """The rows on which contenders differ."""
    title = "Where contenders disagree"
    if evidence is None:
        return Section(title, [GONE])
    said = f"On {evidence.differing:,} of {evidence.of:,} test rows {', '.join(evidence.voters)} do not all answer the same"
    if not evidence.shown:
        return Section(title, [f"{said}."])
    return Section(title, [f"{said}; {len(evidence.shown)} of these, the most evenly divided first."], rows=evidence.shown)


def failures_section(verdict: Verdict, evidence: Evidence | None) -> Section:
    """Rows without a usable answer."""
    title = "What failed"
    counted: Sequence[tuple[str, Mapping[str, int]]] = [(line.name, line.failures) for line in verdict.contenders]
    rows = [[name, kind, f"{count:,}"] for name, kinds in counted for kind, count in sorted(kinds.items())]
    if not rows:
        return Section(title, ["Nothing: every contender gave a usable answer to every row."])
    table = Table("Rows without a usable answer, dev and test together", ("contender", "why", "rows"), rows, words=2)
    shown = [row for each in evidence.readings for row in each.failed] if evidence else []
    said = [f"Such a row counts as wrong. {'Some of them, with what was said:' if shown else ''}".strip()]
    return Section(title, said, tables=[table], rows=shown)


def _matrix(contender: str, found: Confusion) -> Table:
    count = len(found.labels)
    cells = {(right, answer): rows for right, answer, rows in found.cells}
    answers = count + any(answer == count for _, answer, _ in found.cells)
    rows = [
        [label, *(f"{cells.get((right, answer), 0):,}" for answer in range(answers))] for right, label in enumerate(found.labels)
    ]
    return Table(f"{contender}: right label down, answer across", ("right", *[*found.labels, NO_ANSWER][:answers]), rows)


def _most_confused(contender: str, found: Confusion) -> Table:
    wrong = sorted((cell for cell in found.cells if cell[0] != cell[1]), key=lambda cell: -cell[2])[:MOST_CONFUSED]
    names = [*found.labels, NO_ANSWER]
    rows = [[names[right], names[answer], f"{rows:,}"] for right, answer, rows in wrong]
    return Table(f"{contender}: taken for each other most often", ("right", "answered", "rows"), rows, words=2)
