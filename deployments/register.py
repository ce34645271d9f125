"""The deployments, one a flow and work pool, and their registration on a Prefect server."""

import logging
from collections.abc import Collection
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from deployments.pools import POOLS, apply_pool
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, MissingPart

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

logger = logging.getLogger(__name__)

NIGHTLY = "0 2 * * *"
SLUG = "nightly"
"""Names the schedule, so that registering again changes it and leaves other schedules alone."""
TAGS = ["bakeoff"]


def declare(pool: str, config: BakeoffConfig, nightly: bool, timezone: str = "UTC") -> "RunnerDeployment":
    """The deployment of the main job on one work pool, named after the pool.

    Workers import the flow by its module path, so the project must be installed where they run. Runs of the deployment wait for
    each other: the later one finds the earlier one's products and champion.

    Args:
        config: the default parameters.
        nightly: whether the schedule, which every deployment has, is active.
        timezone: of the schedule; an IANA name.

    Raises:
        BadConfig: there is no such pool or time zone.
    """
    from prefect.schedules import Cron

    from flows.bakeoff import bakeoff

    schedule = Cron(NIGHTLY, timezone=_known(timezone), active=nightly, slug=SLUG)
    return _declare(bakeoff, pool, config, [schedule])


def declare_grading(pool: str, config: BakeoffConfig) -> "RunnerDeployment":
    """The deployment of the grading flow on one work pool, named after the pool. It has no schedule: whoever runs it names a file.

    Args:
        config: the default of the parameter `config`.

    Raises:
        BadConfig: there is no such pool.
    """
    from flows.grade import grade

    return _declare(grade, pool, config, [])


def declare_prediction(pool: str, config: BakeoffConfig) -> "RunnerDeployment":
    """The deployment of the prediction flow on one work pool, named after the pool; whoever runs it names files.

    Args:
        config: the default of the parameter `config`.

    Raises:
        BadConfig: there is no such pool.
    """
    from flows.predict import predict

    return _declare(predict, pool, config, [])


def declare_contending(pool: str, config: BakeoffConfig) -> "RunnerDeployment":
    """The deployment by which a bake-off has contenders made on a work pool, named after the pool. Its runs do not wait for each
    other: each makes other contenders.

    Args:
        config: the default of the parameter `config`.

    Raises:
        BadConfig: there is no such pool.
    """
    from flows.contend import contend

    return _declare(contend, pool, config, [], one_at_a_time=False)


def _declare(
    flow: "Flow[..., Any]", pool: str, config: BakeoffConfig, schedules: list[Any], one_at_a_time: bool = True
) -> "RunnerDeployment":
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    if pool not in POOLS:
        raise BadConfig(f"there is no work pool {pool!r}: the pools are {', '.join(POOLS)}")
    return RunnerDeployment.from_flow(
        flow,
        name=pool,
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=f"{flow.description}\n\nRuns on the pool `{pool}`: {POOLS[pool]}",
        tags=TAGS,
        version=version("bakeoff"),
        parameters={"config": config.model_dump(mode="json")},
        enforce_parameter_schema=True,
        schedules=schedules,
        concurrency_limit=limit if one_at_a_time else None,
    )


def register(config: BakeoffConfig, nightly: Collection[str] = ("cpu",), timezone: str = "UTC") -> list[str]:
    """Make or update every work pool and deployment on the server that `PREFECT_API_URL` names.

    Args:
        nightly: the pools whose schedule is active; scheduled runs would pile up on a pool without workers.

    Returns:
        The deployments' full names.

    Raises:
        BadConfig: a pool or the time zone is unknown.
        MissingPart: no server is named, or it does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import VersionInfo

    url = server_url()
    declared = [declare(pool, config, pool in nightly, timezone) for pool in POOLS]
    declared += [declare_grading(pool, config) for pool in POOLS]
    declared += [declare_prediction(pool, config) for pool in POOLS]
    declared += [declare_contending(pool, config) for pool in POOLS]
    for pool in set(nightly) - set(POOLS):
        raise BadConfig(f"--nightly names {pool!r}: the pools are {', '.join(POOLS)}")
    release = VersionInfo(type="prefect:simple", version=version("bakeoff"))  # else Git's remote, keys and all, would be stored
    try:
        with get_client(sync_client=True) as client:
            for deployment in declared:
                apply_pool(client, str(deployment.work_pool_name))
                deployment.apply(version_info=release)
                logger.info("deployment %s: registered", deployment.full_name)
    except httpx.TransportError as error:
        raise MissingPart(f"the Prefect server at {url} does not answer ({error}): start it, or correct PREFECT_API_URL") from None
    return [deployment.full_name for deployment in declared]


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
