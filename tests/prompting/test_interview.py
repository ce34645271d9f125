from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.config import Interview, Prompt, Task, Technique
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.messages import render
from tasks.prompting.techniques.interview import NOTHING, interview_person, read_question
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.asking import interviewer, small_dataset
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback

Build = Callable[..., ContenderRecord]


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetRecord:
    return small_dataset(tmp_path / "dataset")


@pytest.fixture
def build(tmp_path: Path, dataset: DatasetRecord) -> Build:
    """Builds a flipped prompt with a model that asks these questions."""

    def make(asks: list[str], task: Task | None = None, context: int = 8192, **fields: object) -> ContenderRecord:
        prompt = Prompt.model_validate({"name": "asks", "techniques": [Technique.FLIPPED], "questions": 4} | fields)
        with Loopback(interviewer(asks)) as server:
            places = NamedPlaces(load_settings(tmp_path), {"local": make_endpoint(server.url, context_tokens=context)})
            return build_prompt(prompt, task or Task(), dataset, places, Cap(1), Workspace(tmp_path / "workspace"))

    return make


def guidelines(made: ContenderRecord) -> str:
    return read_prompt(made.folder).guidelines


def test_train_rows_that_share_the_questions_words_answer_a_couple_of_each_label(build: Build) -> None:
    made = build(["Is row 31 negative or positive?"])
    told = guidelines(made)
    assert told.startswith("Question: Is row 31 negative or positive?\nAnswer: For example:\n")
    assert '"train row 31: a good film" -> positive' in told
    assert (told.count("-> positive"), told.count("-> negative")) == (2, 2)
    assert "dev row" not in told
    assert "test row" not in told
    assert [finding.message for finding in made.findings] == ["asks: the model asked 1 question; labelled train rows answered 1"]


def test_each_of_the_configs_answers_is_given_once_to_the_question_that_it_fits(build: Build) -> None:
    task = Task(answers=["Actors count for nothing.", "Irony is negative."])
    told = guidelines(build(["What of irony?", "What of actors?", "What of music?"], task, interview=Interview.CONFIG))
    answers = [part.partition("\nAnswer: ")[2] for part in told.split("\n\n")]
    assert answers == ["Irony is negative.", "Actors count for nothing.", NOTHING]


def test_what_model_and_owner_say_is_shown_and_never_rendered(build: Build) -> None:
    hostile = "{{ 7 * 7 }}{% for x in y %} {{ labels }}"
    made = build([f"What is {hostile}?"], Task(answers=[hostile]), interview=Interview.CONFIG)
    first = render(read_prompt(made.folder), {"text": "a row"})[0]["content"]
    assert f"Question: What is {hostile}?\nAnswer: {hostile}" in first


@pytest.mark.parametrize("questions", [["Why?", "Why?", "How?"], ["Why?", "", "How?"], ["Why?"]])
def test_the_interview_ends_when_the_model_is_ready_or_asks_nothing_new(build: Build, questions: list[str]) -> None:
    assert guidelines(build(questions)).count("Question: ") == 1


def test_no_more_is_asked_than_the_config_allows_or_the_context_holds(build: Build) -> None:
    many = [f"What of row {n}?" for n in range(9)]
    assert guidelines(build(many, questions=3)).count("Question: ") == 3
    short = build(many, questions=9, context=700)
    assert 0 < guidelines(short).count("Question: ") < 9
    assert "did not fit" in short.findings[0].message


def test_the_guidelines_of_the_task_stay_beside_those_of_the_interview(build: Build) -> None:
    both = [Technique.DESCRIPTIVE, Technique.FLIPPED]
    told = guidelines(build(["Why?"], Task(guidelines="Be strict."), techniques=both))
    assert told.startswith("Be strict.\n\nQuestion: Why?")


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("READY", ""),
        ('"Ready."', ""),
        (" What is\n good? And then? ", "What is good?"),
        ("Tell me of readiness", "Tell me of readiness"),
        ("", ""),
        ("x" * 900, "x" * 300),
    ],
)
def test_one_question_is_read_from_what_the_model_says(said: str, question: str) -> None:
    assert read_question(said) == question


def test_what_a_person_said_outlives_a_kill_and_nobody_is_asked_twice(tmp_path: Path, dataset: DatasetRecord) -> None:
    asked: list[str] = []

    def person(question: str, seconds: float, key: str) -> str | None:
        asked.append(f"{key} {question}")
        if len(asked) == 2:
            raise KeyboardInterrupt
        return question.upper()

    prompt = Prompt(name="asks", techniques=[Technique.FLIPPED], interview=Interview.HUMAN)
    with Loopback(interviewer(["Why?", "How?"])) as server:
        places = NamedPlaces(load_settings(tmp_path), {"local": make_endpoint(server.url)})

        def interview() -> object:
            return interview_person(prompt, Task(), dataset, places, Cap(1), Workspace(tmp_path / "workspace"), person)

        with pytest.raises(KeyboardInterrupt):
            interview()
        transcript = interview()
        assert interview() == transcript
    assert asked == ["asks-1 Why?", "asks-2 How?", "asks-2 How?"]
