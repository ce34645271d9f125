"""`bakeoff retrain`: is a new bake-off due, and why; and run it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cli.run import allow_roots, named_server, show_verdict, terminal_progress
from services.bench import check_names, opened
from tasks.config import load_config
from tasks.retraining.records import Retraining
from tasks.settings import load_settings

DUE = 3
"""Exit status of a dry run that found a reason."""


def retrain_bakeoff(config: Path, overrides: Sequence[str], because: str, dry_run: bool) -> Retraining:
    """Check what can be checked at once, then look, and run the bake-off where one is due and this is no dry run."""
    parsed = load_config(config, overrides)
    allow_roots(config)
    check_names(parsed, load_settings())
    if dry_run:
        from tasks.retraining.look import look

        with terminal_progress(), opened(parsed) as bench:
            found = look(parsed, because, bench.places, bench.workspace, bench.asking)
        return found.retraining()
    from flows.retrain import retrain

    with terminal_progress(), named_server():
        return retrain(parsed, because)


def show_retraining(found: Retraining, output: str, config: Path) -> None:
    """Write what was found, and the verdict where there is one, to standard output."""
    if output == "json":
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    from tasks.retraining.report import render_retraining

    Console().print(render_retraining(found))
    if found.verdict:
        show_verdict(found.verdict, output, config)
