"""Data sets from the Hub, through the real client, against a stand-in on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.made_rows import Rows, make_rows
from tests.hub.standin import Repository, StandInHub

RUN = """
import json, os, sys
from pathlib import Path
from tasks.config import Dataset
from tasks.data.load import load
from tasks.errors import BakeoffError
from tasks.settings import Settings
from tasks.workspace import Workspace
try:
    record = load(Dataset.model_validate_json(sys.argv[1]), Settings(), Workspace(Path(sys.argv[2])))
    print(json.dumps(record.model_dump(mode="json") | {"reused": record.reused}))
except BakeoffError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def save(folder: Path, **splits: Rows) -> Path:
    """A data repository as `push_to_hub` lays it out: Parquet in `data/`, features on the card."""
    import datasets

    features = datasets.Features({"label": datasets.ClassLabel(names=["Negative", "Positive"]), "text": datasets.Value("string")})
    (folder / "data").mkdir(parents=True)
    for name, rows in splits.items():
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "data" / f"{name}-00000-of-00001.parquet"))
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    return folder


def load_in_a_process(tmp_path: Path, url: str, **config: Any) -> dict[str, Any]:
    """Load in a process that knows only this Hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", RUN, json.dumps(config), str(tmp_path / "workspace")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


@pytest.fixture
def hub(tmp_path: Path) -> StandInHub:
    """One data set, with train and validation splits."""
    labels = ("Negative", "Positive")
    folder = save(tmp_path / "repository", train=make_rows(100, 1, labels), validation=make_rows(100, 2, labels))
    return StandInHub({"datasets/owner/reviews": folder})


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_at_its_commit_once(tmp_path: Path, hub: StandInHub) -> None:
    commit = Repository("datasets", "owner/reviews", hub.folders["datasets/owner/reviews"]).commit
    with hub.serving() as url:
        first = load_in_a_process(tmp_path, url, source="owner/reviews")
        again = load_in_a_process(tmp_path, url, source="owner/reviews")
    pinned = load_in_a_process(tmp_path, "http://127.0.0.1:9", source="owner/reviews", revision=commit)

    assert first["labels"] == ["Negative", "Positive"]
    assert first["revision"] == commit
    assert first["halved"]
    assert first["rows"]["train"] == first["rows"]["dev"] + first["rows"]["test"] == 100
    assert (first["reused"], again["reused"], pinned["reused"]) == (False, True, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"source": "owner/nothing"}, "BadConfig", "there is no data set 'owner/nothing'"),
        ({"source": "owner/reviews", "revision": "v9"}, "BadConfig", "no revision 'v9'"),
        ({"source": "owner/reviews", "subset": "klingon"}, "BadConfig", "klingon"),
    ],
)
def test_what_the_hub_does_not_have_is_refused(
    config: dict[str, str], error: str, said: str, tmp_path: Path, hub: StandInHub
) -> None:
    with hub.serving() as url:
        result = load_in_a_process(tmp_path, url, **config)

    assert result["error"] == error
    assert said in result["message"]


@pytest.mark.slow
def test_an_unreachable_hub_is_said_at_once(tmp_path: Path) -> None:
    result = load_in_a_process(tmp_path, "http://127.0.0.1:9", source="owner/reviews")

    assert result["error"] == "MissingPart"
    assert "the Hub could not be asked" in result["message"]


ASK = """
import sys
from tasks.config import Dataset
from tasks.data.sources import find_source
from tasks.retraining.memory import Hashes
from tasks.settings import Settings
from tasks.workspace import Workspace
from pathlib import Path
print(find_source(Dataset.model_validate({"source": "owner/reviews"}), Settings(), Hashes(Workspace(Path(sys.argv[1])))).revision)
"""


@pytest.mark.slow
def test_a_new_commit_on_the_hub_is_another_version_of_the_data_and_nothing_is_fetched_to_know_it(
    tmp_path: Path, hub: StandInHub
) -> None:
    """What a retrain compares with the revision that its champion learned from (tests/retraining/test_changes.py)."""
    folder = hub.folders["datasets/owner/reviews"]

    def asked(url: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", ASK, str(tmp_path / "workspace")]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    with hub.serving() as url:
        before = [asked(url), asked(url)]
        (folder / "README.md").write_text("---\nlicense: cc0-1.0\ntags: [more]\n---\n")
        after = asked(url)
    assert before == [before[0]] * 2
    assert after not in ("", before[0])
    assert after == Repository("datasets", "owner/reviews", folder).commit
    assert not [request for request in hub.requests if ".parquet" in request.path]
