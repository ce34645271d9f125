"""What the project says of itself holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main

BIN = Path(sys.executable).parent


def pages(root: Path) -> list[Path]:
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def test_imports_go_one_way(root: Path) -> None:
    done = subprocess.run([BIN / "lint-imports", "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_make_target_that_the_docs_name_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in pages(root):
        named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{page.name} names {named - targets}"


@pytest.mark.parametrize("target", ["setup", "demo", "test", "deploy", "worker", "stages", "lock"])
def test_make_targets_can_be_planned(root: Path, target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_that_the_docs_name_exists(root: Path) -> None:
    for page in pages(root):
        for command in re.findall(r"(?:^    |`)bakeoff ([a-z]+)", page.read_text(), re.MULTILINE):
            assert command in main.commands, f"{page.name} names `bakeoff {command}`"


def test_every_file_that_the_docs_name_is_there(root: Path) -> None:
    for page in pages(root):
        text = page.read_text()
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name
        paths = re.findall(r"`((?:tasks|flows|services|cli|deployments|configs|docs|tests)/[\w./-]*)`", text)
        assert [path for path in paths if not (root / path).exists()] == [], page.name


def test_no_page_holds_a_placeholder(root: Path) -> None:
    for page in pages(root):
        assert re.findall(r"^(?:@@\w+@@|[A-Z]+_[A-Z_]+|TODO.*)$", page.read_text(), re.MULTILINE) == [], page.name


def test_every_test_that_the_docs_name_is_there(root: Path) -> None:
    for page in pages(root):
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
            assert f"def {name}(" in (root / path).read_text(), f"{page.name} names {path}::{name}"


def test_every_dependency_has_its_line(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    listed = (root / "docs" / "dependencies.md").read_text()
    names = [re.split(r"[<>=! \[]", requirement)[0] for requirement in project["dependencies"]]
    assert [name for name in names if not re.search(rf"\b{name}\b", listed)] == []


def test_the_lock_pins_every_dependency(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = set(re.findall(r"^([\w.-]+)==", (root / "requirements.lock").read_text(), re.MULTILINE))
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[<>=! \[]", requirement)[0].lower().replace("_", "-") for requirement in wanted} - {"bakeoff"}
    assert names <= {name.lower().replace("_", "-") for name in pinned}
