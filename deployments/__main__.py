"""`python -m deployments`: register the work pools and deployments on a running Prefect server."""

import logging
import sys
from pathlib import Path

import click

from deployments.pools import POOLS
from tasks.config import load_config
from tasks.errors import BakeoffError, Refused
from tasks.settings import prefect_defaults


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("configs/quickstart.yaml"),
    show_default=True,
    help="The config whose values a run has by default.",
)
@click.option(
    "--nightly",
    type=click.Choice([*POOLS, "none"]),
    multiple=True,
    default=("cpu",),
    show_default=True,
    help="A pool that runs every night at 02:00; give it several times for several pools. Name only pools that have a worker.",
)
@click.option("--timezone", default="UTC", show_default=True, help="The nightly run's time zone, an IANA name.")
def main(config: Path, nightly: tuple[str, ...], timezone: str) -> None:
    """Register the bake-off, grading and prediction on the work pools of the Prefect server that PREFECT_API_URL names.

    Run it again after a change: what is there is updated.
    """
    prefect_defaults()
    logging.getLogger("deployments").setLevel(logging.INFO)
    try:
        from deployments.register import register

        names = register(load_config(config), [pool for pool in nightly if pool != "none"], timezone)
    except BakeoffError as error:
        click.echo(f"bakeoff: {error}", err=True)
        sys.exit(2 if isinstance(error, Refused) else 1)
    for name in names:
        flow, _, pool = name.rpartition("/")
        click.echo(f"{name}  nightly: {'on' if pool in nightly else 'off'}" if flow == "bakeoff" else name)
    click.echo("Start a worker on each machine: make worker POOL=cpu   (or gpu, apple-silicon)")


if __name__ == "__main__":
    main()
