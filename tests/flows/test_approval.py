"""A run that waits for a person's yes to a publication, on a real Prefect server."""

from datetime import datetime
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.config import Trivial
from tasks.contenders.trivial import build_trivial
from tasks.orchestration.pauses import ask_approval
from tasks.records import Approval, Decision, Verdict
from tasks.verdict.report import approved
from tasks.workspace import Workspace
from tests.registry.making import make_verdict, tiny_dataset

pytestmark = pytest.mark.slow
SECONDS = 3
HOURS = SECONDS / 3600


def test_without_a_word_in_time_the_run_goes_on_and_nothing_is_published(
    server: str, api: httpx.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = tiny_dataset(tmp_path)
    found: Verdict = make_verdict(build_trivial(Trivial.MAJORITY, dataset, Workspace(tmp_path / "workspace")), dataset)

    @flow(name="approving", persist_result=False)
    def approving() -> Approval:
        return ask_approval(found, HOURS)

    with temporary_settings({PREFECT_API_URL: server}):
        word = approving()
    assert word == Approval(approved=None, hours=HOURS)
    verdict = approved(found, word)
    assert (verdict.decision, verdict.winner, verdict.approval) == (Decision.NOT_ENOUGH_EVIDENCE, None, word)
    assert f"nobody approved majority within {HOURS:g} hours: it is not published" in caplog.text
    [run] = api.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["approving"]}}}).raise_for_status().json()
    assert run["state_type"] == "COMPLETED"
    states = api.get("/flow_run_states/", params={"flow_run_id": run["id"]}).raise_for_status().json()
    times = {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in states}
    assert (times["COMPLETED"] - times["PAUSED"]).total_seconds() >= SECONDS - 1  # it did wait
