from pathlib import Path

import pytest

from services.bench import opened
from tasks.config import BakeoffConfig
from tasks.settings import Settings

CONFIG = BakeoffConfig.model_validate({"dataset": "owner/name", "budget": {"usd": 2}})


def spend(run: str, usd: float) -> None:
    """One life of a run."""
    with opened(CONFIG, run=run) as bench:
        bench.cap.settle(usd, usd)


def spent(run: str) -> float:
    """What counts against the cap when another life of a run begins."""
    with opened(CONFIG, run=run) as bench:
        return bench.cap.spent_usd


@pytest.fixture
def store(shared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace is shared through a store."""
    ours = shared.stores["ours"]
    for name, value in {"BUCKET": ours.bucket, "ENDPOINT_URL": ours.endpoint_url}.items():
        monkeypatch.setenv(f"BAKEOFF_STORES__OURS__{name}", value)
    monkeypatch.setenv("BAKEOFF_WORKSPACE__STORE", "ours")


def test_the_cap_holds_for_all_lives_of_a_run_and_for_each_run_anew() -> None:
    with opened(CONFIG, run="again") as killed:
        killed.cap.settle(0.5, 1.5)
        with opened(CONFIG, run="again") as bench:  # nothing of the first life was closed
            assert bench.cap.spent_usd == 1.5
            assert bench.cap.reserve(0.6) == "reached"
            bench.cap.settle(0.25, 0.25)
    assert spent("again") == 1.75
    assert spent("another") == spent("") == 0


def test_what_a_run_on_another_machine_spent_counts_here_and_so_do_its_lives_that_were_killed(
    store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend("there", 0.5)
    spend("there", 0.25)
    spend("another", 1.0)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "elsewhere"))
    with opened(CONFIG, run="here") as bench:
        bench.account.count("there")
        assert bench.cap.spent_usd == pytest.approx(0.75)
        assert bench.cap.reserve(1.3) == "reached"
    assert spent("there") == pytest.approx(0.75), "a third life goes on from what the first two spent"


def test_what_other_runs_spent_for_one_counts_once_in_each_of_its_lives(
    store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(CONFIG, run="parent") as bench:
        bench.cap.settle(0.1, 0.1)
        bench.account.add("child")
        spend("child", 0.5)
        bench.account.count("child")
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "elsewhere"))
    with opened(CONFIG, run="parent") as bench:
        assert bench.cap.spent_usd == pytest.approx(0.6), "its child was not waited for in this life"
        spend("child", 0.25)
        bench.account.count("child")
        assert bench.cap.spent_usd == pytest.approx(0.85)
