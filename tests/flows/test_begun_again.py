"""A run that is begun again on its id after it died, as the automation does it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry

from flows import bakeoff as main_job
from flows.retrain import retrain
from services.s3 import LocalS3
from tasks.config import BakeoffConfig
from tasks.records import Decision, Verdict
from tests.live import credentials
from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import GOOD

pytestmark = pytest.mark.slow
CONFIG = BakeoffConfig.model_validate(
    {
        "name": "begun-again",
        "dataset": {"source": "rows.csv", "near_duplicates": 0},
        "trivial": ["majority"],
        "prompts": [{"name": "asked", "endpoint": "loopback"}],
        "tuned": [],
        "store": "ours",
    }
)
ENDPOINT = {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 1, "json_schema": False, "concurrency": 8}


class Killed(BaseException):
    """Stands for SIGKILL."""


def knows(request: dict[str, Any], _number: int) -> Say:
    text = request["messages"][-1]["content"]
    return Say(completion("positive" if any(word in text for word in GOOD) else "negative"))


@pytest.fixture
def client(
    server: str, s3_server: LocalS3, bucket: str, readable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SyncPrefectClient]:
    """Runs go to the server, publish to the bucket and ask a model."""
    keys = credentials(s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["aws_secret_access_key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.chdir(readable)
    with Loopback(knows) as model:
        stores = {"ours": {"bucket": bucket, "endpoint_url": s3_server.endpoint_url}}
        (tmp_path / "settings.yaml").write_text(
            yaml.safe_dump({"endpoints": {"loopback": ENDPOINT | {"base_url": model.url}}, "stores": stores})
        )
        monkeypatch.setenv("BAKEOFF_SETTINGS", str(tmp_path / "settings.yaml"))
        with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
            yield client


def test_a_run_that_died_between_publishing_and_telling_tells_of_it_when_it_is_begun_again(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_verdict: Verdict) -> None:
        raise Killed

    run = client.create_flow_run(retrain)
    monkeypatch.setattr(main_job, "announce", dies)
    with pytest.raises(Killed):
        run_flow(retrain, flow_run=run, parameters={"config": CONFIG})
    client.set_flow_run_state(run.id, AwaitingRetry())

    told: list[Verdict] = []
    monkeypatch.setattr(main_job, "announce", told.append)
    found: Any = run_flow(retrain, flow_run=client.read_flow_run(run.id), parameters={"config": CONFIG})
    assert found.due
    assert found.verdict
    assert (found.verdict.decision, found.verdict.winner) == (Decision.PUBLISH, "asked")
    assert found.verdict.champion
    assert found.verdict.champion.version == 1
    assert found.verdict.why
    assert found.verdict.why.words == "there is no champion yet"
    assert found.verdict.spent_usd > 0, "what the first life paid is this run's"
    assert told == [found.verdict]
