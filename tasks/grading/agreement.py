"""How a judge's grades agree with people's, and whether they stay when the wording is shuffled."""

import math
from collections.abc import Sequence

from tasks.grading.judge import Judge, grade_rows, unseen
from tasks.grading.records import Agreement, Consistency, Grade, Reworded
from tasks.grading.wording import reword
from tasks.records import Example

ALPHA = 0.05
NO_GRADE = "no grade"
MOST_ROWS = 200
"""Rows that are asked again in other wordings, at most: a share is then known to within 7 points."""


def distinct_pairs(rows: Sequence[Example], grades: Sequence[Grade]) -> list[tuple[Example, Grade]]:
    """Rows with their grades, each text and person's grade once: what is repeated proves nothing more."""
    pairs = {(row.example, row.label): (row, grade) for row, grade in zip(rows, grades, strict=True)}
    return list(pairs.values())


def measure_agreement(judge: Judge, rows: Sequence[Example], grades: Sequence[Grade]) -> Agreement | None:
    """Agreement on the rows that a person graded and the judge's prompt does not show; None where there are none."""
    pairs = [(row, grade) for row, grade in distinct_pairs(rows, grades) if row.label is not None]
    fresh = {row.example for row in unseen(judge, [row for row, _ in pairs])}
    kept = [(str(row.label), grade.grade) for row, grade in pairs if row.example in fresh]
    return agreement([human for human, _ in kept], [given for _, given in kept], judge.manifest.labels) if kept else None


def agreement(human: Sequence[str], judge: Sequence[str | None], grades: Sequence[str]) -> Agreement:
    """Accuracy, Cohen's kappa and the confusion of two graders of the same rows.

    Args:
        human: people's grades; at least one.
        judge: the judge's, in the same order; None where it gave none, which is a grade of its own and never agrees.
    """
    from statsmodels.stats.proportion import proportion_confint

    names = [*grades, NO_GRADE]
    given = [grade or NO_GRADE for grade in judge]
    pairs = list(zip(human, given, strict=True))
    table = [[pairs.count((row, column)) for column in names] for row in names]
    same = sum(table[place][place] for place in range(len(names)))
    low, high = proportion_confint(same, len(pairs), alpha=ALPHA, method="wilson")
    kappa, kappa_interval = _kappa(table, (float(low), float(high)))
    confusion = {row: dict(zip(names, counts, strict=True)) for row, counts in zip(names, table, strict=True) if row != NO_GRADE}
    return Agreement(
        n=len(pairs),
        accuracy=same / len(pairs),
        interval=(float(low), float(high)),
        kappa=kappa,
        kappa_interval=kappa_interval,
        confusion=confusion,
        failed=given.count(NO_GRADE),
    )


def _kappa(table: list[list[int]], accuracy_interval: tuple[float, float]) -> tuple[float | None, tuple[float, float] | None]:
    """Cohen's kappa with its interval; None where people gave one grade only.

    The interval is the wider of two at each end: the asymptotic one, and what kappa would be at the ends of the accuracy's Wilson
    interval. The former alone has no width where both agree on every row, however few they are.
    """
    import numpy
    from statsmodels.stats.inter_rater import cohens_kappa

    if sum(any(row) for row in table) < 2:
        return None, None
    with numpy.errstate(divide="ignore", invalid="ignore"):  # its z-value, which is not used, where a judge gives one grade only
        found = cohens_kappa(table)
    total = sum(map(sum, table))
    chance = sum(sum(table[place]) * sum(row[place] for row in table) for place in range(len(table))) / total**2
    least, most = ((accuracy - chance) / (1 - chance) for accuracy in accuracy_interval)
    low, high = min(float(found.kappa_low), least), max(float(found.kappa_upp), most)
    if not all(map(math.isfinite, (found.kappa, low, high))):
        return None, None
    return float(found.kappa), (max(-1.0, low), min(1.0, high))


def measure_consistency(judge: Judge, rows: Sequence[Example], grades: Sequence[Grade], wordings: int) -> Consistency | None:
    """Ask again in other wordings, at most `MOST_ROWS` rows, those that people graded first.

    Args:
        wordings: how many; 0 asks nothing.

    Returns: None for a judge that has no wording (it is no prompt), or where nothing was to be asked.

    Raises:
        BudgetReached, EndpointError: as asking raises them.
    """
    others = reword(judge.spec, wordings) if judge.spec else []
    if not others:
        return None
    pairs = sorted(distinct_pairs(rows, grades), key=lambda pair: (pair[0].label is None, pair[0].example))[:MOST_ROWS]
    asked, first = [row for row, _ in pairs], [grade.grade for _, grade in pairs]
    found, stays = list[Reworded](), [grade is not None for grade in first]
    for other in others:
        again = grade_rows(judge, asked, other.spec)
        same = [grade is not None and grade == now.grade for grade, now in zip(first, again, strict=True)]
        stays = [stayed and each for stayed, each in zip(stays, same, strict=True)]
        agreed = measure_agreement(judge, asked, again)
        found.append(Reworded(wording=other.wording, stayed=sum(same) / len(same), agreement=agreed))
    return Consistency(n=len(asked), share=sum(stays) / len(stays), wordings=found)
