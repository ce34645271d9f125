"""The deployments, one a flow and work pool, and their registration on a Prefect server.

A deployment does one run at a time. Where it has a schedule, a run that meets another one is cancelled: so a night that takes too
long does not meet the next one, and of those that were missed one is made up for. Where it has none, a run waits: somebody asked.
So what is scheduled has a deployment of its own, `retrain/<pool>-nightly`. Bake-offs by hand go side by side: one that only prompts
would else wait for hours behind one that trains, and trainings take turns by themselves (`tasks/turns.py`).
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from deployments.automations import TAG, WANTED_OF_ALL, apply_automation, find_block, notifications, recovery, wanted
from deployments.pools import IMAGE, POOLS, apply_pool, job_template, refuse_unknown, types_of
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, MissingPart

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment

logger = logging.getLogger(__name__)

NIGHTLY = "0 2 * * *"
SLUG = "nightly"
"""Names the schedule, so that registering again changes it and leaves other schedules alone, and the deployments that have it."""
TAGS = [TAG]


@dataclass(frozen=True)
class Registered:
    """What the server has now."""

    names: list[str]
    """The deployments' full names."""
    stale: list[str]
    """Deployments of ours that are declared no more: of a flow that was renamed or removed."""


def declare(pool: str, config: BakeoffConfig, nightly: bool = False, timezone: str = "UTC") -> "list[RunnerDeployment]":
    """The deployments of one work pool, named after it: one a flow, for what somebody asks for, and the one that runs the main job
    every night where there is a reason.

    Workers import the flows by their module path, so the project must be installed where they run.

    Args:
        config: the default parameters; of `rollback`, its name and store.
        nightly: whether the schedule is active.
        timezone: of the schedule; an IANA name.

    Raises:
        BadConfig: there is no such pool or time zone.
    """
    from prefect.schedules import Cron

    from flows.bakeoff import bakeoff
    from flows.contend import contend
    from flows.grade import grade
    from flows.predict import predict
    from flows.retrain import retrain
    from flows.rollback import rollback

    values = {"config": config.model_dump(mode="json")}
    schedule = Cron(NIGHTLY, timezone=_known(timezone), active=nightly, slug=SLUG)
    return [
        declared_for(bakeoff, pool, values, one_at_a_time=False),  # trainings take turns, prompts wait for none
        declared_for(retrain, pool, values),
        declared_for(retrain, pool, values, [schedule]),
        declared_for(grade, pool, values),
        declared_for(predict, pool, values),
        declared_for(contend, pool, values, one_at_a_time=False),  # each run makes other contenders of a bake-off
        declared_for(rollback, pool, {"name": config.name, "store": config.store}),
    ]


def declared_for(
    flow: "Flow[..., Any]", pool: str, parameters: dict[str, Any], schedules: Sequence[Any] = (), one_at_a_time: bool = True
) -> "RunnerDeployment":
    """The deployment of any flow on one work pool, named after the pool, and after the schedule where it has one.

    Args:
        parameters: the defaults.
        schedules: with one, a run that meets another is cancelled; without, it waits.
        one_at_a_time: whether runs meet at all.

    Raises:
        BadConfig: there is no such pool.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    refuse_unknown(pool)
    told = (flow.description or "").partition("\n\nArgs:")[0]  # the form itself tells of the parameters
    meets = ConcurrencyLimitStrategy.CANCEL_NEW if schedules else ConcurrencyLimitStrategy.ENQUEUE
    return RunnerDeployment.from_flow(
        flow,
        name=f"{pool}-{SLUG}" if schedules else pool,
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=f"{told}\n\nRuns on the pool `{pool}`: {POOLS[pool]}",
        tags=TAGS,
        version=version("bakeoff"),
        parameters=parameters,
        enforce_parameter_schema=True,
        schedules=list(schedules),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=meets) if one_at_a_time else None,
    )


def register(
    config: BakeoffConfig,
    nightly: Collection[str] = ("cpu",),
    timezone: str = "UTC",
    types: Mapping[str, str] | None = None,
    image: str = IMAGE,
    notify: Collection[str] = (),
    data_claim: str = "",
) -> Registered:
    """Make or update every work pool, deployment and automation on the server that `PREFECT_API_URL` names.

    Args:
        nightly: the pools whose schedule is active; scheduled runs would pile up on a pool without workers.
        types: of pools whose runs are no processes (`docker`, `kubernetes`).
        image: what their containers are made of.
        notify: blocks that people are told through; without any, those named before stay.
        data_claim: in Kubernetes, the claim whose files jobs see as `/data`; empty mounts nothing there.

    Raises:
        BadConfig: a pool, its type, the time zone or a block is unknown, or a claim is named that no pool's runs can see.
        MissingPart: no server is named, it does not answer, or it answers with an error.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import DeploymentApplyError

    url = server_url()
    for pool in nightly:
        refuse_unknown(pool)
    kinds = types_of(types or {})
    if data_claim and "kubernetes" not in kinds.values():
        raise BadConfig(f"--data-claim {data_claim} is for Kubernetes jobs, but no pool has them: add --type gpu=kubernetes")
    for pool, kind in kinds.items():
        job_template(pool, kind, image, data_claim)  # what is wrong is said before anything is changed
    declared = [each for pool in POOLS for each in declare(pool, config, pool in nightly, timezone)]
    try:
        with get_client(sync_client=True) as client:
            blocks = [find_block(client, name) for name in notify]
            for pool, kind in kinds.items():
                apply_pool(client, pool, kind, image, data_claim)
            ids = _apply(client, declared)
            _unschedule(client, [ids[f"retrain/{pool}"] for pool in POOLS])
            for automation in [*recovery(), *(notifications(blocks) if blocks else [])]:
                apply_automation(client, automation)
            first = next((pool for pool in POOLS if pool in nightly), "cpu")
            apply_automation(client, wanted(config, ids[f"retrain/{first}"]), formerly=WANTED_OF_ALL)
            names = [deployment.full_name for deployment in declared]
            return Registered(names, _stale(client, names))
    except httpx.TransportError as error:
        raise MissingPart(f"the Prefect server at {url} does not answer ({error}): start it, or correct PREFECT_API_URL") from None
    except (httpx.HTTPStatusError, DeploymentApplyError) as error:  # it is busy, or of another version
        raise MissingPart(
            f"the Prefect server at {url} did not take everything ({error}): try again, nothing is made twice; else see its log"
        ) from None


def _apply(client: "SyncPrefectClient", declared: "list[RunnerDeployment]") -> dict[str, UUID]:
    """Their ids, by full name."""
    from prefect.client.schemas.objects import VersionInfo

    release = VersionInfo(type="prefect:simple", version=version("bakeoff"))  # else Git's remote, keys and all, would be stored
    ids = {}
    for deployment in declared:
        _name_schedules(client, deployment.full_name)
        ids[deployment.full_name] = UUID(str(deployment.apply(version_info=release)))
        logger.info("deployment %s: registered", deployment.full_name)
    return ids


def _name_schedules(client: "SyncPrefectClient", deployment: str) -> None:
    """Give a slug to the schedules that people added without one: where there is such a one, an update removes them all."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_deployment_by_name(deployment)
    except ObjectNotFound:
        return
    for schedule in found.schedules:
        if schedule.slug is None:
            slug = f"added-{str(schedule.id)[:8]}"
            # what is not said again of the parameters, the server takes for none
            client.update_deployment_schedule(found.id, schedule.id, slug=slug, parameters=schedule.parameters)
            logger.info("deployment %s: a schedule without a slug is called %s now", deployment, slug)


def _unschedule(client: "SyncPrefectClient", ids: Collection[UUID]) -> None:
    """Take our schedule from deployments that had it once, and are now for what somebody asks for; others' schedules stay."""
    for each in ids:
        for schedule in client.read_deployment_schedules(each):
            if schedule.slug == SLUG:
                client.delete_deployment_schedule(each, schedule.id)


def _stale(client: "SyncPrefectClient", names: Collection[str]) -> list[str]:
    """Deployments with our tag that are not among these."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
    from prefect.client.schemas.sorting import DeploymentSort

    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=TAGS))
    found = client.read_deployments(deployment_filter=tagged, limit=200, sort=DeploymentSort.NAME_ASC)
    flows = {each.flow_id: client.read_flow(each.flow_id).name for each in found}
    return sorted({f"{flows[each.flow_id]}/{each.name}" for each in found} - set(names))


def server_url() -> str:
    """The Prefect server's address, from the environment or Prefect's profile.

    Raises:
        MissingPart: there is none. Prefect would start a server that ends with this process, and forgets.
    """
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise MissingPart(
            "no Prefect server is named: start one (`prefect server start`), then set PREFECT_API_URL to its address,"
            " such as http://127.0.0.1:4200/api"
        )
    return url


def _known(timezone: str) -> str:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadConfig(f"there is no time zone {timezone!r}: give an IANA name, such as Europe/Berlin") from None
    return timezone
