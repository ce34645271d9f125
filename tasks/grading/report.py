"""A grading run for people: in the terminal, and as rows of tables for its page in Prefect."""

from typing import TYPE_CHECKING, Any

from tasks.grading.records import Agreement, GradingReport, Reworded
from tasks.grading.validation import not_validated

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("wording", "rows", "accuracy % [interval]", "kappa [interval]", "grades that stay %")
DASH = "—"


def agreement_rows(report: GradingReport) -> list[dict[str, Any]]:
    """The judge as it is worded, then each other wording: rows of one table. None where neither was measured."""
    rows = [_row("as it is", report.agreement, None)] if report.agreement or report.consistency else []
    return rows + [_reworded(number, each) for number, each in enumerate(_wordings(report), 1)]


def confusion_rows(report: GradingReport) -> list[dict[str, Any]]:
    """People's grades by the judge's."""
    confusion = report.agreement.confusion if report.agreement else {}
    return [{"people": human, **counts} for human, counts in confusion.items()]


def verdict_on_judge(report: GradingReport) -> str:
    """Whether the judge's grades prove anything, in a sentence."""
    return "this judge has been validated" if report.validated else not_validated(report.doubts)


def stayed_in_all(report: GradingReport) -> str:
    """How many grades stay in every wording."""
    found = report.consistency
    return f"{found.share:.1%} of {found.n} grades stay in every wording" if found else "no other wording was asked"


def render_report(report: GradingReport) -> "RenderableType":
    """The report for a terminal of 80 columns or more."""
    from rich.console import Group
    from rich.text import Text

    given = ", ".join(f"{count} {grade}" for grade, count in report.grades.items())
    failed = "".join(f", {count} {kind}" for kind, count in report.failures.items())
    head = Text.assemble(("GRADED", "bold green"), "  ", (f"{report.rows} rows by {report.judge}: {given}{failed}", "bold"))
    parts: list[Any] = [Text(), head, Text(report.output), Text()]
    for title, rows in (("agreement", agreement_rows(report)), ("people / judge", confusion_rows(report))):
        if rows:
            parts += [_table(title, rows), Text()]
    colour = "green" if report.validated else "yellow"
    return Group(
        *parts,
        Text(stayed_in_all(report)),
        Text(verdict_on_judge(report), style=colour),
        Text(f"spent ${report.spent_usd:.4f}", style="dim"),
    )


def _wordings(report: GradingReport) -> list[Reworded]:
    return report.consistency.wordings if report.consistency else []


def _reworded(number: int, each: Reworded) -> dict[str, Any]:
    return _row(f"shuffled {number}", each.agreement, each.stayed)


def _row(name: str, agreement: Agreement | None, stayed: float | None) -> dict[str, Any]:
    kappa = agreement.kappa if agreement else None
    interval = agreement.kappa_interval if agreement else None
    return {
        HEAD[0]: name,
        HEAD[1]: agreement.n if agreement else None,
        HEAD[2]: f"{100 * agreement.accuracy:.1f} {_interval(agreement.interval, 100, 1)}" if agreement else None,
        HEAD[3]: f"{kappa:.2f} {_interval(interval, 1, 2)}" if kappa is not None and interval else None,
        HEAD[4]: None if stayed is None else round(100 * stayed, 1),
    }


def _interval(interval: tuple[float, float], scale: int, digits: int) -> str:
    return f"[{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]"


def _table(title: str, rows: list[dict[str, Any]]) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, title=title, title_justify="left")
    for place, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*(Text(DASH if cell is None else str(cell)) for cell in row.values()))
    return table
