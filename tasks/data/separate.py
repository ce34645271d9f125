"""Keeps rows that say the same apart: once in a split, and never in train when dev or test has them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from tasks.data.duplicates import Texts, near_matches
from tasks.data.rows import KEYS_AT_ONCE, Row, Rows, joined
from tasks.data.split import Plan
from tasks.data.validate import SHOWN, Problems, plural, row_numbers
from tasks.records import SPLITS, Finding, Split

Roles = dict[Split, Rows]
SAME = "case, punctuation, markup and white space aside"


@dataclass
class Separated:
    """Roles whose rows are apart, and what that took."""

    roles: Roles
    findings: list[Finding] = field(default_factory=list)
    found_again: dict[Row, Row] = field(default_factory=dict)
    """Rows of given dev and test splits that stand in train as well, each with one train row."""
    given: int = 0
    """Rows of given dev and test splits."""


def drop_duplicates(roles: Mapping[Split, Rows], drop: bool = True) -> Separated:
    """Each text once a split; without `drop` repeats are only counted, and stay as the source has them. `roles` must not be used
    again.

    Copies with the same label: the first stays. Copies with different labels: in train all of them go, since none can be trusted to
    teach; in dev and test the first stays, so that the source's figures stay comparable.
    """
    made = Separated({})
    for role in SPLITS:
        rows = roles[role]
        repeats, conflicts = _copies(rows)
        left = repeats | conflicts if role == "train" else repeats
        again, clashing = rows[repeats & ~conflicts], rows[conflicts]
        made.roles[role] = rows.keep(~left) if drop and left.any() else rows
        if len(again):
            did = "dropped" if drop else "kept"
            made.findings.append(_finding("duplicate", again, f"{role}: {did} {plural(len(again), 'row')} repeating another"))
        if conflicts.any():
            kept = "all were dropped" if role == "train" else "the first of each text was kept"
            kept = kept if drop else "all were kept"
            text = f"{role}: {plural(int(conflicts.sum()), 'row')} have the same text and different labels; {kept}"
            made.findings.append(_finding("conflict", clashing, text))
    return made


def _copies(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Masks: rows that repeat an earlier one, and rows of texts that bear different labels."""
    repeats, conflicts = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    if not len(rows):
        return repeats, conflicts
    order = np.argsort(rows.key, kind="stable")
    again = np.zeros(len(rows), dtype=bool)
    for start in range(1, len(rows), KEYS_AT_ONCE):  # the keys in order are never all copied
        some = rows.key[order[start - 1 : start + KEYS_AT_ONCE]]
        again[start : start + KEYS_AT_ONCE] = some[1:] == some[:-1]
    repeats[order] = again
    several = again | np.append(again[1:], False)  # rows of texts that stand there more than once: few, as a rule
    if not several.any():
        return repeats, conflicts
    order, again = order[several], again[several]
    labels, starts = rows.label[order], np.flatnonzero(~again)
    sizes = np.diff(np.append(starts, len(order)))
    differ = np.logical_or.reduceat(labels != np.repeat(labels[starts], sizes), starts)
    conflicts[order] = np.repeat(differ, sizes)
    return repeats, conflicts


def leave_equal(made: Separated, plan: Plan) -> None:
    """Dev rows that test has leave dev; train rows that dev or test have leave train."""
    roles = made.roles
    _leave(made, "dev", roles["dev"].equal(roles["test"]), "overlap", "that equal test rows")
    made.given = sum(len(roles[role]) for role in ("dev", "test") if plan.is_given(role))
    leaving = np.zeros(len(roles["train"]), dtype=bool)
    for role in ("dev", "test"):
        there = roles["train"].equal(roles[role])
        leaving |= there
        if plan.is_given(role):
            others = {row.key: row for row in roles[role][roles[role].equal(roles["train"])]}
            for row in roles["train"][there]:
                made.found_again.setdefault(others[row.key], row)
    _leave(made, "train", leaving, "overlap", "that equal dev or test rows")


def leave_clusters(made: Separated) -> None:
    """Rows that belong to a test row's cluster leave dev, and those of a dev or test row's cluster leave train."""
    taken: list[np.ndarray] = []
    held: list[tuple[Split, Split, str]] = [("dev", "test", "test rows"), ("train", "dev", "dev or test rows")]
    for role, above, named in held:
        rows, others = made.roles[role], made.roles[above].cluster
        if rows.cluster is None or others is None:
            continue
        taken.append(others)
        leaving = np.isin(rows.cluster, np.concatenate(taken))
        _leave(made, role, leaving, "cluster_overlap", f"that belong to the same cluster as {named}")


def leave_near(made: Separated, plan: Plan, threshold: float, texts: Callable[[Rows], Iterator[Texts]]) -> None:
    """Train rows that nearly equal a dev or test row leave train."""
    train = made.roles["train"]
    held = joined([made.roles["dev"], made.roles["test"]])
    given = np.repeat([plan.is_given("dev"), plan.is_given("test")], [len(made.roles["dev"]), len(made.roles["test"])])
    order = held.order()
    held, given = held[order], given[order]
    leaving = np.zeros(len(train), dtype=bool)
    pairs = near_matches(len(held), len(train), threshold, lambda at: texts(held[at]), lambda at: texts(train[at]))
    for teaching, position in pairs:
        leaving[teaching] = True
        if given[position]:
            made.found_again.setdefault(held[position], train[teaching])
    text = f"that nearly equal dev or test rows (similarity at least {threshold:g})"
    _leave(made, "train", leaving, "near_overlap", text)


def check_overlap(made: Separated, max_overlap: float, problems: Problems) -> None:
    """Too large a share of given dev and test rows found again in train, exactly or nearly, is a problem."""
    count = len(made.found_again)
    if not made.given or count / made.given <= max_overlap:
        return
    pairs = sorted(made.found_again.items())[:SHOWN]
    shown = ", ".join(f"{row.source} row {row.place + 1} = {other.source} row {other.place + 1}" for row, other in pairs)
    problems.add(
        f"{count:,} of {plural(made.given, 'dev and test row')} ({count / made.given:.2%}) stand in train as well, exactly or"
        f" nearly (dataset.max_overlap is {max_overlap:.2%}): {shown}{', …' if count > len(pairs) else ''};"
        " take them out of one side, or raise dataset.max_overlap to have them leave train"
    )


def _leave(made: Separated, role: Split, leaving: np.ndarray, kind: str, which: str) -> None:
    if leaving.any():
        gone = made.roles[role][leaving]
        made.roles[role] = made.roles[role].keep(~leaving)
        made.findings.append(_finding(kind, gone, f"{role}: {plural(len(gone), 'row')} {which} left {role}"))


def _finding(kind: str, rows: Rows, text: str) -> Finding:
    same = f" ({SAME})" if kind in {"duplicate", "conflict", "overlap"} else ""
    return Finding(kind=kind, count=len(rows), message=f"{text}{same}: {row_numbers(rows[rows.order()])}")
