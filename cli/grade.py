"""`bakeoff grade`: a file of answers in, the same file with grades out."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.run import allow_roots, named_server, terminal_progress
from tasks.config import load_config
from tasks.grading.grade import check_request, choose_prompt
from tasks.settings import load_settings

if TYPE_CHECKING:
    from tasks.grading.records import GradingReport


def grade_answers(
    config: Path, overrides: Sequence[str], input_file: Path, output_file: Path, prompt: str, champion: bool, wordings: int
) -> "GradingReport":
    """Check what can be checked at once, then run the flow; the file's folder is readable for it as well."""
    parsed = load_config(config, overrides)
    allow_roots(config)
    os.environ["BAKEOFF_ROOTS"] += os.pathsep + str(input_file.absolute().parent)
    settings = load_settings()
    settings.check_home()
    places = str(input_file.absolute()), str(output_file.absolute())
    chosen = choose_prompt(parsed, prompt, champion, settings)
    if chosen:
        check_request(parsed, *places, own_process=True, settings=settings)
    from flows.grade import grade

    with terminal_progress(), named_server():
        return grade(parsed, *places, chosen.name if chosen else "", champion, wordings)


def show_report(report: "GradingReport", output: str) -> None:
    """Write the report to standard output."""
    if output == "json":
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    from tasks.grading.report import render_report

    Console().print(render_report(report))
