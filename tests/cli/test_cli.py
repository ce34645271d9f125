"""The command line, as a process of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.run import named_server
from tasks.errors import MissingPart
from tests.live import environment

BAKEOFF = str(Path(sys.executable).parent / "bakeoff")
COMMANDS = ("run", "retrain", "predict", "prompt", "grade", "serve", "export", "reproduce", "report", "runs", "compare", "champion")


def bakeoff(folder: Path, *words: str, **names: str) -> "subprocess.CompletedProcess[str]":
    env = environment(BAKEOFF_HOME=str(folder / "home"), **names)
    return subprocess.run([BAKEOFF, *words], env=env, cwd=folder, capture_output=True, text=True, timeout=200)


def write(folder: Path, text: str) -> str:
    (folder / "task.yaml").write_text(text)
    return "task.yaml"


def test_help_names_every_command(tmp_path: Path) -> None:
    done = bakeoff(tmp_path, "--help")
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2]
    assert set(re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("command", [[], *([each] for each in COMMANDS), ["champion", "show"]], ids=" ".join)
def test_help_and_start_import_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cli.main import main;"
        f"assert CliRunner().invoke(main, {[*command, '--help']}).exit_code == 0;"
        "heavy = {'torch', 'transformers', 'datasets', 'prefect', 'boto3', 'pydantic', 'pyarrow', 'openai'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("dataset: rows.csv\nprompts: [{name: a, endpoint: nowhere}]", [], "no endpoint named 'nowhere'"),
        ("dataset: rows.csv\nprompts: [{name: a, endpoint: openai}]", [], "OPENAI_API_KEY"),
        ("dataset: rows.csv\nstore: aws", [], "BAKEOFF_STORES__AWS__BUCKET"),
        ("dataset: rows.csv\ncolour: red", [], "colour"),
        ("dataset: rows.csv", ["tuned.7.epochs=1"], "override"),
        ("dataset: rows.csv", ["epochs"], "key=value"),
        ("dataset: rows.csv\nbudget: {usd: -1}", [], "budget.usd"),
        ("dataset: rows.csv", [], "no 'rows.csv'"),
        ("dataset: /etc/passwd", [], "outside the folders"),
        ("dataset: {source: task.yaml}", [], "no ending that says how to read it"),
        ("dataset: rows.csv\nprompts: [{name: a, template: none.jinja}]", [], "no 'none.jinja'"),
        ("dataset: rows.csv\nprompts: [{name: a, template: task.yaml}]", [], "does not show the row"),
        ("dataset: rows.csv\nprompts: [{name: a, template: task.yaml}]  # {{", [], "cannot be rendered"),
    ],
)
def test_a_wrong_config_is_refused_with_status_2_and_no_traceback(
    tmp_path: Path, text: str, words: list[str], message: str
) -> None:
    done = bakeoff(tmp_path, "run", write(tmp_path, text), *words, "--output", "json")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "home" / "workspace").exists()


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    done = bakeoff(tmp_path, "run", "none.yaml")
    assert (done.returncode, "none.yaml" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to label"),
        (["--text", "  "], "empty"),
        (["--input", "subject=a"], "subject, body"),
        (["--text", "a"], "--input COLUMN=TEXT"),
    ],
)
def test_predict_refuses_rows_that_are_not_the_configs(tmp_path: Path, words: list[str], message: str) -> None:
    columns = "{source: rows.csv, inputs: [subject, body]}" if message != "empty" else "rows.csv"
    done = bakeoff(tmp_path, "predict", write(tmp_path, f"dataset: {columns}"), *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_a_champion_show_says_so_and_predict_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path, "dataset: rows.csv\nprompts: []")
    shown = bakeoff(tmp_path, "champion", "show", config, "--output", "json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) is None
    predicted = bakeoff(tmp_path, "predict", config, "--text", "a fine film")
    assert predicted.returncode == 2
    assert "no champion yet" in predicted.stderr


@pytest.mark.slow
def test_bad_rows_are_refused_with_their_numbers_from_1_and_no_traceback(tmp_path: Path) -> None:
    rows = "".join(f"some text number {n},{'good' if n % 2 else 'bad'}\n" for n in range(60))
    (tmp_path / "rows.csv").write_text("text,label\n,good\n" + rows)
    done = bakeoff(tmp_path, "run", write(tmp_path, "dataset: rows.csv\nprompts: []"), PREFECT_HOME=str(tmp_path / "prefect"))
    assert done.returncode == 2, done.stderr
    assert "row 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_operators_roots_hold_beside_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("text,label\n")
    (tmp_path / "work" / "bakeoff.yaml").write_text(f"roots: ['{tmp_path / 'data'}']\n")
    code = (
        "from pathlib import Path; from cli.run import allow_roots; from tasks.settings import load_settings;"
        "allow_roots(Path('task.yaml')); print(load_settings().readable('rows.csv'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=tmp_path / "work", capture_output=True, text=True)
    assert done.stdout.strip() == str((tmp_path / "data" / "rows.csv").resolve()), done.stderr


@pytest.mark.parametrize("words", [["run"], ["predict", "--text", "a fine film"], ["champion", "show"]])
def test_a_home_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "rows.csv").write_text("text,label\n")
    config = write(tmp_path, "dataset: rows.csv\nprompts: []")
    env = environment(BAKEOFF_HOME=str(tmp_path / "file" / "home"))
    done = subprocess.run([BAKEOFF, *words, config], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert "BAKEOFF_HOME" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_a_prefect_server_that_does_not_answer_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    config = write(tmp_path, "dataset: rows.csv\nprompts: []")
    done = bakeoff(tmp_path, "run", config, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="0")
    assert done.returncode == 1
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("before", "expected"), [(KeyboardInterrupt, KeyboardInterrupt), (ValueError, MissingPart)])
def test_a_server_that_is_gone_is_an_interruption_after_ctrl_c_and_else_named(
    before: type[BaseException], expected: type[BaseException]
) -> None:
    def end_of_a_run() -> None:
        with named_server():
            try:
                raise before
            finally:  # as Prefect does, the run tells the server
                httpx.get("http://127.0.0.1:9")

    with pytest.raises(expected):
        end_of_a_run()
