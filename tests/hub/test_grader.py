"""`configs/grader.yaml` has eight rows: enough to grade with, too few for a bake-off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import load_config
from tasks.data.load import load
from tasks.errors import BadData
from tasks.settings import Settings
from tasks.workspace import Workspace


def test_eight_rows_are_refused_with_how_many_a_bake_off_needs(root: Path, tmp_path: Path) -> None:
    configs = root / "configs"
    dataset = load_config(configs / "grader.yaml").dataset
    with pytest.raises(BadData, match=r"a bake-off needs more than 8 rows: a verdict takes 30 test rows .* about 120 rows in all"):
        load(dataset, Settings(roots=[configs]), Workspace(tmp_path))


@pytest.mark.slow
def test_the_command_line_says_so_kindly_and_starts_no_llm(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "BAKEOFF_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [str(Path(sys.executable).with_name("bakeoff")), "run", str(root / "configs" / "grader.yaml"), "--output", "json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "a bake-off needs more than 8 rows" in done.stderr.split("\nbakeoff: ")[1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["workspace"]
    assert done.stdout == ""
