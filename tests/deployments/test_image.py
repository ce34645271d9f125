"""The GPU worker's image, as far as it can be checked without an engine."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    return (root / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say(root: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_worker_is_not_root_and_serves_the_gpu_pool(dockerfile: str) -> None:
    assert "USER 10001:10001" in dockerfile
    assert 'CMD ["python", "-m", "deployments", "worker", "gpu", "--with-healthcheck"]' in dockerfile


def test_every_install_is_held_to_the_lock_or_brings_nothing_along(dockerfile: str) -> None:
    installs = re.findall(r"pip install (.*?)(?:\\\n|\n|&&)", dockerfile)
    assert len(installs) == 3
    assert all("--constraint requirements.lock" in install or "--no-deps" in install for install in installs)


def test_the_build_sees_every_package_and_nothing_else(root: Path) -> None:
    named = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = {"pyproject.toml", "README.md", "requirements.lock", "requirements-demo.txt", "configs"}
    assert named == {*packages, *files}
    assert all((root / name).exists() for name in named)
