"""The documentation: what is made from the code agrees with it, and the site builds without a broken link."""

import os
import plistlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.pools import refuse_unknown
from tasks.child import GRACE_S
from tasks.settings import load_settings

PAGES = ("config.md", "settings.md", "verdict.md", "commands.md")


def test_the_reference_says_what_the_code_says(root: Path) -> None:
    made = runpy.run_path(str(root / "docs/reference/generate.py"))["pages"]()
    assert set(made) == set(PAGES)
    differ = [name for name, text in made.items() if (root / "docs/reference" / name).read_text() != text.rstrip() + "\n"]
    assert differ == [], "run `make docs`"


def test_the_site_builds_and_no_link_in_it_is_broken(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "true"})
    assert done.returncode == 0, done.stderr
    assert "fonts.googleapis" not in (tmp_path / "site" / "index.html").read_text(), "the site fetches nothing from elsewhere"


def test_what_a_mac_is_told_to_keep_running_is_a_worker_with_settings_that_there_are(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (text,) = re.findall(r"```xml\n(.*?)```", (root / "docs/how-to/mac.md").read_text(), re.DOTALL)
    told = plistlib.loads(text.encode())
    assert told["ProgramArguments"][1:4] == ["-m", "deployments", "worker"]
    refuse_unknown(told["ProgramArguments"][4])
    assert told["ExitTimeOut"] >= GRACE_S + 20
    assert told["StandardOutPath"] == told["StandardErrorPath"]
    variables = told["EnvironmentVariables"]
    assert {"PREFECT_API_URL", "BAKEOFF_HOME", "BAKEOFF_ROOTS", "BAKEOFF_SETTINGS"} == set(variables)
    (tmp_path / "bakeoff.yaml").write_text("usd_per_hour: {mps: 1}")
    for name, value in (variables | {"BAKEOFF_SETTINGS": str(tmp_path / "bakeoff.yaml")}).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (str(settings.home), [str(each) for each in settings.roots]) == (variables["BAKEOFF_HOME"], [variables["BAKEOFF_ROOTS"]])
    assert settings.usd_per_hour["mps"] == 1
