"""A prediction run for people: in the terminal, and as rows of tables for its page in Prefect."""

from typing import TYPE_CHECKING, Any

from tasks.predicting.records import PredictionReport

if TYPE_CHECKING:
    from rich.console import RenderableType


def file_rows(report: PredictionReport) -> list[dict[str, Any]]:
    """A row a file."""
    return [
        {"file": each.output, "rows": each.rows, "failed": sum(each.failures.values()), "cost $": round(each.cost_usd, 4)}
        for each in report.files
    ]


def count_rows(report: PredictionReport) -> list[dict[str, Any]]:
    """A row a label, then a row a kind of failure."""
    return [{"label": name, "rows": count} for name, count in {**report.labels, **report.failures}.items()]


def summary(report: PredictionReport) -> str:
    """What happened, in a sentence."""
    failed = sum(report.failures.values())
    by = f"{report.champion.contender}, version {report.champion.version} of {report.name}"
    return f"{report.rows} rows predicted by {by}; {failed or 'none'} without an answer"


def render_report(report: PredictionReport) -> "RenderableType":
    """The report for a terminal of 80 columns or more."""
    from rich.console import Group
    from rich.text import Text

    given = ", ".join(f"{count} {name}" for name, count in {**report.labels, **report.failures}.items())
    head = Text.assemble(("PREDICTED", "bold green"), "  ", (summary(report), "bold"))
    files = [Text(f"{each.output}{'  (reused)' if each.reused else ''}") for each in report.files]
    return Group(Text(), head, *files, Text(given), Text(f"spent ${report.spent_usd:.4f}", style="dim"))
