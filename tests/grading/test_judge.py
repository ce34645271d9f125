"""Judges: what they ask, what they take for a grade, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.config import Grader, Prompt, Task, Trivial, load_config
from tasks.contenders.trivial import build_trivial
from tasks.errors import BadConfig
from tasks.grading.grade import choose_prompt
from tasks.grading.judge import FreeText, Judge, grade_rows, judge_answers, pick_prompt, unseen
from tasks.grading.referee import build_referee
from tasks.prompting.budget import Cap
from tasks.prompting.messages import Shot, render
from tasks.records import Example, Failure
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.grading.making import COLUMNS, KENNEDY, QUESTION, REASON, SEED, make_config, make_judge, make_rows, teacher
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion
from tests.tiny_model import make_dataset

THERE = Settings(endpoints={"there": make_endpoint("http://127.0.0.1:1/v1")})


def test_the_shipped_grader_asks_as_the_example_that_it_comes_from(root: Path, tmp_path: Path) -> None:
    config = load_config(root / "configs" / "grader.yaml")
    plain = next(prompt for prompt in config.prompts if prompt.name == "plain").model_copy(update={"endpoint": "there"})
    judge = make_judge("http://127.0.0.1:1/v1", tmp_path, config.model_copy(update={"prompts": [plain]}), json_schema=False)
    assert judge.spec
    (message,) = render(judge.spec, dict(zip(COLUMNS, (QUESTION, KENNEDY, "JFK"), strict=True)))
    assert message["content"] == f"{SEED}\n\n**Q:** {QUESTION}\n**A:** {KENNEDY}\n\n**Student's Answer:** JFK"


def test_reasons_come_first_and_rows_that_say_the_same_are_asked_about_once(tmp_path: Path) -> None:
    with Loopback(teacher) as server:
        judge = make_judge(server.url, tmp_path, make_config("chain_of_thought"))
        grades = grade_rows(judge, make_rows(["JFK", "John Kennedy", "JFK", "Jack Kennedy"]))
    assert [grade.grade for grade in grades] == ["wrong", "correct", "wrong", "correct"]
    assert {grade.reason for grade in grades} == {REASON}
    assert {grade.confidence for grade in grades} == {None}, "nobody told a probability, so there is none"
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("incorrect", Failure.INVALID),
        ("The answer is incorrect.", Failure.INVALID),
        ("partly correct", Failure.INVALID),
        ("not wrong", Failure.INVALID),
        ("It isn't correct", Failure.INVALID),
        ("correct or wrong", Failure.INVALID),
        ('{"label": "incorrect"}', Failure.INVALID),
        ("", Failure.INVALID),
        ("I'm sorry, I cannot grade this.", Failure.REFUSED),
    ],
)
def test_what_is_not_clearly_one_grade_is_none(tmp_path: Path, said: str, failure: Failure) -> None:
    with Loopback(lambda request, number: Say(completion(said))) as server:
        judge = make_judge(server.url, tmp_path, make_config(), json_schema=False)
        judged = judge_answers(judge, [FreeText(QUESTION, KENNEDY, "JFK")], right=["correct"])
    assert [(each.grade.grade, each.grade.confidence, each.grade.failure, each.right) for each in judged] == [
        (None, None, failure, False)
    ]


def test_confidence_is_the_share_of_the_votes(tmp_path: Path) -> None:
    def sway(request: dict[str, Any], _number: int) -> Say:
        return Say(completion(json.dumps({"label": "wrong" if request["seed"] == 1 else "correct"})))

    with Loopback(sway) as server:
        (grade,) = grade_rows(make_judge(server.url, tmp_path, make_config("self_consistency")), make_rows(["JFK"]))
    assert (grade.grade, grade.confidence) == ("correct", 0.8)


def test_without_any_row_labels_are_scored_uncalibrated(tmp_path: Path) -> None:
    judge = make_judge("http://127.0.0.1:1/v1", tmp_path, make_config("log_probability"))
    assert judge.spec
    assert (judge.spec.scored, judge.spec.scale, judge.spec.bias) == (True, 1.0, {})


def test_techniques_that_need_train_rows_are_refused_and_the_others_are_named() -> None:
    for technique in ("few_shot", "flipped", "optimized"):
        with pytest.raises(BadConfig, match=rf"'teacher' is made with {technique}, which needs train rows.*--champion"):
            pick_prompt(make_config("chain_of_thought", technique), "", THERE)
    config = make_config("few_shot")
    told = config.prompts[0].model_copy(update={"name": "told", "techniques": make_config().prompts[0].techniques})
    with pytest.raises(BadConfig, match=r"name another with --prompt \(told\)"):
        pick_prompt(config.model_copy(update={"prompts": [*config.prompts, told]}), "", THERE)
    with pytest.raises(BadConfig, match="no prompt 'nobody' to grade with; the config has teacher"):
        pick_prompt(make_config(), "nobody", THERE)
    with pytest.raises(BadConfig, match="name one"):
        choose_prompt(make_config(), "teacher", True, THERE)
    assert choose_prompt(make_config(), "", True, THERE) is None


def test_any_contenders_free_text_is_judged_in_order(tmp_path: Path) -> None:
    answers = [FreeText(QUESTION, KENNEDY, text) for text in ("Jack Kennedy", "FDR", "")]
    with Loopback(teacher) as server:
        judge = make_judge(server.url, tmp_path, make_config())
        judged = judge_answers(judge, answers, right=["correct"])
        with pytest.raises(BadConfig, match="gives correct, wrong, and not great: name those of its grades that are right"):
            judge_answers(judge, answers, right=["great"])
    assert [(each.grade.grade, each.right) for each in judged] == [("correct", True), ("wrong", False), ("wrong", False)]


def test_any_kind_of_contender_can_judge(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "tiny")
    workspace = Workspace(tmp_path / "workspace")
    judge = Judge(build_trivial(Trivial.TFIDF, dataset, workspace), None, Settings(), workspace)
    rows = [Example(example=f"e{n}", row=n, inputs={"text": text}, label=None) for n, text in enumerate(["lovely", "awful"], 1)]
    grades = grade_rows(judge, rows)
    assert judge.spec is None
    assert all(grade.grade in dataset.labels and grade.confidence and 0 < grade.confidence <= 1 for grade in grades)
    with pytest.raises(BadConfig, match=r"three columns under dataset\.inputs"):
        judge_answers(judge, [FreeText("q", "r", "a")], right=dataset.labels[:1])


def test_rows_that_the_prompt_shows_as_examples_prove_nothing(tmp_path: Path) -> None:
    judge = make_judge("http://127.0.0.1:1/v1", tmp_path, make_config())
    rows = make_rows(["JFK", "FDR"])
    assert judge.spec
    assert unseen(judge, rows) == rows
    judge.__dict__["spec"] = judge.spec.model_copy(update={"shots": [Shot(inputs=rows[0].inputs, label="correct")]})
    assert unseen(judge, rows) == rows[1:]


def test_a_bake_offs_grader_is_the_judge_that_grading_validates_by_the_same_prompt(tmp_path: Path) -> None:
    prompt = {"name": "teacher", "endpoint": "there", "template": "grader", "instructions": "Grade it: correct or wrong."}
    config = make_config(**prompt).model_copy(update={"task": Task()})
    judge = make_judge("http://a.example/v1", tmp_path, config)
    places = NamedPlaces(judge.settings, {"there": make_endpoint("http://a.example/v1")})
    referee = build_referee(Grader(prompt=Prompt.model_validate(prompt)), places, Cap(1), Workspace(tmp_path / "other"))
    assert Judge(referee, judge.ask, judge.settings, judge.workspace).fingerprint == judge.fingerprint


def test_another_wording_model_or_server_is_another_judge(tmp_path: Path) -> None:
    def name(url: str = "http://a.example/v1", model: str = "m", **prompt: Any) -> str:
        return make_judge(url, tmp_path, make_config(**prompt), model=model).fingerprint

    names = [name(), name("http://b.example/v1"), name(model="n"), name(instructions="Grade.")]
    assert len(set(names)) == 4
    assert name() == names[0]
