"""Looks at test are counted by contender, over runs and over data that grow."""

from pathlib import Path

from tasks.config import Gate
from tasks.data.examples import read_examples, write_examples
from tasks.evaluation.scores import Evaluation
from tasks.records import Approval, Arm, Champion, DatasetRecord, Decision
from tasks.verdict.looks import count_looks
from tasks.verdict.report import approved, withheld
from tasks.workspace import Workspace
from tests.evaluation.conftest import examples
from tests.verdict.builders import contestant
from tests.verdict.test_report import verdict


def evaluation(name: str, arm: Arm = Arm.TUNED) -> Evaluation:
    return Evaluation(None, contestant(name, arm, [True] * 60).scores)  # type: ignore[arg-type]


def test_a_contender_is_one_look_however_often_it_is_compared_and_a_trivial_one_none(dataset, workspace: Workspace):
    field = [evaluation("lora"), evaluation("few_shot", Arm.PROMPT), evaluation("tfidf", Arm.TRIVIAL)]
    first = count_looks(Gate(), dataset, field, None, workspace)
    assert (first.contenders, first.worn) == (2, False)
    assert count_looks(Gate(), dataset, field, field[0], workspace) == first
    assert count_looks(Gate(), dataset, field, evaluation("old"), workspace).contenders == 3


def test_data_that_grow_keep_their_looks_and_other_rows_have_none(dataset: DatasetRecord, workspace: Workspace, tmp_path: Path):
    count_looks(Gate(), dataset, [evaluation("lora")], None, workspace)
    rows = read_examples(dataset, "test")
    for name, kept, looks in (("grown", [*rows, *examples("dev")[:20]], 2), ("other", examples("train"), 1)):
        (tmp_path / name).mkdir()
        write_examples(tmp_path / name / "test.parquet", kept)
        other = dataset.model_copy(update={"folder": tmp_path / name})
        assert count_looks(Gate(), other, [evaluation(f"for {name}")], None, workspace).contenders == looks


def test_test_is_worn_after_many_contenders(dataset, workspace: Workspace):
    looks = count_looks(Gate(), dataset, [evaluation(f"lora-{number}") for number in range(28)], None, workspace)
    assert looks.worn
    assert looks.chance_of_luck > 0.5


def test_without_a_yes_nothing_is_published_whatever_the_evidence():
    made = verdict(champion=None)
    assert approved(made, Approval(approved=True, hours=24)).decision is Decision.PUBLISH
    silent = approved(made, Approval(approved=None, hours=24))
    assert (silent.decision, silent.winner, silent.route) == (Decision.NOT_ENOUGH_EVIDENCE, None, None)
    assert "nobody approved it within 24 hours" in silent.reason
    champion = Champion(uri="s3://b/c/", version=1, sha256="a" * 64, contender="old")
    refused = approved(made.model_copy(update={"champion": champion}), Approval(approved=False, by="Ann", note="too odd", hours=24))
    assert refused.decision is Decision.KEEP_CHAMPION
    assert "Ann did not approve it (too odd)" in refused.reason


def test_on_the_word_of_a_grader_that_was_not_validated_nothing_is_published_whatever_the_evidence():
    made = verdict(champion=None, grader="teacher")
    assert withheld(made, []) == made
    without = withheld(made, ["8 graded rows, 30 are needed"])
    assert (without.decision, without.winner, without.route) == (Decision.NOT_ENOUGH_EVIDENCE, None, None)
    assert "graded by teacher, which has not been validated: 8 graded rows, 30 are needed" in without.reason
    champion = Champion(uri="s3://b/c/", version=1, sha256="a" * 64, contender="old")
    assert withheld(made.model_copy(update={"champion": champion}), without.doubts).decision is Decision.KEEP_CHAMPION
