"""The Dockerfile's steps, done without an engine. The project's targets take minutes; what is built here is small."""

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from deployments.build import OWN, SYSTEM, Failed, build, copy, ignored, needed, read, sizes

DOCKERFILE = """\
# A comment.
FROM bare AS packages
RUN mkdir -p /opt/venv/bin && printf '#!/bin/sh\\necho made by $0' > /opt/venv/bin/tool \\
    && chmod +x /opt/venv/bin/tool
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
ARG WHICH=""
COPY locks/one.lock ./
RUN tool > told && cat one.lock >> told && printf "%s" "${WHICH:?name it}" >> told

FROM bare AS unneeded
RUN exit 9

FROM bare AS worker
RUN apt-get install --yes nothing
WORKDIR /opt/bakeoff
VOLUME /data
COPY . .

FROM worker AS cpu
COPY --from=packages /opt/venv /opt/venv
RUN test -f locks/one.lock && ! test -e secret && ! command -v tool && test "$PIP_INDEX_URL" = given && test -z "$BAKEOFF_HOME"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "locks" / "__pycache__").mkdir(parents=True)
    (root / "Dockerfile").write_text(DOCKERFILE)
    (root / ".dockerignore").write_text("# Only what is needed.\n*\n!locks\n**/__pycache__\n")
    (root / "secret").write_text("not for an image")
    (root / "locks" / "one.lock").write_text("one\n")
    (root / "locks" / "__pycache__" / "one.pyc").write_text("old")
    return root


def test_a_targets_steps_are_done_in_its_own_folders_and_those_for_the_system_are_told(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "given")
    told: list[str] = []
    into = tmp_path / "made"
    build(project, "cpu", into, {"WHICH": "two"}, told.append)
    assert (into / "build" / "told").read_text() == f"made by {into}/opt/venv/bin/tool\none\ntwo"
    assert {str(each.relative_to(into)) for each in (into / "opt" / "bakeoff").rglob("*")} == {
        "opt/bakeoff/locks",
        "opt/bakeoff/locks/one.lock",
    }
    assert "worker: not done here, it changes the system: RUN apt-get install --yes nothing" in told
    assert not any("unneeded" in line for line in told)
    assert set(sizes(into)) == {"/opt/venv", "/opt/bakeoff", "/data"}


def test_a_step_that_fails_ends_the_build_and_is_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"exit status 9: RUN exit 9"):
        build(project, "unneeded", tmp_path / "made", {}, print)
    with pytest.raises(Failed, match="is not empty"):
        build(project, "cpu", project, {}, print)
    with pytest.raises(Failed, match="no target 'tpu': it has packages, unneeded, worker, cpu"):
        build(project, "tpu", tmp_path / "other", {}, print)


def test_the_projects_targets_have_no_step_that_would_write_outside_of_the_images_own_folders(root: Path) -> None:
    stages = {stage.name: stage for stage in read(root / "Dockerfile")}
    assert needed("cpu", stages) == ["packages", "packages-cpu", "worker", "cpu"]
    assert needed("gpu", stages) == ["packages", "packages-gpu", "worker", "gpu"]
    for stage in stages.values():
        for instruction, rest in stage.steps:
            if instruction == "RUN" and not rest.startswith(SYSTEM):
                named = [word for word in rest.split() if word.startswith("/")]
                assert all(word.startswith(OWN) for word in named), rest
    for target in ("cpu", "gpu"):
        assert ("RUN", 'python -c "import xllamacpp, torch, flows.bakeoff"') in stages[target].steps


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("flows/bakeoff.py", False),
        ("pyproject.toml", False),
        ("flows/__pycache__/bakeoff.pyc", True),
        ("__pycache__", True),
        ("bakeoff.yaml", True),
        ("deployments/image/cpu.lock", False),
        (".git/config", True),
        ("tests/conftest.py", True),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(root: Path, path: str, out: bool) -> None:
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored(PurePosixPath(path), patterns) is out


def test_the_image_is_given_every_file_that_git_has_of_the_packages_and_no_other(root: Path, tmp_path: Path) -> None:
    packages = ["cli", "configs", "deployments", "flows", "services", "serving", "tasks", "pyproject.toml", "README.md"]
    kept = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", *packages], cwd=root, text=True).splitlines()
    kept = [name for name in kept if (root / name).exists()]
    copy(root, ["."], tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)


def test_the_command_wants_no_package_and_ends_with_a_message(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "deployments.build", "tpu", "--into", str(tmp_path / "made")]
    done = subprocess.run(command, cwd=root, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert (done.returncode, "bakeoff: the Dockerfile has no target 'tpu'" in done.stderr) == (1, True)
