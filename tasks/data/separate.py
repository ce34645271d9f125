"""Keeps rows that say the same apart: once in a split, and never in train when dev or test has them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.data.duplicates import Texts, near_matches
from tasks.data.split import Plan
from tasks.data.validate import SHOWN, Problems, Row, plural, row_numbers
from tasks.records import SPLITS, Finding, Split

Roles = dict[Split, list[Row]]
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


def drop_duplicates(roles: Mapping[Split, Sequence[Row]], drop: bool = True) -> Separated:
    """Each text once a split; without `drop` repeats are only counted, and stay as the source has them.

    Copies with the same label: the first stays. Copies with different labels: in train all of them go, since none can be trusted to
    teach; in dev and test the first stays, so that the source's figures stay comparable.
    """
    made = Separated({role: [] for role in roles})
    for role in SPLITS:
        groups: dict[bytes, list[Row]] = defaultdict(list)
        for row in roles[role]:
            groups[row.key].append(row)
        again = [row for group in groups.values() if not _conflict(group) for row in group[1:]]
        conflicts = [row for group in groups.values() if _conflict(group) for row in group]
        left = {*again, *(conflicts if role == "train" else [row for group in groups.values() for row in group[1:]])}
        made.roles[role] = [row for row in roles[role] if row not in left] if drop else list(roles[role])
        if again:
            did = "dropped" if drop else "kept"
            made.findings.append(_finding("duplicate", again, f"{role}: {did} {plural(len(again), 'row')} repeating another"))
        if conflicts:
            kept = "all were dropped" if role == "train" else "the first of each text was kept"
            kept = kept if drop else "all were kept"
            text = f"{role}: {plural(len(conflicts), 'row')} have the same text and different labels; {kept}"
            made.findings.append(_finding("conflict", conflicts, text))
    return made


def leave_equal(made: Separated, plan: Plan) -> None:
    """Dev rows that test has leave dev; train rows that dev or test have leave train."""
    roles = made.roles
    test = {row.key for row in roles["test"]}
    _leave(made, "dev", [row for row in roles["dev"] if row.key in test], "overlap", "that equal test rows")
    made.given = sum(len(roles[role]) for role in ("dev", "test") if plan.is_given(role))
    held = {row.key: (role, row) for role in ("dev", "test") for row in roles[role]}
    leaving = [row for row in roles["train"] if row.key in held]
    for row in leaving:
        role, other = held[row.key]
        if plan.is_given(role):  # type: ignore[arg-type]
            made.found_again.setdefault(other, row)
    _leave(made, "train", leaving, "overlap", "that equal dev or test rows")


def leave_near(made: Separated, plan: Plan, threshold: float, texts: Callable[[Sequence[Row]], Iterator[Texts]]) -> None:
    """Train rows that nearly equal a dev or test row leave train."""
    train = made.roles["train"]
    held = [(role, row) for role in ("dev", "test") for row in made.roles[role]]
    held.sort(key=lambda pair: (pair[1].source, pair[1].place))
    leaving: dict[Row, Row] = {}
    pairs = near_matches(
        len(held),
        len(train),
        threshold,
        lambda positions: texts([held[position][1] for position in positions]),
        lambda positions: texts([train[position] for position in positions]),
    )
    for teaching, position in pairs:
        role, row = held[position]
        leaving.setdefault(train[teaching], row)
        if plan.is_given(role):  # type: ignore[arg-type]
            made.found_again.setdefault(row, train[teaching])
    text = f"that nearly equal dev or test rows (similarity at least {threshold:g})"
    _leave(made, "train", list(leaving), "near_overlap", text)


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


def _leave(made: Separated, role: Split, leaving: Sequence[Row], kind: str, which: str) -> None:
    if leaving:
        gone = set(leaving)
        made.roles[role] = [row for row in made.roles[role] if row not in gone]
        made.findings.append(_finding(kind, leaving, f"{role}: {plural(len(leaving), 'row')} {which} left {role}"))


def _finding(kind: str, rows: Sequence[Row], text: str) -> Finding:
    same = f" ({SAME})" if kind in {"duplicate", "conflict", "overlap"} else ""
    return Finding(kind=kind, count=len(rows), message=f"{text}{same}: {row_numbers(sorted(rows))}")


def _conflict(group: Sequence[Row]) -> bool:
    return any(row.label != group[0].label for row in group)
