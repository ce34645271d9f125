"""What the Hub does not have, or cannot say, ends a run at the door: a message that names it, no traceback, nothing spent.

The same faults of data sets, without the command line, are in `tests/data/test_hub.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.conftest import MODEL, World
from tests.hub.standin import Repository

pytestmark = pytest.mark.slow
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
RESOLVE = """
import json, sys
from tasks.bases import resolve_base
from tasks.errors import BakeoffError
from tasks.settings import load_settings
try:
    print(json.dumps(resolve_base(sys.argv[1], sys.argv[2], load_settings()).revision))
except BakeoffError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def resolve(world: World, base: str, revision: str = "", **environment: str) -> str | list[str]:
    """The commit of a base found by a process of its own; the error's type and message when it is not."""
    command = [sys.executable, "-c", RESOLVE, base, revision]
    known = {**world.environment, **environment}
    done = subprocess.run(command, env=known, cwd=world.folder, capture_output=True, text=True, check=True)
    found: str | list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("override", "environment", "status", "said"),
    [
        ("dataset.revision=v9", {}, 2, "data set 'shawhin/imdb-truncated' has no revision 'v9' on the Hub"),
        ("tuned.0.base=distilbert/nothing", {}, 2, "there is no base 'distilbert/nothing' on the Hub"),
        ("dataset.revision=main", NO_HUB, 1, "the Hub could not be asked for it"),
    ],
    ids=["no-such-revision", "no-such-base", "hub-out-of-reach"],
)
def test_a_fault_of_the_hub_is_told_and_nothing_is_spent(
    override: str, environment: dict[str, str], status: int, said: str, world: World, root: Path
) -> None:
    before = len(world.openai.requests)
    done = world.bakeoff("run", root / "configs" / "imdb.yaml", override, "--output", "json", **environment)

    assert done.returncode == status, done.stderr[-4000:]
    assert done.stdout == ""
    assert said in done.stderr.split("\nbakeoff: ")[1]
    assert "Traceback" not in done.stderr
    assert len(world.openai.requests) == before


def test_a_store_that_refuses_the_key_ends_the_run_before_anything_is_trained_or_asked(
    world: World, root: Path, tmp_path: Path
) -> None:
    before = len(world.openai.requests)
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong-canary", "BAKEOFF_HOME": str(tmp_path / "home")}
    done = world.bakeoff("run", root / "configs" / "imdb.yaml", "--output", "json", **wrong)

    assert done.returncode == 1, done.stderr[-4000:]
    assert "check AWS_ACCESS_KEY_ID" in done.stderr.split("\nbakeoff: ")[1]
    assert "Traceback" not in done.stderr
    assert "wrong-canary" not in done.stderr
    assert len(world.openai.requests) == before
    assert {path.name for path in (tmp_path / "home" / "workspace" / "products").iterdir()} == {"load"}


def test_a_stage_that_fails_is_told_and_not_what_waited_for_it(world: World, root: Path) -> None:
    done = world.bakeoff("run", root / "configs" / "imdb.yaml", "tuned.0.max_tokens=1024", "--output", "json")

    assert done.returncode == 2, done.stderr[-4000:]
    assert "bakeoff: lora: max_tokens is 1,024, but distilbert-base-uncased takes at most 512" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_is_found_under_its_old_name_and_needs_the_hub_only_once(world: World, tmp_path: Path) -> None:
    commit = Repository("models", "", world.hub.folders[MODEL]).commit
    home = {"HF_HOME": str(tmp_path)}
    assert resolve(world, "distilbert-base-uncased", **home, **NO_HUB) == [
        "MissingPart",
        "base 'distilbert-base-uncased' is not on this machine and the Hub cannot be reached (LocalEntryNotFoundError)",
    ]
    assert resolve(world, "distilbert-base-uncased", **home) == commit
    assert resolve(world, "distilbert-base-uncased", **home, **NO_HUB) == commit
    assert resolve(world, "distilbert-base-uncased", commit, **home, **NO_HUB) == commit


def test_a_base_or_revision_that_the_hub_lacks_is_refused_by_name(world: World) -> None:
    assert resolve(world, "distilbert-base-uncased", "v9") == [
        "BadConfig",
        "base 'distilbert-base-uncased' has no revision 'v9' on the Hub",
    ]
    assert resolve(world, "distilbert/nothing")[0] == "BadConfig"
