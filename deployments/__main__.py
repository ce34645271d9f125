"""`python -m deployments`: register work pools, deployments and automations on a Prefect server; `up` starts one here, and more."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from deployments.pools import IMAGE, POOLS, TYPES
from tasks.config import load_config
from tasks.errors import BakeoffError, Refused
from tasks.settings import load_settings, prefect_defaults

F = TypeVar("F", bound=Callable[..., Any])
QUICKSTART = Path("configs/quickstart.yaml")
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def wishes(command: F) -> F:
    """The options of what is to be registered."""
    options = [
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            default=QUICKSTART,
            show_default=True,
            help="The config whose values a run has by default.",
        ),
        click.option(
            "--nightly",
            type=click.Choice([*POOLS, "none"]),
            multiple=True,
            default=("cpu",),
            show_default=True,
            help="A pool that runs every night at 02:00; give it several times for several. Name only pools that have a worker.",
        ),
        click.option("--timezone", default="UTC", show_default=True, help="The nightly run's time zone, an IANA name."),
        click.option(
            "--notify",
            multiple=True,
            metavar="TYPE/NAME",
            help="A notification block that tells of new champions, refusals, crashes and caps reached: slack-webhook/ours.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def told() -> Iterator[None]:
    """Errors that are raised on purpose end the command with their message alone."""
    prefect_defaults()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deployments").setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        yield
    except BakeoffError as error:
        click.echo(f"bakeoff: {error}", err=True)
        sys.exit(2 if isinstance(error, Refused) else 1)


@click.group(invoke_without_command=True, context_settings=SETTINGS)
@wishes
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="POOL=TYPE",
    help=f"What a pool's runs are: {', '.join(TYPES)}. `process` where nothing is said.",
)
@click.option("--image", default=IMAGE, show_default=True, help="What containers are made of (types docker and kubernetes).")
@click.option(
    "--data-claim", default="", metavar="NAME", help="A volume claim whose files runs see as /data, read-only (type kubernetes)."
)
@click.pass_context
def main(
    context: click.Context,
    config: Path,
    nightly: tuple[str, ...],
    timezone: str,
    notify: tuple[str, ...],
    types: tuple[str, ...],
    image: str,
    data_claim: str,
) -> None:
    """Register the flows on the work pools of the Prefect server that PREFECT_API_URL names, and what starts dead runs again.

    Run it again after a change: what is there is updated.
    """
    if context.invoked_subcommand:
        return
    with told():
        from deployments.register import register

        active = [pool for pool in nightly if pool != "none"]
        chosen = dict(_pair(each) for each in types)
        registered = register(load_config(config), active, timezone, chosen, image, notify, data_claim)
    for name in registered.names:
        pool = name.removeprefix("retrain/").removesuffix("-nightly")
        click.echo(f"{name}: {'on' if pool in nightly else 'off'}" if name.endswith("-nightly") else name)
    for name in registered.stale:
        click.echo(f"stale: {name} is declared no more; if nobody needs it: prefect deployment delete {name}")
    click.echo("Start a worker on each machine: make worker POOL=cpu   (or gpu, apple-silicon)")


@main.command(context_settings=SETTINGS)
@wishes
@click.option("--port", type=click.IntRange(1, 65535), help="The server's port; else 4200, or the next one that is free.")
@click.pass_context
def up(
    context: click.Context, config: Path, nightly: tuple[str, ...], timezone: str, notify: tuple[str, ...], port: int | None
) -> None:
    """Start the Prefect server, workers, S3 and the local LLM on this machine, and register everything. Again: go on, or update.

    What is not given is as the last time in this home; the defaults below are those of the first time, when runs may read
    the files in configs.
    """
    with told():
        from deployments.up import up
        from deployments.wish import Wish, as_last_time

        for room in ("register", "pools", "automations"):
            logging.getLogger(f"deployments.{room}").setLevel(logging.WARNING)
        settings = load_settings()
        roots, given = tuple(settings.roots), _given(context)
        active = tuple(pool for pool in nightly if pool != "none")
        asked = Wish(config.absolute(), active, timezone, roots or (QUICKSTART.parent.absolute(),), notify)
        stack = up(as_last_time(asked, given | {"roots"} if roots else given, settings.home), port)
    click.echo(f"\nUI       {stack.ui}\nshell    export PREFECT_API_URL={stack.api}\nlogs     {stack.folder}\nstop     make down")


@main.command(context_settings=SETTINGS)
def down() -> None:
    """Stop what `up` started. Nothing is lost: runs that were under way go on at the next `up`."""
    with told():
        from deployments.up import down

        click.echo("stopped" if down() else "nothing was running")


@main.command(context_settings=SETTINGS)
def status() -> None:
    """How the programs of `up` are; exit status 1 when nothing runs."""
    with told():
        from deployments.up import status

        ui, programs = status()
    for name, how in programs.items():
        click.echo(f"{name:22} {how}")
    click.echo(f"{'UI':22} {ui}" if ui else "make up ends these first" if programs else "nothing is running: make up")
    sys.exit(0 if ui else 1)


@main.command(context_settings=SETTINGS)
@click.argument("pool")
@click.option("--with-healthcheck", is_flag=True, help="Tell on port 8080 (/health) whether the worker polls.")
def worker(pool: str, with_healthcheck: bool) -> None:
    """Work for a pool whose runs are processes, until told to stop: then trainings keep where they are, and runs are given back."""
    with told():
        from deployments.worker import work

        work(pool, with_healthcheck)


def _given(context: click.Context) -> set[str]:
    """The names of the options that stand on the command line."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _pair(text: str) -> tuple[str, str]:
    pool, equals, kind = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not POOL=TYPE, such as gpu=docker", param_hint="--type")
    return pool, kind


if __name__ == "__main__":
    main()
