"""What counts as saying the same."""

import random
from collections.abc import Iterator, Sequence

import pytest

from tasks.data import duplicates
from tasks.data.duplicates import Texts, content_key, near_matches, normalise
from tests.data.made_rows import WORDS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It was GOOD!", "it was good"),
        ("line<br />break", "line break"),
        ("“curly” — quotes", '"curly" - quotes'),
        ("ﬁne  caf\u00e9", "fine cafe\u0301"),
        ("Straße", "STRASSE"),
        ("you &amp; me", "you & me"),
    ],
)
def test_case_punctuation_markup_and_spaces_are_put_aside(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("good", "goods"),
        ("a < b and c > d", "a b and c d"),
        ("\u0915\u093f", "\u0915\u0940"),  # Hindi syllables that differ in a combining vowel sign
        (":)", ":("),
        ("great \U0001f600", "great \U0001f621"),
    ],
)
def test_what_carries_meaning_is_kept(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_inputs_do_not_run_into_one_another() -> None:
    assert content_key(["a b", "c"]) != content_key(["a", "b c"])


def matches(train: list[Texts], held: list[Texts], threshold: float) -> list[tuple[int, int]]:
    def read(rows: list[Texts], positions: Sequence[int]) -> Iterator[Texts]:
        return (rows[position] for position in positions)

    return list(near_matches(len(held), len(train), threshold, lambda at: read(held, at), lambda at: read(train, at)))


def test_where_either_side_has_no_rows_there_are_no_matches() -> None:
    row = ("one and the same text of several words",)
    assert matches([], [row], 0.85) == matches([row], [], 0.85) == matches([], [], 0.85) == []
    assert matches([row], [row], 0.85) == [(0, 0)]


def jaccard(one: str, other: str) -> float:
    a, b = ({tuple(text.split()[at : at + 3]) for at in range(len(text.split()) - 2)} for text in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(("threshold", "at_once"), [(0.5, 100_000), (0.85, 100_000), (0.85, 150)])
def test_every_clear_match_is_found_and_nothing_else(threshold: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "KEYS_AT_ONCE", at_once)
    dice = random.Random(3)
    train, held = [], []
    for number in range(400):
        words = dice.choices(WORDS, k=80)
        held.append((" ".join(words),))
        for place in dice.sample(range(80), k=number % 12):
            words[place] = "changed"
        train.append((" ".join(words),))

    found = set(matches(train, held, threshold))

    exact = {at: jaccard(train[at][0], held[at][0]) for at in range(400)}
    assert found <= {(at, at) for at, similarity in exact.items() if similarity >= threshold}
    missed = {at for at, similarity in exact.items() if similarity >= threshold and (at, at) not in found}
    assert len(missed) <= 0.02 * len(found)
    assert not {at for at in missed if exact[at] >= threshold + 0.08}


def test_short_sentences_never_match_by_accident() -> None:
    assert matches([("a fine film",), ("fine",)], [("a fine book",), ("a fine film indeed",), ("film",)], 0.85) == []


def test_every_column_must_be_near() -> None:
    question = " ".join(WORDS[:60])

    assert matches([(question, "yes it is")], [(question, "no it is not"), (question, "yes it is")], 0.85) == [(0, 1)]


def test_many_rows_of_one_template_are_compared_with_a_few_only() -> None:
    template = " ".join(WORDS[:60])
    rows = [(f"{template} {number}",) for number in range(1200)]

    found = matches(rows, rows, 0.85)

    assert {train for train, _ in found} == set(range(1200))
    assert len(found) == 1200 * 100
