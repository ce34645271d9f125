"""Free-text answers that a grader goes over."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.config import BakeoffConfig, Trivial
from tasks.contenders.trivial import build_trivial
from tasks.data.examples import read_examples, write_examples
from tasks.data.predictions import read_predictions
from tasks.errors import BadConfig, BudgetReached, EndpointError
from tasks.evaluation.graded import GRADES
from tasks.evaluation.scores import Evaluation, evaluate
from tasks.grading.judge import Judge
from tasks.grading.referee import build_referee, check_referee
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap
from tasks.records import SPLITS, DatasetRecord
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.grading.making import student_of
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion, error

SAID = {"positive": "a bright film", "negative": "a flat film"}
TEACHER = {"name": "teacher", "endpoint": "there"}


def make_config(**grader: Any) -> BakeoffConfig:
    return BakeoffConfig.model_validate(
        {
            "dataset": {"source": "made", "kind": "generation"},
            "prompts": [{"name": "asked", "endpoint": "there"}],
            "tuned": [],
            "grader": grader or None,
        }
    )


@pytest.fixture
def free(dataset: DatasetRecord, tmp_path: Path) -> DatasetRecord:
    """The tiny data set with a text as its answer; every third bright film is called otherwise."""
    for split in SPLITS:
        rows = read_examples(dataset, split)
        said = [SAID[str(row.label)] if number % 3 else SAID[str(row.label)].upper() + " indeed" for number, row in enumerate(rows)]
        write_examples(
            tmp_path / f"{split}.parquet", [row.model_copy(update={"label": text}) for row, text in zip(rows, said, strict=True)]
        )
    return dataset.model_copy(update={"folder": tmp_path, "labels": [], "label_rows": {}, "fingerprint": "free"})


def lenient(request: dict[str, Any], _number: int) -> Say:
    """Takes any answer about a bright film for one that the reference gives, and does not answer where the reference is short."""
    told = request["messages"][0]["content"]
    right = "bright" in student_of(request) and "BRIGHT" in told
    return Say(completion(json.dumps({"label": "correct" if right else "wrong"})))


def run(
    free: DatasetRecord, home: Path, url: str, config: BakeoffConfig, usd: float = 1.0, attempts: int = 3
) -> tuple[Evaluation, Cap]:
    there, cap, workspace = make_endpoint(url, attempts=attempts), Cap(usd), Workspace(home / "workspace")
    places = NamedPlaces(Settings(home=home, endpoints={"there": there}), {"there": there})
    judge = None
    if config.grader:
        contender = build_referee(config.grader, places, cap, workspace)
        judge = Judge(contender, AskContext.of("there", places, cap, workspace), places.settings, workspace)
    contender = build_trivial(Trivial.MAJORITY, free, workspace)
    return evaluate(contender, free, places, cap, config, workspace, judge), cap


def test_right_is_what_the_reference_says_and_what_the_grader_finds_right(free: DatasetRecord, tmp_path: Path) -> None:
    with Loopback(lenient) as server:
        plain, _ = run(free, tmp_path, server.url, make_config())
        graded, cap = run(free, tmp_path, server.url, make_config(prompt=TEACHER))
        asked = len(server.requests)
        again, _ = run(free, tmp_path, server.url, make_config(prompt=TEACHER))
        assert len(server.requests) == asked, "what was graded is not graded again"
    before, after = (read_predictions(each.predictions) for each in (plain, graded))
    answer = before[0].answer
    right = [row.correct or ("bright" in answer and "BRIGHT" in str(row.reference)) for row in before]
    assert [row.correct for row in after] == right
    assert [row.answer for row in after] == [row.answer for row in before]
    assert sum(right) > sum(row.correct for row in before)
    assert graded.scores.test.accuracy == sum(row.correct for row in after if row.split == "test") / graded.scores.test.n
    said = json.loads((graded.predictions.folder / GRADES).read_text())
    assert len(said) == sum(not row.correct for row in before), "only what is not the reference's text is asked about"
    assert asked == len(said)
    assert graded.predictions.spent_usd == pytest.approx(cap.spent_usd)
    assert again.scores.test == graded.scores.test


def test_an_answer_without_a_grade_is_wrong(free: DatasetRecord, tmp_path: Path) -> None:
    with Loopback(lambda request, number: Say(completion("hard to say"))) as server:
        plain, _ = run(free, tmp_path, server.url, make_config())
        graded, _ = run(free, tmp_path, server.url, make_config(prompt=TEACHER))
    assert graded.scores.test.accuracy == plain.scores.test.accuracy


def test_an_answer_whose_grader_was_out_of_reach_is_graded_by_the_next_run_and_kept_as_wrong_by_none(
    free: DatasetRecord, tmp_path: Path
) -> None:
    out = True

    def ill(request: dict[str, Any], number: int) -> Say:
        return error(500) if out and "BRIGHT" in request["messages"][0]["content"] else lenient(request, number)

    with Loopback(ill) as server:
        with pytest.raises(
            EndpointError, match=r"no reply to \d+ of \d+ answers of majority; its other grades are kept: run again"
        ):
            run(free, tmp_path, server.url, make_config(prompt=TEACHER), attempts=1)
        out, before = False, len(server.requests)
        graded, _ = run(free, tmp_path, server.url, make_config(prompt=TEACHER))
        assert all("BRIGHT" in request["messages"][0]["content"] for request in server.requests[before:])
    said = json.loads((graded.predictions.folder / GRADES).read_text())
    assert {each["failure"] for each in said} == {None}


def test_the_cap_holds_for_the_grader_too(free: DatasetRecord, tmp_path: Path) -> None:
    with Loopback(lenient) as server, pytest.raises(BudgetReached):
        run(free, tmp_path, server.url, make_config(prompt=TEACHER), usd=1e-9)


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ({"prompt": TEACHER, "champion": "graders"}, "not both"),
        ({"right": ["fine"]}, "a prompt or a champion"),
        ({"prompt": TEACHER, "right": ["good"]}, "leave right out"),
    ],
)
def test_a_grader_is_a_prompt_or_a_champion(grader: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_config(**grader)


def test_graders_are_for_free_text_and_must_be_able_to_grade() -> None:
    with pytest.raises(ValueError, match=r"dataset\.kind is classification: remove grader"):
        BakeoffConfig.model_validate({"dataset": "made", "grader": {"champion": "graders"}})
    needy = make_config(prompt={**TEACHER, "technique": "few_shot"})
    with pytest.raises(BadConfig, match="which needs train rows"):
        check_referee(needy, Settings(endpoints={"there": make_endpoint("http://127.0.0.1:1/v1")}))
