"""A small load of the campaign `serving`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import environment


@pytest.mark.slow
def test_no_request_is_lost_under_load_while_the_pointer_moves(root: Path) -> None:
    words = ["--seconds", "5", "--moves", "3", "--clients", "4", "--base", "tiny", "--output", "json"]
    command = [sys.executable, "-m", "benchmarks.serving", *words]
    done = subprocess.run(command, cwd=root, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["failed"], told["moves"]) == (0, 3)
    assert told["versions_seen"] == 4
    assert told["requests"] > 20
    assert told["rollback_s"] < 60
