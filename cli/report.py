"""`bakeoff runs`, `bakeoff report`: what runs left in the workspace."""

from collections.abc import Sequence
from pathlib import Path

from tasks.config import load_config
from tasks.reporting.page import write_report
from tasks.reporting.records import Run
from tasks.reporting.runs import find_run, list_runs
from tasks.settings import load_settings
from tasks.verdict.text import plain
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
