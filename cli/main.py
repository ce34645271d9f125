"""`bakeoff`: the command line. Heavy parts are imported by the command that needs them, so that `--help` is quick."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from cli.champion import champion, tell, version_number
from cli.options import config_argument, output_option, overrides_argument, plain_errors
from tasks.forks import end_quickly


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="bakeoff")
def main() -> None:
    """Prompt a large model, or fine-tune a small one? Run a bake-off and see."""
    end_quickly()


@main.command()
@config_argument
@overrides_argument
@output_option
@plain_errors
def run(config: Path, overrides: tuple[str, ...], output: str) -> None:
    """Run the bake-off of a CONFIG file.

    Keys of the config can be set on the command line: `bakeoff run configs/quickstart.yaml tuned.0.epochs=1`.
    """
    from cli.run import run_bakeoff, show_verdict

    show_verdict(run_bakeoff(config, overrides), output, config)


@main.command()
@config_argument
@overrides_argument
@click.option("--because", default="", help="Why it is asked for, in words: then it runs whatever changed.")
@click.option("--dry-run", is_flag=True, help="Show the reasons and run nothing; status 3 where a bake-off is due.")
@output_option
@plain_errors
def retrain(config: Path, overrides: tuple[str, ...], because: str, dry_run: bool, output: str) -> None:
    """Run the bake-off of a CONFIG file again if there is a reason, and say which.

    What counts as one stands in the config under `triggers`: new data, other contenders, a model that ends, drift.
    """
    from cli.retrain import DUE, retrain_bakeoff, show_retraining

    found = retrain_bakeoff(config, overrides, because, dry_run)
    show_retraining(found, output, config)
    if dry_run and found.due:
        sys.exit(DUE)


@main.command()
@config_argument
@overrides_argument
@click.option("--text", "texts", multiple=True, help="A text to label; give it several times for several texts.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="PATH|COLUMN=TEXT",
    help="With --to a file or folder of rows: CSV, TSV, JSON lines, parquet. Else one row with several input columns.",
)
@click.option("--to", "to", type=click.Path(path_type=Path), help="Where the rows go with their predictions: a file or folder.")
@click.option("--prefix", default="", help="With --to: stands before the names of the added columns, such as predicted_.")
@click.option("--quick", is_flag=True, help="With --to: a tuned model rounds where it is faster; labels stay the same.")
@output_option
@plain_errors
def predict(
    config: Path,
    overrides: tuple[str, ...],
    texts: tuple[str, ...],
    inputs: tuple[str, ...],
    to: Path | None,
    prefix: str,
    quick: bool,
    output: str,
) -> None:
    """Label texts, or the rows of files, with the champion of a CONFIG file's bake-off.

    A run over files that was killed goes on where it was when the same command is run again.
    """
    from cli import predict as commands

    if to:
        commands.show_report(commands.predict_files(config, overrides, texts, inputs, to, prefix, quick), output)
        return
    parsed, rows = commands.rows_to_label(config, overrides, texts, inputs)
    answers = commands.predict_rows(config, parsed, rows)
    if output == "json":
        click.echo(json.dumps(answers, ensure_ascii=False))
        return
    for answer in answers:
        sure = "" if answer["probability"] is None else f"  ({answer['probability']:.1%})"
        click.echo(f"{answer['label'] or answer['failure']}{sure}  {' | '.join(answer['inputs'].values())}")


@main.command()
@config_argument
@overrides_argument
@click.option("--prompt", "name", default="", help="The prompt's name in the config.")
@click.option("--technique", default="", help="The config's prompt with this technique, or one of this technique alone.")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="test", show_default=True)
@click.option("--row", type=click.IntRange(min=1), default=1, show_default=True, help="Which row of the split, counted from 1.")
@output_option
@plain_errors
def prompt(config: Path, overrides: tuple[str, ...], name: str, technique: str, split: Any, row: int, output: str) -> None:
    """Show the exact messages that a row becomes, without asking anybody.

    Only techniques that choose or calibrate on dev (such as log_probability) ask about dev rows, when the prompt is first made.
    """
    from cli.prompt import as_text, show_prompt

    shown = show_prompt(config, overrides, name, technique, split, row)
    click.echo(json.dumps(shown, ensure_ascii=False, indent=2) if output == "json" else as_text(shown))


@main.command()
@config_argument
@overrides_argument
@click.option("--input", "input_file", type=click.Path(path_type=Path), required=True, help="CSV, TSV, JSON lines or parquet.")
@click.option("--to", "output_file", type=click.Path(path_type=Path), required=True, help="The same rows with their grades.")
@click.option("--prompt", "name", default="", help="Which of the config's prompts grades; the first by default.")
@click.option("--champion", "by_champion", is_flag=True, help="Let the champion of the config's bake-off grade.")
@click.option("--wordings", type=click.IntRange(0, 10), default=3, show_default=True, help="Other wordings to ask again in.")
@output_option
@plain_errors
def grade(
    config: Path,
    overrides: tuple[str, ...],
    input_file: Path,
    output_file: Path,
    name: str,
    by_champion: bool,
    wordings: int,
    output: str,
) -> None:
    """Grade the free-text answers of a file, and say how far the judge can be trusted."""
    from cli.grade import grade_answers, show_report

    show_report(grade_answers(config, overrides, input_file, output_file, name, by_champion, wordings), output)


@main.command()
@config_argument
@overrides_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="The port; 0 takes a free one.")
@click.option("--poll-seconds", type=click.FloatRange(0.05), default=5.0, show_default=True, help="How often the pointer is read.")
@click.option("--batch-rows", type=click.IntRange(1, 4096), default=64, show_default=True, help="Rows predicted together, at most.")
@click.option("--queue-rows", type=click.IntRange(1), default=2048, show_default=True, help="Rows that wait, at most.")
@click.option("--deadline-seconds", type=click.FloatRange(0.01), default=30.0, show_default=True, help="For one request.")
@click.option("--key-env", default="", help="The environment variable with the key that clients must send.")
@plain_errors
def serve(
    config: Path,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    poll_seconds: float,
    batch_rows: int,
    queue_rows: int,
    deadline_seconds: float,
    key_env: str,
) -> None:
    """Answer over HTTP with the champion of a CONFIG file's bake-off, and follow it when it changes.

    /predict takes rows; /v1/chat/completions takes the chats of a client of the prompted LLM.
    """
    from cli.serve import serve_champion
    from serving.options import Options

    limits = {"batch_rows": batch_rows, "queue_rows": queue_rows}
    serve_champion(config, overrides, Options(host, port, poll_seconds, deadline_s=deadline_seconds, key_env=key_env, **limits))


@main.command()
@config_argument
@overrides_argument
@click.option("--version", type=version_number, help="A version of the champion; the newest by default.")
@click.option(
    "--contender", type=click.Path(path_type=Path), help="A contender's folder in this home's workspace, instead of the champion."
)
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option("--merged", is_flag=True, help="One model that transformers loads by itself, the adapter merged into its base.")
@output_option
@plain_errors
def export(
    config: Path,
    overrides: tuple[str, ...],
    version: int | None,
    contender: Path | None,
    to: Path,
    merged: bool,
    output: str,
) -> None:
    """Write the champion of a CONFIG file's bake-off to a plain folder, for use without Bakeoff.

    A merged model is loaded again and must answer test rows as the contender does, or nothing is written.
    """
    from cli import export as commands

    found = commands.export(config, overrides, version, contender, to, merged)
    tell(commands.told(found), found, output)


@main.command()
@config_argument
@click.argument("number", metavar="VERSION", type=version_number)
@overrides_argument
@output_option
@plain_errors
def reproduce(config: Path, number: int, overrides: tuple[str, ...], output: str) -> None:
    """Make VERSION of a CONFIG file's champion again from what it records, and say what differs.

    Status 1 when rows, labels or metrics do. Prompts are asked again, within the recorded budget. Nothing is published.
    """
    from cli.versions import refuse_other, reproduce_version, reproduction_text

    found = reproduce_version(config, overrides, number)
    tell(reproduction_text(found), found, output)
    refuse_other(found)


@main.command()
@click.argument("run")
@click.option("--to", type=click.Path(path_type=Path), help="Where it goes instead of the run's folder.")
@output_option
@plain_errors
def report(run: str, to: Path | None, output: str) -> None:
    """Write the report of a RUN: one HTML file that needs nothing beside it.

    RUN is an id as `bakeoff runs` lists them, enough of its beginning, or `latest`.
    """
    from cli.report import report_of

    run_id, written = report_of(run, to)
    click.echo(json.dumps({"run_id": run_id, "report": str(written)}, ensure_ascii=False) if output == "json" else written)


@main.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@output_option
@plain_errors
def runs(config: Path | None, output: str) -> None:
    """List the runs of the workspace, or those of a CONFIG file's bake-off, the newest first."""
    from cli.report import runs_of, show_runs

    found = runs_of(config)
    if output == "json":
        click.echo(json.dumps([each.model_dump(mode="json") for each in found], ensure_ascii=False, indent=2))
        return
    show_runs(found)


@main.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@output_option
@plain_errors
def compare(first: str, second: str, output: str) -> None:
    """Put two runs beside each other: row by row where they were tested on the same rows.

    A RUN is an id as `bakeoff runs` lists them, enough of its beginning, or `latest`.
    """
    from cli import report as commands

    found = commands.compare(first, second)
    if output == "json":
        click.echo(found.model_dump_json(indent=2))
        return
    commands.show_comparison(found)


main.add_command(champion)


if __name__ == "__main__":
    main()
