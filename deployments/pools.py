"""The work pools: where a run goes. Which device it then uses, a machine finds out by itself.

A pool is of a type: `process` (runs are processes of a worker), `docker` (a container a run) or `kubernetes` (a job a run). What a
run then has stands in `templates/`, and no template has variables, so that whoever may start a run cannot change what the operator
set: the folders that may be read, the places behind names, the program.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import yaml

from tasks.errors import BadConfig

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
TYPES = ("process", "docker", "kubernetes")
IMAGE = "bakeoff:latest"
"""What containers are made of where nobody names another image."""
AT_ONCE = 8
"""Runs at once on a new pool: prompt work goes on while a model trains, and a run can wait for another one. Trainings take turns by
themselves (`tasks/turns.py`)."""
GPU_KEYS = ("device_requests", "nvidia.com/gpu")
"""What only the pool `gpu` asks for, or bears: as a key, or as what a toleration is for."""
DATA = ("data",)
"""The volume of rows, which a job has where a claim is named: one that is not there would leave every pod Pending."""
POOLS: Mapping[str, str] = {
    "gpu": "Machines with an NVIDIA GPU.",
    "apple-silicon": "Macs with Apple silicon.",
    "cpu": "Machines without an accelerator.",
}
"""The pools by name, each with its description."""


def job_template(pool: str, kind: str = "process", image: str = IMAGE, data_claim: str = "") -> dict[str, Any]:
    """The base job template of a pool, as its type has it.

    Args:
        data_claim: of type `kubernetes`: the claim whose files jobs see as `/data`; empty mounts nothing there.

    Raises:
        BadConfig: there is no such pool or type, or containers cannot reach what the pool is for.
    """
    refuse_unknown(pool)
    if kind not in TYPES:
        raise BadConfig(f"--type names {kind!r} for {pool}: the types are {', '.join(TYPES)}")
    if pool == "apple-silicon" and kind != "process":
        raise BadConfig(f"--type {pool}={kind}: containers cannot reach Apple's GPU; the type of {pool} is always process")
    text = (TEMPLATES / f"{kind}.yaml").read_text(encoding="utf-8")
    template: dict[str, Any] = yaml.safe_load(Template(text).substitute(image=image, data_claim=data_claim))
    left_out = (*(() if pool == "gpu" else GPU_KEYS), *(() if data_claim else DATA))
    return dict(_without(template, left_out))


def types_of(given: Mapping[str, str]) -> dict[str, str]:
    """The type of every pool; `process` for those of which nothing is said. Raises BadConfig as `job_template`."""
    for pool in given:
        refuse_unknown(pool)
    return {pool: given.get(pool, "process") for pool in POOLS}


def refuse_unknown(pool: str) -> None:
    """Raises BadConfig for a pool that is none of ours."""
    if pool not in POOLS:
        raise BadConfig(f"there is no work pool {pool!r}: the pools are {', '.join(POOLS)}")


def apply_pool(client: "SyncPrefectClient", name: str, kind: str = "process", image: str = IMAGE, data_claim: str = "") -> None:
    """Make a work pool, or bring the one that is there to what is declared. What the operator sets on the server stays as it is:
    whether it is paused, and how many runs it takes at once; and so does a claim of rows where none is named now.

    Raises:
        BadConfig: a pool of this name has another type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    def declared(data_claim: str) -> dict[str, Any]:
        return {"description": POOLS[name], "base_job_template": job_template(name, kind, image, data_claim)}

    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, concurrency_limit=AT_ONCE, **declared(data_claim)))
        logger.info("work pool %s: created", name)
        return
    if found.type != kind:
        raise BadConfig(
            f"work pool {name!r} has type {found.type!r}, not {kind!r}: register it as it is (--type {name}={found.type}), or"
            f" delete it first (prefect work-pool delete {name})"
        )
    client.update_work_pool(name, WorkPoolUpdate(**declared(data_claim or _claim_of(found.base_job_template))))
    logger.info("work pool %s: updated", name)


def _claim_of(part: Any) -> str:
    """The claim of rows that a template mounts; empty where it mounts none."""
    if isinstance(part, dict):
        claim = part.get("persistentVolumeClaim") if part.get("name") in DATA else None
        return str(claim["claimName"]) if claim else next(filter(None, map(_claim_of, part.values())), "")
    return next(filter(None, map(_claim_of, part)), "") if isinstance(part, list) else ""


def _without(part: Any, left_out: Collection[str]) -> Any:
    """A part of a template without the keys, tolerations, volumes and mounts of these names."""
    if isinstance(part, dict):
        return {key: _without(value, left_out) for key, value in part.items() if key not in left_out}
    if isinstance(part, list):
        return [_without(each, left_out) for each in part if not (isinstance(each, dict) and _named(each) & {*left_out})]
    return part


def _named(item: Mapping[str, Any]) -> set[Any]:
    """By what an item of a template is told from others: a toleration by its key, a volume or a mount by its name."""
    return {item.get("key"), item.get("name")}
