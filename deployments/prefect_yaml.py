"""`python -m deployments.prefect_yaml`: writes `prefect.yaml` anew, with what `make deploy` registers by default.

`prefect deploy --all` reads that file. It makes deployments, and neither pools nor automations: those are `make deploy`'s alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deployments.pools import POOLS
from deployments.register import declare
from tasks.config import BakeoffConfig, load_config

if TYPE_CHECKING:
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentScheduleUpdate
    from prefect.deployments.runner import RunnerDeployment

ROOT = Path(__file__).parents[1]
FILE = ROOT / "prefect.yaml"
CONFIG = ROOT / "configs" / "quickstart.yaml"
HEAD = """\
# Made by deployments/prefect_yaml.py from what `make deploy` registers by default; do not edit. For `prefect deploy --all`, which
# makes deployments alone: run `make deploy` once before it, for the work pools and the automations. The demo becomes what a run has
# by default, and of schedules that people added only those with a slug stay; `make deploy` keeps all of them.
"""


def main() -> None:
    """Write the file."""
    FILE.write_text(text(load_config(CONFIG)), encoding="utf-8")


def text(config: BakeoffConfig) -> str:
    """The file's text.

    Args:
        config: the default parameters; written once, and named where it stands again.
    """
    shared = config.model_dump(mode="json")
    declared = [_entry(each, shared) for pool in POOLS for each in declare(pool, config, nightly=pool == "cpu")]
    made = {"name": "bakeoff", "pull": [], "deployments": declared}
    return HEAD + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120)


def _entry(deployment: "RunnerDeployment", shared: dict[str, Any]) -> dict[str, Any]:
    """A deployment as the file has it.

    Args:
        shared: the config; YAML writes an object that stands in several places once.
    """
    parameters = {name: shared if value == shared else value for name, value in deployment.parameters.items()}
    meets = deployment.concurrency_options
    limit = {"limit": deployment.concurrency_limit, "collision_strategy": meets.collision_strategy.value} if meets else None
    return {
        "name": deployment.name,
        "entrypoint": deployment.entrypoint,
        "version": deployment.version,
        "version_type": "prefect:simple",  # else Git's remote, keys and all, would be stored
        "tags": list(deployment.tags or []),
        "description": deployment.description,
        "work_pool": {"name": deployment.work_pool_name},
        "parameters": parameters,
        "enforce_parameter_schema": deployment.enforce_parameter_schema,
        "schedules": [_schedule(each) for each in deployment.schedules or []],
    } | ({"concurrency_limit": limit} if limit else {})


def _schedule(given: "DeploymentScheduleCreate | DeploymentScheduleUpdate") -> dict[str, Any]:
    more = {"parameters": given.parameters} if given.parameters else {}
    assert given.schedule
    return given.schedule.model_dump(mode="json", exclude_none=True) | {"active": given.active, "slug": given.slug} | more


if __name__ == "__main__":
    main()
