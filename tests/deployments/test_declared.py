"""What is declared, without a server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.importtools import import_object

from deployments.pools import POOLS
from deployments.register import declare, declare_contending, declare_grading, declare_prediction, declare_retraining, register
from tasks.config import BakeoffConfig, Pool, load_config
from tasks.errors import BadConfig, MissingPart
from tasks.orchestration import roots_of_run

CONFIG = BakeoffConfig.model_validate({"dataset": "owner/name"})


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_has_a_deployment_of_its_name_that_workers_import_by_module_path(pool: str) -> None:
    declared = declare(pool, CONFIG)
    assert (declared.name, declared.work_pool_name, declared.entrypoint) == (pool, pool, "flows.bakeoff.bakeoff")
    assert import_object(str(declared.entrypoint)).name == declared.flow_name == "bakeoff"
    assert POOLS[pool] in str(declared.description)
    assert declared.storage is None
    assert declared.job_variables == {}


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_grades_too_on_demand_alone(pool: str) -> None:
    declared = declare_grading(pool, CONFIG)
    assert (declared.name, declared.work_pool_name, declared.entrypoint) == (pool, pool, "flows.grade.grade")
    assert import_object(str(declared.entrypoint)).name == declared.flow_name == "grade"
    assert declared.schedules == []
    assert declared.enforce_parameter_schema
    assert set(declared._parameter_openapi_schema.required) == {"config", "input_file", "output_file"}
    assert declared.concurrency_limit == 1


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_predicts_too_on_demand_alone(pool: str) -> None:
    declared = declare_prediction(pool, CONFIG)
    assert (declared.name, declared.work_pool_name, declared.entrypoint) == (pool, pool, "flows.predict.predict")
    assert import_object(str(declared.entrypoint)).name == declared.flow_name == "predict"
    assert declared.schedules == []
    assert set(declared._parameter_openapi_schema.required) == {"config", "input_path", "output_path"}
    assert declared.concurrency_limit == 1


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_makes_contenders_of_bake_offs_that_fan_out_several_at_once(pool: str) -> None:
    declared = declare_contending(pool, CONFIG)
    assert (declared.name, declared.work_pool_name, declared.entrypoint) == (pool, pool, "flows.contend.contend")
    assert import_object(str(declared.entrypoint)).name == declared.flow_name == "contend"
    assert declared.schedules == []
    assert set(declared._parameter_openapi_schema.required) == {"config", "contenders"}
    assert declared.concurrency_limit is None


@pytest.mark.parametrize("pool", ["gpu", "apple-silicon", "cpu"])
def test_each_pool_retrains_too_and_may_be_told_why(pool: str) -> None:
    declared = declare_retraining(pool, CONFIG, nightly=True)
    assert (declared.name, declared.work_pool_name, declared.entrypoint) == (pool, pool, "flows.retrain.retrain")
    assert import_object(str(declared.entrypoint)).name == declared.flow_name == "retrain"
    assert set(declared._parameter_openapi_schema.properties) == {"config", "because"}
    assert declared._parameter_openapi_schema.required == ["config"]


def test_there_are_the_three_pools_and_a_config_can_name_each_of_them() -> None:
    assert list(POOLS) == ["gpu", "apple-silicon", "cpu"]
    assert [*Pool] == [Pool.HERE, *POOLS]


@pytest.mark.parametrize("nightly", [True, False])
def test_the_nightly_schedule_is_at_two_and_active_only_where_asked(nightly: bool) -> None:
    (schedule,) = declare_retraining("cpu", CONFIG, nightly, "Europe/Berlin").schedules or []
    assert (schedule.slug, schedule.active) == ("nightly", nightly)
    assert schedule.schedule.model_dump(include={"cron", "timezone"}) == {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}


def test_a_run_that_meets_another_one_is_cancelled_if_it_was_scheduled_and_waits_if_somebody_asked_for_it() -> None:
    scheduled, asked = declare_retraining("cpu", CONFIG, nightly=False), declare("cpu", CONFIG)
    for declared, meets in ((scheduled, "CANCEL_NEW"), (asked, "ENQUEUE")):
        assert declared.concurrency_limit == 1
        assert declared.concurrency_options is not None
        assert declared.concurrency_options.collision_strategy.value == meets


def test_every_shipped_config_gives_default_parameters_that_the_schema_knows(root: Path) -> None:
    for path in sorted((root / "configs").glob("*.yaml")):
        config = load_config(path)
        declared = declare("cpu", config)
        assert declared.enforce_parameter_schema
        assert BakeoffConfig.model_validate(json.loads(json.dumps(declared.parameters["config"]))) == config
        assert set(declared._parameter_openapi_schema.properties) == {"config"}


def test_an_unknown_time_zone_or_pool_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"no time zone 'Mars/Olympus'.*Europe/Berlin"):
        declare_retraining("cpu", CONFIG, True, "Mars/Olympus")
    with pytest.raises(BadConfig, match="no work pool 'tpu': the pools are gpu, apple-silicon, cpu"):
        declare("tpu", CONFIG)


def test_without_a_server_the_error_says_how_to_name_one() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(MissingPart, match="set PREFECT_API_URL"):
        register(CONFIG)


def test_a_server_that_does_not_answer_is_named() -> None:
    url = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(MissingPart, match=f"server at {url} does not answer"):
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
