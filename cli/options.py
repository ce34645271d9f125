"""What every command shares: its arguments, and how it ends."""

import re
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tasks.errors import BakeoffError, Refused

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
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


def written_out(text: str) -> str:
    """Text of several lines with its control codes, which could act on a terminal, as one can read them."""
    return CONTROL.sub(lambda code: f"\\x{ord(code[0]):02x}", text)


def _interrupt(_signal: int, _frame: object) -> None:
    """End as with Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt
