"""Fixtures: trained and trivial contenders over a tiny real base and data set, made once a session."""

from collections.abc import Iterator

import pytest

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Method, Trivial, Tuned
from tasks.contenders.trivial import build_trivial
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import Settings
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
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
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A root in which the base `tiny` lies."""
    root = tmp_path_factory.mktemp("root")
    make_base(root / "tiny")
    return Settings(roots=[root])


@pytest.fixture(scope="session")
def base(settings: Settings) -> ResolvedBase:
    return resolve_base("tiny", "", settings)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetRecord:
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def lora(base: ResolvedBase, dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    recipe = Tuned(name="lora", base="tiny", method=Method.LORA, learning_rate=0.01, epochs=4, batch_size=8)
    return tune(recipe, dataset, make_tokens(workspace.root, base, dataset), base, workspace)


@pytest.fixture(scope="session")
def tfidf(dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    return build_trivial(Trivial.TFIDF, dataset, workspace)


@pytest.fixture(scope="session")
def majority(dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    return build_trivial(Trivial.MAJORITY, dataset, workspace)
