from pathlib import Path

import pytest

from services.bench import opened
from tasks.config import BakeoffConfig
from tasks.settings import Settings

CONFIG = BakeoffConfig.model_validate({"dataset": "owner/name", "budget": {"usd": 2}})


def spend(run: str, usd: float) -> None:
    """One life of a run."""
    with opened(CONFIG) as bench:
        bench.keep_account(run)
        bench.cap.settle(usd, usd)


def test_what_a_run_on_another_machine_spent_counts_here_and_so_do_its_lives_that_were_killed(
    shared: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shared.stores["ours"]
    for name, value in {"BUCKET": store.bucket, "ENDPOINT_URL": store.endpoint_url}.items():
        monkeypatch.setenv(f"BAKEOFF_STORES__OURS__{name}", value)
    monkeypatch.setenv("BAKEOFF_WORKSPACE__STORE", "ours")
    spend("there", 0.5)
    spend("there", 0.25)
    spend("another", 1.0)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "elsewhere"))
    with opened(CONFIG) as bench:
        bench.count_spent("there")
        assert bench.cap.spent_usd == pytest.approx(0.75)
        assert bench.cap.reserve(1.3) == "reached"
    with opened(CONFIG) as bench:
        bench.keep_account("there")
        assert bench.cap.spent_usd == pytest.approx(0.75), "a third life goes on from what the first two spent"
