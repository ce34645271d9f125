"""What every test shares: no network, one thread, a home of its own."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are slower on many threads
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the developer's reaches a test, and no test writes into the working folder."""
    for name in list(os.environ):
        if name.startswith("BAKEOFF_") and name != "BAKEOFF_TEST_FULL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parent.parent
