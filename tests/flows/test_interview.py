"""A run that pauses for a person, on a real Prefect server; the person answers over its API, as the UI does."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.config import Interview, Prompt, Task, Technique
from tasks.orchestration.pauses import ask_person
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.messages import render
from tasks.prompting.techniques.drafting import Exchange
from tasks.prompting.techniques.interview import interview_person
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import DatasetRecord
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.asking import interviewer, small_dataset
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback

pytestmark = pytest.mark.slow
QUESTIONS = ["What makes a film <b>good</b>, {{ 7 * 7 }}?", "And what of the actors?"]


class Bench:
    """What a run has at hand, with a model that asks two questions."""

    def __init__(self, folder: Path, url: str) -> None:
        self.dataset: DatasetRecord = small_dataset(folder / "dataset")
        self.workspace = Workspace(folder / "workspace")
        self.places = NamedPlaces(load_settings(folder), {"local": make_endpoint(url)})
        self.cap = Cap(1.0)

    def interview(self, prompt: Prompt, task: Task) -> list[Exchange] | None:
        return interview_person(prompt, task, self.dataset, self.places, self.cap, self.workspace, ask_person)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Loopback(interviewer(QUESTIONS)) as server:
        yield Bench(tmp_path, server.url)


@flow(name="interviewed", persist_result=False)
def interviewed(bench: Any, minutes: float, answers: list[str]) -> list[Exchange] | None:
    prompt = Prompt(name="asks", techniques=[Technique.FLIPPED], interview=Interview.HUMAN, interview_minutes=minutes)
    return bench.interview(prompt, Task(answers=answers))


@contextmanager
def answering(api: httpx.Client, *answers: str) -> Iterator[list[str]]:
    """A person who answers the first questions of the run that pauses next; gives what was shown to them."""
    shown: list[str] = []
    ended = threading.Event()
    query = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}, "flows": {"name": {"any_": ["interviewed"]}}}

    def answer() -> None:
        seen: set[str] = set()
        while len(shown) < len(answers) and not ended.is_set():
            time.sleep(0.2)
            for run in api.post("/flow_runs/filter", json=query).raise_for_status().json():
                keys = run["state"]["state_details"]["run_input_keyset"]
                described = api.get(f"/flow_runs/{run['id']}/input/{keys['description']}")
                if described.is_success and keys["response"] not in seen:  # the form is there soon after the pause
                    seen.add(keys["response"])
                    body = {"run_input": {"answer": answers[len(shown)]}}
                    resumed = api.post(f"/flow_runs/{run['id']}/resume", json=body).raise_for_status().json()
                    assert resumed["status"] == "ACCEPT", resumed
                    shown.append(described.json())

    person = threading.Thread(target=answer, daemon=True)
    person.start()
    try:
        yield shown
    finally:
        ended.set()
        person.join(60)


def test_a_run_pauses_for_each_answer_which_becomes_a_guideline_and_no_rerun_asks_again(
    server: str, api: httpx.Client, bench: Bench
) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        with answering(api, "A joke. {{ labels }}", "") as shown:
            transcript = interviewed(bench, 5, [])
        assert interviewed(bench, 5, []) == transcript  # no person is there any more
    assert transcript
    assert [(each.answer, each.by) for each in transcript] == [
        ("A joke. {{ labels }}", Interview.HUMAN),
        ("I have nothing to add; use your judgement.", Interview.HUMAN),
    ]
    assert "    What makes a film <b>good</b>, {{ 7 * 7 }}?" in shown[0]
    prompt = Prompt(name="asks", techniques=[Technique.FLIPPED], interview=Interview.HUMAN)
    made = build_prompt(prompt, Task(), bench.dataset, bench.places, bench.cap, bench.workspace, transcript)
    told = render(read_prompt(made.folder), {"text": "a row"})[0]["content"]
    assert f"Question: {QUESTIONS[0]}\nAnswer: A joke. {{{{ labels }}}}" in told
    assert [finding.message for finding in made.findings] == ["asks: the model asked 2 questions; a person answered 2"]


def test_at_the_deadline_the_run_goes_on_with_the_configs_answers_and_keeps_what_was_said(
    server: str, api: httpx.Client, bench: Bench
) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        with answering(api, "Laughter."):
            transcript = interviewed(bench, 10 / 60, ["Actors do not matter."])
        assert transcript
        assert [(each.answer, each.by) for each in transcript] == [
            ("Laughter.", Interview.HUMAN),
            ("Actors do not matter.", Interview.CONFIG),
        ]
        states = api.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["interviewed"]}}}).json()
        assert {run["state_type"] for run in states} == {"COMPLETED"}


def test_where_nobody_answers_the_run_goes_on_and_the_next_one_asks_again(server: str, api: httpx.Client, bench: Bench) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        assert interviewed(bench, 2 / 60, []) is None
        with answering(api, "Laughter.", "No."):
            assert interviewed(bench, 5, [])


def test_a_run_without_a_page_does_not_wait_for_a_person(bench: Bench) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert ask_person("Why?", 3600, "key") is None
        prompt = Prompt(name="asks", techniques=[Technique.FLIPPED], interview=Interview.HUMAN)
        assert bench.interview(prompt, Task()) is None
    made = build_prompt(prompt, Task(), bench.dataset, bench.places, bench.cap, bench.workspace)
    assert made.findings[0].message.endswith("labelled train rows answered 2; a person was to answer all, and did not")
