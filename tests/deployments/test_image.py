"""The workers' images, as far as it can be checked without an engine."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from deployments import locks


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    return (root / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say(root: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_there_is_a_target_a_pool_and_none_runs_as_root(dockerfile: str) -> None:
    targets = dockerfile.partition(" AS worker\n")[2]
    assert "USER 10001:10001" in targets
    assert re.findall(r"^FROM worker AS (\w+)", targets, flags=re.MULTILINE) == ["cpu", "gpu"], "the last one is the default"
    assert re.findall(r'CMD \["python", "-m", "deployments", "worker", "(\w+)", "--with-healthcheck"\]', targets) == ["cpu", "gpu"]


def test_every_install_brings_nothing_along_and_all_from_locks_is_checked_by_hash(dockerfile: str) -> None:
    installs = re.findall(r"pip install (.*?)(?:\\\n|\n|&&)", dockerfile)
    assert len(installs) == 5
    assert all("--no-deps" in install for install in installs)
    assert all("--require-hashes" in install for install in installs if ".lock" in install)


def test_the_images_locks_pin_with_hashes_what_the_tests_lock_pins(root: Path) -> None:
    tested = set((root / "requirements.lock").read_text().splitlines()) | set(
        (root / "requirements-demo.txt").read_text().splitlines()
    )
    tested = {line.replace(" ", "").partition(";")[0] for line in tested}
    for name in ("common.lock", "cuda.lock"):
        entries = re.findall(r"^\S.*?(?=^\S|\Z)", (root / "deployments/image" / name).read_text(), flags=re.MULTILINE | re.DOTALL)
        pins = {entry.split()[0] for entry in entries}
        assert len(entries) > 10
        assert pins - tested == set()
        assert all("--hash=sha256:" in entry for entry in entries)


def test_the_cpu_image_has_the_torch_of_the_gpu_image_without_cuda_and_by_hash(root: Path) -> None:
    cpu, cuda = ((root / "deployments/image" / f"{name}.lock").read_text() for name in ("cpu", "cuda"))
    (torch,) = re.findall(r"^(torch==\S+) ", cuda, flags=re.MULTILINE)
    assert cpu.startswith(f"{torch}+cpu \\\n    --hash=sha256:")
    locks.lock_cpu(torch, root / "deployments/image/cpu.lock", index="")
    with pytest.raises(SystemExit, match=r"does not pin torch==99\+cpu: give TORCH_INDEX"):
        locks.lock_cpu("torch==99", root / "deployments/image/cpu.lock", index="")


def test_the_cpu_image_is_not_built_from_an_index_that_nobody_named(dockerfile: str, tmp_path: Path) -> None:
    (run,) = re.findall(r"^RUN (pip install .*--requirement cpu\.lock(?:\\\n|.)*)$", dockerfile, flags=re.MULTILINE)
    done = subprocess.run(["sh", "-c", run], env={"TORCH_INDEX": ""}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "give the address of the CPU wheels of PyTorch: --build-arg TORCH_INDEX=ADDRESS" in done.stderr


def test_a_wheel_whose_bytes_are_others_is_not_installed(root: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("six.py", "print('not what was locked')")
        made.writestr("six-1.17.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: six\nVersion: 1.17.0\n")
        made.writestr("six-1.17.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("six-1.17.0.dist-info/RECORD", "")
    locked = re.search(r"^six==.*?(?=^\S|\Z)", (root / "deployments/image/common.lock").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert locked
    (tmp_path / "six.lock").write_text(locked[0])
    asked = [
        "install",
        "--no-index",
        "--find-links",
        ".",
        "--no-deps",
        "--require-hashes",
        "--requirement",
        "six.lock",
        "--target",
        "to",
    ]
    done = subprocess.run([sys.executable, "-m", "pip", *asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "to" / "six.py").exists()


def test_the_build_sees_every_package_and_nothing_else(root: Path) -> None:
    named = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert named == {*packages, "pyproject.toml", "README.md", "configs"}
    assert all((root / name).exists() for name in named)
