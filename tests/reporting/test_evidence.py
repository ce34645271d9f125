"""What the report says of the rows is what the rows say."""

from pathlib import Path

from tasks.records import Arm, Verdict
from tasks.reporting.evidence import find_evidence
from tasks.reporting.records import Evidence
from tasks.reporting.runs import read_kept, runs_folder
from tasks.workspace import Workspace
from tests.reporting.conftest import hostile
from tests.reporting.making import Made, make_run


def evidence_of(space: Path, run_id: str) -> Evidence:
    kept = read_kept(runs_folder(space) / run_id)
    assert kept
    found = find_evidence(kept, Workspace(space))
    assert found
    return found


def test_confusions_count_every_test_row_once(verdict: Verdict, space: Path) -> None:
    made = hostile()
    for reading in evidence_of(space, verdict.run_id).readings:
        assert reading.confusion
        answers = made.answers[reading.contender][1]
        cells = {(right, answer): rows for right, answer, rows in reading.confusion.cells}
        for right, label in enumerate(made.labels):
            for answer, said in enumerate([*made.labels, None]):
                pairs = zip(made.rows, answers, strict=True)
                assert cells.get((right, answer), 0) == sum(row[1] == label and given == said for row, given in pairs)


def test_bins_hold_every_row_with_a_probability_and_their_share_of_right_ones(verdict: Verdict, space: Path) -> None:
    by_name = {reading.contender: reading for reading in evidence_of(space, verdict.run_id).readings}
    assert by_name["asked"].bins == []
    bins = by_name["tuned"].bins
    assert sum(each.rows for each in bins) == 40
    right = sum(label == given for (_, label), given in zip(hostile().rows, hostile().answers["tuned"][1], strict=True))
    assert round(sum(each.rows * each.right for each in bins)) == right
    assert all(each.low <= each.probability <= each.high for each in bins)


def test_rows_on_which_contenders_differ_are_counted_and_the_most_divided_come_first(space: Path) -> None:
    answers = {
        "majority": (Arm.TRIVIAL, ["a"] * 5),
        "one": (Arm.PROMPT, ["a", "a", "a", "b", "a"]),
        "two": (Arm.TUNED, ["a", "b", "b", "b", "a"]),
        "three": (Arm.HYBRID, ["a", "a", "c", "b", None]),
    }
    rows = [(f"row {number}", "a") for number in range(5)]
    make_run(space, Made(rows, {name: (arm, list(said)) for name, (arm, said) in answers.items()}, ("a", "b", "c")))
    found = evidence_of(space, "0a1b2c3d-run")
    assert (found.voters, found.differing, found.of) == (["one", "two", "three"], 3, 5)
    assert [row.row for row in found.shown] == [3, 2, 5]
    assert [said.contender for said in found.shown[0].said] == list(answers)
    assert [said.correct for said in found.shown[0].said] == [True, True, False, False]


def test_failed_rows_are_shown_with_what_was_said(verdict: Verdict, space: Path) -> None:
    reading = next(each for each in evidence_of(space, verdict.run_id).readings if each.contender == "asked")
    assert reading.failures == {"invalid": 2}
    assert [row.row for row in reading.failed] == [4, 6]
    raw = reading.failed[1].said[0].raw
    assert raw
    assert (raw.characters, len(raw.text)) == (5000, 300)
