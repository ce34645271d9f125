"""A run whose rows, labels and answers are as hostile as rows can be."""

from pathlib import Path

import pytest

from tasks.records import Arm, Verdict
from tests.reporting.making import Made, make_run

LABELS = ("<b>bad</b> $\\frac{x", "good & \u202eright")
TEXTS = [
    "<script>alert(1)</script>",
    "{{ 7*7 }} {% raw %}",
    "turned \u202e around \u2066and\x1b[31m red\x00",
    "x" * 20_000,
    "</bdi></p></article></main><style>*{display:none}</style>",
    '"><img src=http://evil.example/a.png onerror=alert(2)>',
    "&lt;b&gt; already escaped &amp;",
    "مرحبا 👩‍🚀 日本語",
]


def hostile(run_id: str = "0a1b2c3d-run") -> Made:
    """Forty rows; everybody is wrong on some, and the prompted one says things that are no answer."""
    rows = [(f"{TEXTS[place % 8]} {place}", LABELS[place % 2]) for place in range(40)]
    right = [label for _, label in rows]
    asked: list[str | None] = [None if place in (3, 5) else LABELS[(place // 3) % 2] for place in range(40)]
    tuned = [LABELS[1 - place % 2] if place % 9 == 0 else right[place] for place in range(40)]
    answers: dict[str, tuple[Arm, list[str | None]]] = {
        "majority": (Arm.TRIVIAL, [LABELS[0]] * 40),
        "asked": (Arm.PROMPT, asked),
        "tuned": (Arm.TUNED, [*tuned]),
    }
    raw = {3: "</li><script>alert(3)</script>\u202e", 5: "y" * 5_000}
    return Made(rows, answers, LABELS, run_id=run_id, raw=raw)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A workspace's folder."""
    return tmp_path / "workspace"


@pytest.fixture
def verdict(space: Path) -> Verdict:
    return make_run(space, hostile())
