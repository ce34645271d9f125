"""`bakeoff`: the command line. Heavy parts are imported by the command that needs them, so that `--help` is quick."""

import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tasks.errors import BakeoffError, Refused

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", help="What standard output gets; logs go to standard error."
)
config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """End with a message instead of a traceback: status 2 for refused input, 1 for a run that failed."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            command(*args, **kwargs)
        except BakeoffError as error:
            click.echo(f"bakeoff: {error}", err=True)
            sys.exit(REFUSED if isinstance(error, Refused) else FAILED)
        except OSError as error:  # a disk that is full, a folder that cannot be written: the system's words name it
            click.echo(f"bakeoff: {error}", err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            click.echo("bakeoff: interrupted; run the same command again to go on where it was", err=True)
            sys.exit(INTERRUPTED)

    return wrapped


def _interrupt(_signal: int, _frame: object) -> None:
    """End as with Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="bakeoff")
def main() -> None:
    """Prompt a large model, or fine-tune a small one? Run a bake-off and see."""


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
@click.option("--text", "texts", multiple=True, help="A text to label; give it several times for several texts.")
@click.option("--input", "inputs", multiple=True, metavar="COLUMN=TEXT", help="One row with several input columns.")
@output_option
@plain_errors
def predict(config: Path, overrides: tuple[str, ...], texts: tuple[str, ...], inputs: tuple[str, ...], output: str) -> None:
    """Label texts with the champion of a CONFIG file's bake-off."""
    from cli.predict import predict_rows, rows_to_label

    parsed, rows = rows_to_label(config, overrides, texts, inputs)
    answers = predict_rows(config, parsed, rows)
    if output == "json":
        click.echo(json.dumps(answers, ensure_ascii=False))
        return
    for answer in answers:
        sure = "" if answer["probability"] is None else f"  ({answer['probability']:.1%})"
        click.echo(f"{answer['label'] or answer['failure']}{sure}  {' | '.join(answer['inputs'].values())}")


@main.group()
def champion() -> None:
    """What S3 points to."""


@champion.command("show")
@config_argument
@overrides_argument
@output_option
@plain_errors
def show_champion(config: Path, overrides: tuple[str, ...], output: str) -> None:
    """Show the champion of a CONFIG file's bake-off: where it lies, its version and why it was published."""
    from cli.champion import champion_of, describe

    found = champion_of(config, overrides)
    if output == "json":
        click.echo("null" if found is None else found.model_dump_json(indent=2))
    else:
        click.echo(describe(found))


if __name__ == "__main__":
    main()
