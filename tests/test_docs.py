"""The documentation: what is made from the code agrees with it, and the site builds without a broken link."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

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
