"""`bakeoff grade`: what it refuses before anything is started."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.grading.making import make_config
from tests.live import BIN, environment


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "rows.csv", "--to", "out.csv"], "'question' is empty: row 2 (line 3)"),
        (["--input", "none.csv", "--to", "out.csv"], "none.csv"),
        (["--input", "rows.csv", "--to", "out.parquet"], "same format"),
        (["--input", "rows.csv", "--to", "out.csv", "--prompt", "nobody"], "no prompt 'nobody'"),
        (["--input", "rows.csv", "--to", "out.csv", "prompts.0.techniques=[few_shot]"], "needs train rows"),
    ],
)
def test_what_cannot_be_graded_is_refused_with_status_2_before_anything_starts(
    tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(make_config(endpoint="local").model_dump(mode="json")))
    (tmp_path / "rows.csv").write_text("question,correct_answer,student_answer\nq,a,s\n,a,s\n")
    env = environment(BAKEOFF_HOME=str(tmp_path / "home"))
    command = [str(BIN / "bakeoff"), "grade", "task.yaml", *words, "--output", "json"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home", "rows.csv", "task.yaml"]  # the home is made, and empty
