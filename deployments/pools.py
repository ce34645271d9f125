"""The work pools: where a run goes. Which device it then uses, a machine finds out by itself.

A pool's job template has no variables for environment, command or folder, so that whoever may start a run cannot change what the
operator set for the worker: the folders that may be read, the places behind names, the program.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.errors import BadConfig

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

TYPE = "process"
AT_ONCE = 1
"""Runs at once on a pool: trainings on one machine would only slow each other down."""
POOLS: Mapping[str, str] = {
    "gpu": "Machines with an NVIDIA GPU. One training at a time.",
    "apple-silicon": "Macs with Apple silicon. One training at a time.",
    "cpu": "Machines without an accelerator. One training at a time.",
}
"""The pools by name, each with its description."""
JOB_TEMPLATE: dict[str, Any] = {
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
    "job_configuration": {"stream_output": True},
}
"""Of every pool. No `env` stands here: a run's own could be merged into one that is there."""


def apply_pool(client: "SyncPrefectClient", name: str) -> None:
    """Make a work pool, or bring the one that is there to what is declared. Whether it is paused stays as it is.

    Raises:
        BadConfig: a pool of this name has another type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    declared: dict[str, Any] = {"description": POOLS[name], "base_job_template": JOB_TEMPLATE, "concurrency_limit": AT_ONCE}
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=TYPE, **declared))
        logger.info("work pool %s: created", name)
        return
    if found.type != TYPE:
        raise BadConfig(f"work pool {name!r} has type {found.type!r}, not {TYPE!r}: delete it (prefect work-pool delete {name})")
    client.update_work_pool(name, WorkPoolUpdate(**declared))
    logger.info("work pool %s: updated", name)
