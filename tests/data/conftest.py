"""What the tests of this room share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config import Dataset
from tasks.data.load import load
from tasks.records import DatasetRecord
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.data.made_rows import Rows, make_rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run that may read the test's folder."""
    return Settings(home=tmp_path / "home", roots=[tmp_path])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def load_it(settings: Settings, workspace: Workspace) -> Callable[..., DatasetRecord]:
    """Load a source, with the config's other keys as keyword arguments."""

    def run(source: str, **config: Any) -> DatasetRecord:
        return load(Dataset.model_validate({"source": source, **config}), settings, workspace)

    return run


@pytest.fixture
def rows() -> Rows:
    """200 rows, two labels."""
    return make_rows(200)
