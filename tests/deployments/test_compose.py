"""The compose file, as far as it can be checked without an engine: `python -m benchmarks.campaigns --only team`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.settings import load_settings


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "deployments" / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text))


def test_it_is_a_compose_file_as_the_specification_has_them(root: Path) -> None:
    checker = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, "deployments/compose.yaml"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_service_that_is_waited_for_can_say_that_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waited = {(name, how["condition"]) for each in services.values() for name, how in each.get("depends_on", {}).items()}
    assert {name for name, how in waited if how == "service_healthy"} == {"database", "server", "s3"}
    assert all("healthcheck" in services[name] for name, how in waited if how == "service_healthy")


def test_no_password_stands_in_it_and_none_has_a_default(compose: dict[str, Any], text: str, root: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == {"DATABASE_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    example = (root / "deployments" / "compose.env.example").read_text()
    assert {line.partition("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("#")} >= asked
    secrets = [
        value for each in compose["services"].values() for name, value in each.get("environment", {}).items() if "SECRET" in name
    ]
    assert secrets
    assert all(value.startswith("${") for value in secrets)


def test_only_the_ui_can_be_reached_from_outside_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert ports == {"server": ["127.0.0.1:4200:4200"]}


def test_a_workers_environment_is_settings_that_there_are(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose["services"]["worker-cpu"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.store("local").endpoint_url == "http://s3:8333"
    assert not settings.store("local").service


def test_what_is_kept_is_kept_in_volumes(compose: dict[str, Any]) -> None:
    services = compose["services"]
    kept = [at for each in services.values() for at in each.get("volumes", []) if not at.endswith(":ro")]
    assert sorted(at.partition(":")[0] for at in kept) == sorted(compose["volumes"])
    assert all(at.endswith(("/var/lib/bakeoff", "/data")) for at in kept)


def test_what_is_registered_is_a_teams_own_config_beside_its_rows_and_without_one_the_demo(
    compose: dict[str, Any], root: Path
) -> None:
    words = compose["services"]["register"]["command"]
    named = re.fullmatch(r"\$\{BAKEOFF_CONFIG:-(\S+)\}", words[words.index("--config") + 1])
    assert named
    assert (root / named[1]).is_file()
    example = (root / "deployments" / "compose.env.example").read_text()
    (suggested,) = re.findall(r"^# BAKEOFF_CONFIG=(\S+)$", example, re.MULTILINE)
    assert suggested.startswith("/data/")
    readers = [each for name, each in compose["services"].items() if name == "register" or name.startswith("worker")]
    assert len(readers) == 3
    assert all("${BAKEOFF_DATA:-../data}:/data:ro" in each["volumes"] for each in readers)
