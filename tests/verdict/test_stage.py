"""The gate and its report as Prefect tasks: what the run's page shows."""

import json

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from tasks.config import BakeoffConfig
from tasks.records import Verdict
from tasks.settings import prefect_defaults
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.verdict.test_effects import better, prompted, with_effects

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prefect():
    prefect_defaults()
    with prefect_test_harness(server_startup_timeout=120):
        yield


def artifact(key: str) -> str:
    """The text of an artifact; asked over HTTP, since `Artifact.get` of Prefect 3.8.8 sends what its server refuses."""
    body = {"artifacts": {"key": {"any_": [key]}}}
    (found,) = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json=body).raise_for_status().json()
    return found["data"]


def test_the_verdict_is_kept_and_is_an_artifact_to_read_and_one_to_sort(prefect, workspace: Workspace):
    from tasks.verdict.stage import report

    few_shot = prompted("few_shot", "few_shot", better(gained=8, lost=1))
    made = with_effects(prompted("zero_shot"), few_shot).model_copy(update={"name": "my_bake_off"})
    flow(name="reporting")(lambda: report(made, workspace))()
    assert artifact("verdict-my-bake-off").startswith("# PUBLISHED: lora")
    assert Verdict.model_validate_json((workspace.root / "runs" / made.run_id / "verdict.json").read_text()) == made
    rows = json.loads(artifact("contenders-my-bake-off"))
    assert [row["contender"] for row in rows] == [line.name for line in made.contenders]
    assert rows[0]["test accuracy"] == 0.8
    effects = json.loads(artifact("effects-my-bake-off"))
    assert [(row["prompt"], row["difference"], row["finding"]) for row in effects] == [
        ("zero_shot", None, None),
        ("few_shot", 0.35, "gain"),
    ]


def test_a_run_through_the_tasks_lists_what_it_reused(prefect, dataset, places: NamedPlaces, workspace: Workspace):
    from tasks.config import Trivial
    from tasks.contenders.stage import trivial
    from tasks.evaluation.stage import evaluate
    from tasks.prompting.budget import Cap
    from tasks.verdict.stage import gate

    config = BakeoffConfig(dataset={"source": "made"}, name="made")

    @flow(name="two-trivial-ones")
    def run():
        contenders = [trivial(kind, dataset, workspace) for kind in Trivial]
        futures = [evaluate.submit(contender, dataset, places, Cap(0), config, workspace) for contender in contenders]
        return gate(config, dataset, [future.result() for future in futures], None, workspace)

    first = run()
    assert workspace.reused == []
    assert run().model_dump() == first.model_dump()
    assert len(workspace.reused) == 7
