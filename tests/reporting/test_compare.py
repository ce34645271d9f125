"""Two runs are compared row by row where their rows are the same, and else not."""

from pathlib import Path

from tasks.records import Arm
from tasks.reporting.compare import compare_runs
from tasks.reporting.runs import runs_folder
from tasks.verdict.statistics import compare
from tests.reporting.making import Made, make_run

ROWS = [(f"row {number}", "good" if number % 2 else "bad") for number in range(40)]


def made(run_id: str, tuned: str, wrong: int, rows: list[tuple[str, str]]) -> Made:
    """A run whose tuned contender is wrong on the rows whose number is a multiple of `wrong`."""
    right: list[str | None] = [label for _, label in rows]
    flip = {"good": "bad", "bad": "good"}
    said: list[str | None] = [flip[label] if int(text.split()[1]) % wrong == 0 else label for text, label in rows]
    return Made(rows, {"majority": (Arm.TRIVIAL, ["bad"] * len(right)), tuned: (Arm.TUNED, said)}, run_id=run_id)


def both(space: Path, first: Made, second: Made):  # type: ignore[no-untyped-def]
    for each in (first, second):
        make_run(space, each)
    return compare_runs(runs_folder(space) / first.run_id, runs_folder(space) / second.run_id, space)


def test_on_the_same_rows_in_any_order_the_difference_is_paired(space: Path) -> None:
    found = both(space, made("a", "tuned", 3, ROWS), made("b", "tuned", 10, ROWS[::-1]))
    assert found.same_rows
    tuned, majority = sorted(found.contenders, key=lambda each: each.first or "", reverse=True)
    expected = compare("tuned", [n % 10 != 0 for n in range(40)], "tuned", [n % 3 != 0 for n in range(40)], 0.05)
    assert tuned.comparison == expected
    assert tuned.comparison.difference > 0
    assert majority.comparison
    assert majority.comparison.difference == 0


def test_the_best_of_each_are_compared_where_they_have_different_names(space: Path) -> None:
    found = both(space, made("a", "old", 3, ROWS), made("b", "new", 10, ROWS))
    best = found.contenders[0]
    assert (best.first, best.second) == ("old", "new")
    assert best.comparison
    assert (best.comparison.contender, best.comparison.against) == ("new", "old")
    alone = {each.first or each.second: each for each in found.contenders[1:]}
    assert alone["old"].second is None
    assert alone["new"].comparison is None


def test_a_contender_that_is_in_both_is_told_to_be_the_same(space: Path) -> None:
    found = both(space, made("a", "tuned", 3, ROWS), made("b", "tuned", 3, ROWS))
    assert [each.same for each in found.contenders] == [True, True]


def test_other_rows_or_other_labels_are_not_compared_row_by_row(space: Path) -> None:
    found = both(space, made("a", "tuned", 3, ROWS), made("b", "tuned", 3, ROWS[:30]))
    assert not found.same_rows
    assert "40 and 30, of which 30 are the same" in found.why_not
    assert [each.comparison for each in found.contenders] == [None, None]
    assert all(each.first_test and each.second_test for each in found.contenders)
    relabelled = [(text, "good" if text == "row 0" else label) for text, label in ROWS]
    make_run(space, made("c", "tuned", 3, relabelled))
    other = compare_runs(runs_folder(space) / "a", runs_folder(space) / "c", space)
    assert "40 and 40, of which 39 are the same" in other.why_not


def test_answers_that_are_gone_are_told(space: Path) -> None:
    both(space, made("a", "tuned", 3, ROWS), made("b", "tuned", 10, ROWS))
    (space / "products" / "predictions").rename(space / "gone")
    found = compare_runs(runs_folder(space) / "a", runs_folder(space) / "b", space)
    assert not found.same_rows
    assert "not in the workspace" in found.why_not
