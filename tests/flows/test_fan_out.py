from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.register import register
from flows.fan_out import check_pools, contenders_of, refuse_idle, shares
from services.bench import opened
from services.s3 import LocalS3
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig
from tests.live import credentials

PARTS: dict[str, Any] = {
    "dataset": "owner/name",
    "prompts": [{"name": "a"}, {"name": "b"}, {"name": "c", "techniques": ["flipped"], "interview": "human"}],
    "tuned": [{"name": "t"}, {"name": "u"}],
}


def config(**pools: str) -> BakeoffConfig:
    return BakeoffConfig.model_validate({**PARTS, "pools": pools})


def test_each_tuned_contender_is_a_run_and_the_prompts_are_one_but_for_those_that_ask_a_person() -> None:
    away = config(tuned="gpu", prompts="cpu")
    assert shares(away, contenders_of(away)) == [("gpu", ["t"]), ("gpu", ["u"]), ("cpu", ["a", "b"])]
    assert shares(config(tuned="gpu"), contenders_of(config())) == [("gpu", ["t"]), ("gpu", ["u"])]
    assert shares(config(), contenders_of(config())) == []


def test_contenders_alone_bring_their_parts_and_are_made_by_the_run_itself() -> None:
    whole = BakeoffConfig.model_validate(
        {**PARTS, "pools": {"tuned": "gpu"}, "hybrids": [{"name": "h", "tuned": "t", "prompt": "a"}]}
    )
    alone = whole.alone(["h"])
    assert [[each.name for each in group] for group in (alone.hybrids, alone.tuned, alone.prompts)] == [["h"], ["t"], ["a"]]
    assert shares(alone, contenders_of(alone)) == []
    assert BakeoffConfig.model_validate(alone.model_dump(mode="json")) == alone
    assert whole.alone(["t"]).prompts == []


def test_other_machines_are_refused_where_the_workspace_is_this_ones_alone() -> None:
    with opened(config()) as bench, pytest.raises(BadConfig, match=r"workspace is this one's alone.*BAKEOFF_WORKSPACE__STORE"):
        check_pools(config(tuned="gpu"), bench)


def test_other_machines_are_refused_without_a_server(s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = credentials(s3_server)
    names = {"AWS_ACCESS_KEY_ID": keys["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"]}
    names |= {"BAKEOFF_STORES__OURS__BUCKET": bucket, "BAKEOFF_STORES__OURS__ENDPOINT_URL": s3_server.endpoint_url}
    for name, value in (names | {"BAKEOFF_WORKSPACE__STORE": "ours", "AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), opened(config()) as bench:
        check_pools(config(), bench)
        with pytest.raises(BadConfig, match="no Prefect server is named"):
            check_pools(config(prompts="cpu"), bench)


@pytest.mark.slow
def test_a_pool_that_nobody_works_for_is_refused(server: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        register(config(), nightly=[])
        with get_client(sync_client=True) as client:
            with pytest.raises(BadConfig, match="'gpu', which has no online worker"):
                refuse_idle(client, "gpu")
            with pytest.raises(BadConfig, match="'tpu', which the Prefect server does not know"):
                refuse_idle(client, "tpu")
