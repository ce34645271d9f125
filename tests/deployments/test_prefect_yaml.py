"""`prefect deploy --all`, by Prefect's own command on the real server, against what `make deploy` registers."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.prefect_yaml import CONFIG, FILE, text
from deployments.register import register
from tasks.config import load_config
from tests.live import BIN, environment

OF_THE_MOMENT = {"id", "created", "updated", "created_by", "updated_by", "last_polled", "status", "version_id", "branch"}
"""What says when something was made and by whom, and not what it is."""


def test_the_file_says_what_is_declared() -> None:
    assert FILE.read_text() == text(load_config(CONFIG)), "run `make docs`"


def ours(api: httpx.Client) -> list[dict[str, Any]]:
    """The deployments, without those that other tests made of flows of their own."""
    found = api.post("/deployments/filter", json={}).raise_for_status().json()
    return [each for each in found if each["entrypoint"].startswith("flows.")]


def remove(api: httpx.Client) -> None:
    for each in ours(api):
        api.delete(f"/deployments/{each['id']}").raise_for_status()


def ids(api: httpx.Client) -> list[str]:
    """Of deployments, pools and automations."""
    others = [
        each for kind in ("work_pools", "automations") for each in api.post(f"/{kind}/filter", json={}).raise_for_status().json()
    ]
    return sorted(each["id"] for each in [*ours(api), *others])


def deployments(api: httpx.Client) -> dict[str, Any]:
    """What each deployment is, by the path of its flow and its name."""
    return {f"{each['entrypoint']} {each['name']}": _lasting(each) for each in ours(api)}


def _lasting(part: Any) -> Any:
    """Without what is of the moment; no steps before a run (`[]`) and none told (`null`) are the same."""
    if isinstance(part, dict):
        names = OF_THE_MOMENT | {name for name in part if name.endswith("_id")}
        return {name: _lasting(value) for name, value in part.items() if name not in names} | (
            {"pull_steps": part["pull_steps"] or []} if "pull_steps" in part else {}
        )
    if isinstance(part, str):
        return "deployment:" if part.startswith("deployment:") else part  # a limit's name, with the deployment's id
    return [_lasting(each) for each in part] if isinstance(part, list) else part


@pytest.mark.slow
def test_prefect_deploy_makes_what_make_deploy_makes_and_nothing_twice(
    server: str, api: httpx.Client, root: Path, tmp_path: Path
) -> None:
    command, changed = [str(BIN / "prefect"), "--no-prompt", "deploy", "--all"], tmp_path / "changed.yaml"
    env = environment(PREFECT_API_URL=server, PREFECT_HOME=str(tmp_path))

    def deploy(*more: str) -> None:
        done = subprocess.run([*command, *more], env=env, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    remove(api)
    with temporary_settings({PREFECT_API_URL: server}):
        register(load_config(CONFIG), nightly=["cpu"])
    registered, there = deployments(api), ids(api)
    assert len(registered) == 21
    remove(api)
    deploy()
    made = ids(api)
    assert (deployments(api), len(made)) == (registered, len(there)), "what was not there is made the same"
    deploy()
    assert (deployments(api), ids(api)) == (registered, made), "what was there is updated to the same, and nothing is made twice"
    changed.write_text(FILE.read_text().replace("cron: 0 2 * * *", "cron: 0 3 * * *"))
    deploy("--prefect-file", str(changed))
    assert ids(api) == made, "what was there is updated after a change, and nothing is made twice"
    assert {each["schedule"]["cron"] for one in ours(api) for each in one["schedules"]} == {"0 3 * * *"}
