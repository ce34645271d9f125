"""`bakeoff predict`: label a few texts, or files of rows, with the champion, of whatever kind it is."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.run import allow_roots, named_server, terminal_progress
from services.bench import Bench, opened
from tasks.config import BakeoffConfig, load_config
from tasks.errors import BadConfig
from tasks.records import Answer, ContenderRecord, Example
from tasks.settings import load_settings
from tasks.workspace import digest

if TYPE_CHECKING:
    from tasks.predicting.records import PredictionReport

Row = dict[str, str]


def rows_to_label(
    config: Path, overrides: Sequence[str], texts: Sequence[str], inputs: Sequence[str]
) -> tuple[BakeoffConfig, list[Row]]:
    """The config, and the rows of `--text` and `--input`.

    Raises:
        BadConfig: there is nothing to label, or the columns are not the config's.
    """
    parsed = load_config(config, overrides)
    columns = parsed.dataset.inputs
    rows = [_row_of_text(text, columns) for text in texts] + ([_row_of_columns(inputs, columns)] if inputs else [])
    if not rows:
        raise BadConfig(f"there is nothing to label: give --text, or --input COLUMN=TEXT for each of {', '.join(columns)}")
    for row in rows:
        for column, text in row.items():
            if not text.strip():
                raise BadConfig(f"{column} is empty: give the text to label")
    return parsed, rows


def predict_files(
    config: Path, overrides: Sequence[str], texts: Sequence[str], inputs: Sequence[str], to: Path, prefix: str, quick: bool
) -> "PredictionReport":
    """Check what can be checked at once, then run the flow; the input's folder is readable for it as well.

    Raises:
        BadConfig: `--to` comes without exactly one `--input`, or with `--text`.
    """
    from tasks.predicting.files import find_files

    parsed = load_config(config, overrides)
    if texts or len(inputs) != 1:
        raise BadConfig("--to takes one --input with the file or folder of rows, and no --text")
    allow_roots(config)
    source = Path(inputs[0]).absolute()
    os.environ["BAKEOFF_ROOTS"] += os.pathsep + str(source.parent)
    places = str(source), str(to.absolute())
    find_files(*places, own_process=True, settings=load_settings(), prefix=prefix)
    from flows.predict import predict

    with terminal_progress(), named_server():
        return predict(parsed, *places, prefix, quick)


def show_report(report: "PredictionReport", output: str) -> None:
    """Write the report to standard output."""
    if output == "json":
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    from tasks.predicting.report import render_report

    Console().print(render_report(report))


def predict_rows(config_path: Path, config: BakeoffConfig, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The champion's answers, in the rows' order.

    Raises:
        BadConfig: there is no champion yet.
        StoreError, EndpointError: the store, or for a prompt the endpoint, is out of reach.
    """
    from tasks.registry.champion import champion_contender

    allow_roots(config_path)
    with opened(config) as bench:
        champion = champion_contender(bench.places, config.store, config.name, bench.workspace)
        if champion is None:
            raise BadConfig(
                f"{config.name} has no champion yet: `bakeoff run {config_path}` publishes one when the evidence is there"
            )
        answers = _ask(champion, rows, bench)
    return [{"inputs": row, **_shown(answer)} for row, answer in zip(rows, answers, strict=True)]


def _ask(champion: ContenderRecord, rows: Sequence[Row], bench: Bench) -> list[Answer]:
    from tasks.contenders.loader import load_contender

    examples = [Example(example=digest(row), row=number, inputs=row, label=None) for number, row in enumerate(rows, 1)]
    return load_contender(champion.folder, bench.asking(champion), bench.settings).predict(examples)


def _shown(answer: Answer) -> dict[str, Any]:
    return answer.model_dump(mode="json", include={"label", "probability", "answer", "failure"})


def _row_of_text(text: str, columns: Sequence[str]) -> Row:
    if len(columns) != 1:
        raise BadConfig(f"--text gives one column, but the inputs are {', '.join(columns)}: give --input COLUMN=TEXT for each")
    return {columns[0]: text}


def _row_of_columns(inputs: Sequence[str], columns: Sequence[str]) -> Row:
    row = dict(pair.partition("=")[::2] for pair in inputs)
    if len(inputs) == 1 and Path(inputs[0]).exists():
        raise BadConfig(f"--input names {inputs[0]}: give --to as well, where its rows go with their predictions")
    if set(row) != set(columns) or len(inputs) != len(columns) or not all("=" in pair for pair in inputs):
        raise BadConfig(f"--input has {', '.join(inputs)}; give COLUMN=TEXT once for each of {', '.join(columns)}")
    return {column: row[column] for column in columns}
