"""`bakeoff runs`, `bakeoff report`, `bakeoff compare`: what runs left in the workspace."""

from collections.abc import Sequence
from pathlib import Path

from tasks.config import load_config
from tasks.reporting.compare import Beside, RunsBeside, compare_runs
from tasks.reporting.page import write_report
from tasks.reporting.records import Run
from tasks.reporting.runs import find_run, list_runs
from tasks.settings import load_settings
from tasks.verdict.text import DASH, plain
from tasks.verdict.wording import p_value
from tasks.workspace import Workspace


def report_of(run: str, to: Path | None) -> tuple[str, Path]:
    """Write a run's report. Returns the run's id and the file.

    Raises:
        BadConfig: there is no such run, or several.
        IntegrityError: what was kept of it cannot be read.
    """
    workspace = Workspace(load_settings().home / "workspace")
    folder = find_run(workspace.root, run)
    return folder.name, write_report(folder, workspace, to.absolute() if to else None)


def runs_of(config: Path | None) -> list[Run]:
    """The runs of the workspace, or of one config's bake-off, the newest first. Raises as `report_of`."""
    return list_runs(load_settings().home / "workspace", load_config(config, ()).name if config else "")


def show_runs(runs: Sequence[Run]) -> None:
    """A table for people; a path is too long for one, so it stands under its run."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    if not runs:
        console.print("There is no run yet: `bakeoff run CONFIG` makes one.", markup=False)
    for run in runs:
        won = f", {run.winner} won" if run.winner else ""
        decided = f"{run.decision.value.replace('_', ' ')}{won}"
        line = f"{run.run_id}  {run.name}  {run.created:%Y-%m-%d %H:%M}  {decided}  ${run.spent_usd:.4f}"
        console.print(Text(plain(line)))
        console.print(Text(f"    {plain(run.report or run.path)}", style="dim"))


def compare(first: str, second: str) -> RunsBeside:
    """Two runs beside each other. Raises as `report_of`."""
    workspace = load_settings().home / "workspace"
    return compare_runs(find_run(workspace, first), find_run(workspace, second), workspace)


def show_comparison(found: RunsBeside) -> None:
    """A table for people, a contender a line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for place, side in (("first", found.first), ("second", found.second)):
        console.print(Text(plain(f"{place}   {side.run_id}  {side.name}  {side.decision.value.replace('_', ' ')}"), style="bold"))
        console.print(Text(f"        {plain(side.reason)}"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for number, column in enumerate(("contender", "first, test %", "second, test %", "points more [interval]", "p")):
        table.add_column(Text(column), justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for each in found.contenders:
        table.add_row(*(Text(plain(cell)) for cell in _cells(each)))
    console.print(table)
    if found.same_rows:
        said = "On the same test rows: how much more the second has right; p is of one comparison, not corrected for several."
    else:
        said = f"Not comparable row by row: {found.why_not}. The figures stand beside each other, no more."
    console.print(Text(plain(said), style="dim"))


def _cells(each: Beside) -> list[str]:
    name = each.first or each.second or ""
    name = name if each.first == each.second or not (each.first and each.second) else f"{each.second} over {each.first}"
    figures = [f"{100 * scores.accuracy:.1f}" if scores else DASH for scores in (each.first_test, each.second_test)]
    if each.same:
        return [name, *figures, "the same contender", DASH]
    if not each.comparison:
        return [name, *figures, DASH, DASH]
    low, high = (100 * bound for bound in each.comparison.interval)
    shown = f"{100 * each.comparison.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [name, *figures, shown, p_value(each.comparison.p_value).removeprefix("p ").removeprefix("= ")]
