"""Agreement, consistency, and when a judge is validated."""

from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from tasks.errors import NotValidated
from tasks.grading.agreement import NO_GRADE, agreement, measure_agreement, measure_consistency
from tasks.grading.judge import Judge, grade_rows
from tasks.grading.records import Agreement, Consistency, JudgeRecord, Reworded, Wording
from tasks.grading.validation import doubts_of, find_record, judge_record, keep_record, not_validated, require_validated
from tasks.grading.wording import reword
from tasks.prompting.messages import render
from tests.grading.making import COLUMNS, make_config, make_judge, make_rows, student_of, teacher
from tests.prompting.loopback import Loopback, Say, completion

GRADES = ["correct", "wrong"]
UNREACHED = "http://127.0.0.1:1/v1"


def measured(judge: Judge, human: list[str], given: list[str | None], share: float = 1.0, wordings: int = 3) -> JudgeRecord:
    one = Reworded(wording=Wording(inputs=COLUMNS, labels=GRADES, sections=[]), stayed=share, agreement=None)
    return judge_record(judge, "f", agreement(human, given, GRADES), Consistency(n=40, share=share, wordings=[one] * wordings))


def test_kappa_is_that_of_scikit_learn_and_a_row_without_a_grade_disagrees() -> None:
    human = ["correct"] * 30 + ["wrong"] * 20
    given: list[str | None] = [*["correct"] * 26, "wrong", "wrong", None, None, *["wrong"] * 17, *["correct"] * 3]
    found = agreement(human, given, GRADES)
    assert (found.n, found.accuracy, found.failed) == (50, 43 / 50, 2)
    assert found.kappa == pytest.approx(cohen_kappa_score(human, [each or NO_GRADE for each in given]))
    assert found.kappa_interval
    assert found.kappa_interval[0] < found.kappa < found.kappa_interval[1]
    assert found.confusion == {
        "correct": {"correct": 26, "wrong": 2, NO_GRADE: 2},
        "wrong": {"correct": 3, "wrong": 17, NO_GRADE: 0},
    }


def test_perfect_agreement_on_few_or_lopsided_rows_is_not_certain() -> None:
    even = agreement(["correct", "wrong"] * 4, ["correct", "wrong"] * 4, GRADES)
    lopsided = agreement([*["correct"] * 29, "wrong"], [*["correct"] * 29, "wrong"], GRADES)
    assert even.kappa == lopsided.kappa == 1
    assert even.kappa_interval
    assert lopsided.kappa_interval
    assert even.kappa_interval[0] < 0.6
    assert lopsided.kappa_interval[0] < 0
    assert agreement(["wrong"] * 40, ["wrong"] * 40, GRADES).kappa is None


def test_repeated_rows_count_once_and_rows_without_a_persons_grade_not_at_all(tmp_path: Path) -> None:
    rows = make_rows(["JFK", "JFK", "Jack", "FDR"], ["correct", "correct", "correct", None])
    with Loopback(teacher) as server:
        judge = make_judge(server.url, tmp_path, make_config())
        grades = grade_rows(judge, rows)
        found = measure_agreement(judge, rows, grades)
    assert found
    assert (found.n, found.accuracy) == (2, 0.5)
    assert measure_agreement(judge, make_rows(["JFK"]), grades[:1]) is None


def test_wordings_differ_in_what_the_model_sees_and_say_the_same(tmp_path: Path) -> None:
    for techniques in (
        ["descriptive"],
        ["descriptive", "chain_of_thought", "reflect"],
        ["descriptive", "structured"],
        ["zero_shot"],
    ):
        spec = make_judge(UNREACHED, tmp_path, make_config(*techniques)).spec
        assert spec
        row = dict(zip(COLUMNS, ("who?", "JFK", "FDR"), strict=True))
        others = reword(spec, 3)
        assert [other.wording for other in others] == [other.wording for other in reword(spec, 3)]
        texts = [
            "\n".join(message["content"] for message in render(each, row)) for each in (spec, *(other.spec for other in others))
        ]
        assert len(set(texts)) == 4
        said = [each for each in (spec.instructions, spec.guidelines, *spec.definitions.values()) if each]
        assert all(part in text for text in texts for part in said)
        if "structured" not in techniques:
            assert len({tuple(sorted(text.split())) for text in texts[1:]}) == 1, "the same words"
        assert all(sorted(other.spec.labels) == sorted(spec.labels) for other in others)


def test_a_template_without_sections_of_its_own_is_worded_by_columns_alone(tmp_path: Path) -> None:
    spec = make_judge(UNREACHED, tmp_path, make_config()).spec
    assert spec
    fixed = spec.model_copy(update={"template": "{{ inputs.question }} {{ inputs.student_answer }}", "structured": False})
    assert reword(fixed, 3) == []
    loose = fixed.model_copy(update={"template": "{% for name, value in inputs.items() %}{{ name }} {{ value }}\n{% endfor %}"})
    assert [other.wording.sections for other in reword(loose, 3)] == [[]] * 3


def test_grades_that_move_with_the_wording_are_counted(tmp_path: Path) -> None:
    def by_position(request: dict[str, Any], number: int) -> Say:
        """Grades those named Jack by where the student's answer stands, everybody else rightly; says nothing of Mary."""
        moved = request["messages"][0]["content"].index("**Student's") < request["messages"][0]["content"].index("**Q:**")
        if student_of(request) == "Mary":
            return Say(completion("no idea"))
        return Say(completion("wrong")) if moved and student_of(request) == "Jack" else teacher(request)

    rows = make_rows(["John", "Jack", "FDR", "Mary"], ["correct", "correct", "wrong", "wrong"])
    with Loopback(by_position) as server:
        judge = make_judge(server.url, tmp_path, make_config(), json_schema=False)
        grades = grade_rows(judge, rows)
        found = measure_consistency(judge, rows, grades, 3)
        assert measure_consistency(judge, rows, grades, 0) is None
    assert found
    assert (found.n, found.share) == (4, 0.5)
    assert {each.stayed for each in found.wordings} == {0.75, 0.5}
    assert all(each.agreement and each.agreement.n == 4 for each in found.wordings)


def test_a_judge_is_validated_by_enough_rows_agreement_and_consistency_and_by_nothing_less(tmp_path: Path) -> None:
    judge = make_judge(UNREACHED, tmp_path, make_config())
    human = ["correct", "wrong"] * 20
    half: list[str | None] = ["correct"] * 40
    cases: list[tuple[JudgeRecord, str]] = [
        (measured(judge, human[:8], [*human[:8]]), "8 graded rows, 30 are needed"),
        (measured(judge, human, half), "kappa may be as low as"),
        (measured(judge, ["wrong"] * 40, ["wrong"] * 40), "people gave one grade only"),
        (measured(judge, human, [*human], share=0.8), "80% of the grades stay in other wordings, 90% are needed"),
        (measured(judge, human, [*human], wordings=2), "asked in 2 other wordings, 3 are needed"),
        (judge_record(judge, "f", None, None), "0 graded rows, 30 are needed; asked in 0 other wordings"),
    ]
    for record, doubt in cases:
        assert not record.validated
        assert doubt in not_validated(record.doubts)
    assert measured(judge, human, [*human]).validated


def test_an_unvalidated_judge_is_refused_and_what_proves_too_little_forgets_nothing(tmp_path: Path) -> None:
    judge = make_judge(UNREACHED, tmp_path, make_config())
    human = ["correct", "wrong"] * 20
    with pytest.raises(NotValidated, match="judge 'teacher' has not been validated: nothing was measured"):
        require_validated(judge)
    few = measured(judge, human[:8], [*human[:8]])
    assert keep_record(judge.workspace, few) == few
    with pytest.raises(NotValidated, match="8 graded rows, 30 are needed"):
        require_validated(judge)
    good = measured(judge, human, [*human])
    assert keep_record(judge.workspace, good) == good
    require_validated(judge)
    assert keep_record(judge.workspace, few) == good
    assert doubts_of(judge) == []
    bad = measured(judge, human, [*human], share=0.5)
    assert keep_record(judge.workspace, bad) == bad, "a newer measurement on enough counts"
    assert find_record(judge.workspace, judge.fingerprint) == bad
    with pytest.raises(NotValidated, match="50% of the grades"):
        require_validated(judge)


def test_a_judge_of_few_rows_says_how_many_are_needed() -> None:
    assert not_validated(["8 graded rows, 30 are needed"]) == "this judge has not been validated: 8 graded rows, 30 are needed"
    assert Agreement.model_fields.keys() >= {"n", "accuracy", "kappa", "confusion"}
