"""Fixtures: a tiny real base, data set and tokens, shared by the session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.bases import ResolvedBase
from tasks.records import DatasetRecord, TokensRecord
from tests.tiny_model import make_base, make_dataset, make_tokens


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are far faster on one thread, here and in child processes."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetRecord:
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, base: ResolvedBase, dataset: DatasetRecord) -> TokensRecord:
    return make_tokens(tmp_path_factory.mktemp("tokens"), base, dataset)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"
