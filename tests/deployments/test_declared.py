"""What is declared, without a server."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.actions import RunDeployment
from prefect.exceptions import ObjectNotFound
from prefect.server.utilities.user_templates import render_user_template_sync
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.importtools import import_object

from deployments.automations import LONGEST, wanted
from deployments.pools import POOLS, apply_pool
from deployments.register import declare, register
from tasks.config import BakeoffConfig, Pool, load_config
from tasks.errors import BadConfig, MissingPart
from tasks.orchestration.process import roots_of_run
from tests.deployments.receiver import Receiver

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

CONFIG = BakeoffConfig.model_validate({"dataset": "owner/name"})


def declared(pool: str, flow: str, *, name: str = "", nightly: bool = False, timezone: str = "UTC") -> "RunnerDeployment":
    """The deployment of a flow on a pool."""
    found = {each.full_name: each for each in declare(pool, CONFIG, nightly, timezone)}
    return found[f"{flow}/{name or pool}"]


ASKED = {
    "bakeoff": ({"config"}, set()),
    "retrain": ({"config"}, {"because"}),
    "grade": ({"config", "input_file", "output_file"}, None),
    "predict": ({"config", "input_path", "output_path"}, None),
    "contend": ({"config", "contenders"}, None),
    "rollback": (None, None),
}
"""The parameters that a run must have and those that it may have, of each flow; None: not looked at."""


@pytest.mark.parametrize("flow", ASKED)
@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_has_a_deployment_of_each_flow_on_demand_that_workers_import_by_module_path(pool: str, flow: str) -> None:
    found = declared(pool, flow)
    assert (found.name, found.work_pool_name, found.entrypoint) == (pool, pool, f"flows.{flow}.{flow}")
    assert import_object(str(found.entrypoint)).name == found.flow_name == flow
    assert POOLS[pool] in str(found.description)
    assert (found.storage, found.job_variables, found.schedules, found.enforce_parameter_schema) == (None, {}, [], True)
    needed, may = ASKED[flow]
    schema = found._parameter_openapi_schema
    assert needed in (None, set(schema.required))
    assert may is None or set(schema.properties) == {*schema.required, *may}


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_has_one_deployment_with_a_schedule_the_nightly_retrain(pool: str) -> None:
    scheduled = [each for each in declare(pool, CONFIG) if each.schedules]
    assert [(each.full_name, each.work_pool_name) for each in scheduled] == [(f"retrain/{pool}-nightly", pool)]


def test_there_are_the_three_pools_and_a_config_can_name_each_of_them() -> None:
    assert list(POOLS) == ["gpu", "apple-silicon", "cpu"]
    assert [*Pool] == [Pool.HERE, *POOLS]


@pytest.mark.parametrize("nightly", [True, False])
def test_the_nightly_schedule_is_at_two_and_active_only_where_asked(nightly: bool) -> None:
    found = declared("cpu", "retrain", name="cpu-nightly", nightly=nightly, timezone="Europe/Berlin")
    (schedule,) = found.schedules or []
    assert (schedule.slug, schedule.active) == ("nightly", nightly)
    assert schedule.schedule.model_dump(include={"cron", "timezone"}) == {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}


def test_runs_that_meet_are_cancelled_if_scheduled_wait_if_somebody_asked_and_go_side_by_side_if_bake_offs() -> None:
    meets = {
        each.full_name: each.concurrency_options.collision_strategy.value if each.concurrency_options else ""
        for each in declare("cpu", CONFIG)
    }
    assert meets == {
        "bakeoff/cpu": "",  # they do not wait for each other
        "retrain/cpu": "ENQUEUE",
        "retrain/cpu-nightly": "CANCEL_NEW",
        "grade/cpu": "ENQUEUE",
        "predict/cpu": "ENQUEUE",
        "contend/cpu": "",
        "rollback/cpu": "ENQUEUE",
    }
    assert {each.concurrency_limit for each in declare("cpu", CONFIG) if meets[each.full_name]} == {1}


def test_a_reason_that_an_event_gives_is_cut_to_what_the_flow_takes() -> None:
    assert declared("cpu", "retrain")._parameter_openapi_schema.properties["because"]["maxLength"] == LONGEST
    (action,) = wanted(CONFIG, uuid4()).actions
    assert isinstance(action, RunDeployment)
    assert action.parameters
    template = action.parameters["because"]["template"]
    said = {
        because: render_user_template_sync(template, {"event": {"payload": {"because": because}}})
        for because in ("new labels", 7, None, "x" * LONGEST, "y" * (LONGEST + 1))
    }
    assert [said[given] for given in ("new labels", 7, None)] == ["new labels", "7", "an event asked for it"]
    assert said["x" * LONGEST] == "x" * LONGEST
    assert said["y" * (LONGEST + 1)] == "y" * (LONGEST - 1) + "…"


def test_every_shipped_config_gives_default_parameters_that_the_schema_knows(root: Path) -> None:
    for path in sorted((root / "configs").glob("*.yaml")):
        config = load_config(path)
        found = declare("cpu", config)[0]
        assert found.enforce_parameter_schema
        assert BakeoffConfig.model_validate(json.loads(json.dumps(found.parameters["config"]))) == config
        assert set(found._parameter_openapi_schema.properties) == {"config"}


def test_an_unknown_time_zone_or_pool_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"no time zone 'Mars/Olympus'.*Europe/Berlin"):
        declare("cpu", CONFIG, True, "Mars/Olympus")
    with pytest.raises(BadConfig, match="no work pool 'tpu': the pools are gpu, apple-silicon, cpu"):
        declare("tpu", CONFIG)


def test_without_a_server_the_error_says_how_to_name_one() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(MissingPart, match="set PREFECT_API_URL"):
        register(CONFIG)


class Pools:
    """Work pools as a Prefect server keeps them: an update changes what it says, and nothing else."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def read_work_pool(self, name: str) -> SimpleNamespace:
        if name not in self.kept:
            raise ObjectNotFound(http_exc=Exception(name))
        return SimpleNamespace(**self.kept[name])

    def create_work_pool(self, pool: WorkPoolCreate) -> None:
        self.kept[pool.name] = pool.model_dump()

    def update_work_pool(self, name: str, change: WorkPoolUpdate) -> None:
        self.kept[name] |= change.model_dump(exclude_unset=True)


def test_registering_again_leaves_a_pools_limit_and_pause_as_the_operator_set_them() -> None:
    pools: Any = Pools()
    apply_pool(pools, "cpu")
    made = dict(pools.kept["cpu"])
    assert (made["concurrency_limit"], made["is_paused"]) == (8, False)
    pools.kept["cpu"] |= {
        "concurrency_limit": 1,
        "is_paused": True,
        "base_job_template": {},
        "description": "of an earlier release",
    }
    apply_pool(pools, "cpu")
    assert pools.kept["cpu"] == made | {"concurrency_limit": 1, "is_paused": True}


def test_registering_again_without_a_claim_of_rows_keeps_the_one_that_jobs_see() -> None:
    pools: Any = Pools()
    apply_pool(pools, "gpu", "kubernetes", data_claim="rows")
    claimed = pools.kept["gpu"]["base_job_template"]
    assert "'claimName': 'rows'" in str(claimed)
    apply_pool(pools, "gpu", "kubernetes")
    assert pools.kept["gpu"]["base_job_template"] == claimed
    apply_pool(pools, "gpu", "kubernetes", data_claim="others")
    assert "'claimName': 'others'" in str(pools.kept["gpu"]["base_job_template"])


def test_a_claim_of_rows_without_a_pool_of_kubernetes_jobs_is_refused_before_anything_is_asked() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(BadConfig, match="add --type gpu=kubernetes"),
    ):
        register(CONFIG, types={"gpu": "docker"}, data_claim="rows")


def test_a_server_that_does_not_answer_is_named() -> None:
    url = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(MissingPart, match=f"server at {url} does not answer"):
        register(CONFIG)


def test_a_server_that_answers_with_an_error_is_named_without_a_traceback() -> None:
    with Receiver((500, {"detail": "database is locked"})) as server:
        url = f"{server.url}api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(MissingPart, match=f"server at {url} did not take everything"),
        ):
            register(CONFIG)


def test_the_command_ends_with_a_message_not_a_traceback(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments", "--config", "nowhere.yaml"]
    environment = {"PATH": "/usr/bin:/bin", "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot read config nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_function_call_may_read_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert roots_of_run() == [tmp_path]


def test_a_run_of_a_deployment_may_read_only_what_the_operator_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    assert roots_of_run() == []


@pytest.mark.parametrize("home", [None, ".bakeoff"])
def test_a_worker_without_a_lasting_home_is_refused(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    monkeypatch.delenv("BAKEOFF_HOME")
    if home:
        monkeypatch.setenv("BAKEOFF_HOME", home)
    with pytest.raises(BadConfig, match="BAKEOFF_HOME set to an absolute path"):
        roots_of_run()
