"""What the rooms' Prefect tasks share, on a real Prefect server."""

import time
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import BadData
from tasks.orchestration import Lanes, artifact_key, stage

pytestmark = pytest.mark.slow


@stage("work", "work {name}")
def work(name: str, journal: Path) -> str:
    started = time.monotonic()
    time.sleep(0.4)
    (journal / name).write_text(f"{started} {time.monotonic()}")
    if name.startswith("bad"):
        raise BadData("row 3 is empty")
    return name


@flow(persist_result=False)
def turns(journal: Path, names: dict[str, set[str]]) -> list[str]:
    lanes = Lanes()
    futures = [lanes.submit(resources, work, name, journal) for name, resources in names.items()]
    lanes.finish()
    return [future.result() for future in futures]


def spans(journal: Path) -> dict[str, tuple[float, float]]:
    return {path.name: tuple(map(float, path.read_text().split())) for path in journal.iterdir()}  # type: ignore[misc]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_different_resources_work_side_by_side_and_the_same_one_takes_turns(server: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        done = turns(tmp_path, {"train": {"device"}, "local": {"device"}, "remote": {"remote"}, "both": {"device", "remote"}})
    assert done == ["train", "local", "remote", "both"]
    found = spans(tmp_path)
    assert not overlap(found["train"], found["local"])
    assert overlap(found["train"], found["remote"])
    assert found["both"][0] >= max(found["local"][1], found["remote"][1])


def test_a_failure_does_not_keep_the_others_from_their_work_and_is_raised_as_it_was(server: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: server}), pytest.raises(BadData, match="row 3"):
        turns(tmp_path, {"bad": {"device"}, "later": {"device"}, "remote": {"remote"}})
    assert set(spans(tmp_path)) == {"bad", "later", "remote"}


def test_artifact_keys_are_what_prefect_accepts() -> None:
    assert artifact_key("Progress", "ask some/model (few_shot)") == "progress-ask-some-model-few-shot"
