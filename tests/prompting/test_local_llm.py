"""The real local LLM."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.llm import start_llm
from tasks.prompting.ask import Meter, answer_all
from tasks.prompting.budget import Cap, count_prompt_tokens
from tasks.prompting.messages import Shot, render
from tasks.records import Example, Failure
from tasks.settings import Endpoint
from tests.prompting.conftest import make_spec

pytestmark = pytest.mark.slow
TEXTS = ["a wonderful, moving film .", "dull, lifeless and far too long .", "one of the year's best .", "a tedious mess ."]
SHOTS = [
    Shot(inputs={"text": "a joy from start to end ."}, label="positive"),
    Shot(inputs={"text": "i want my two hours back ."}, label="negative"),
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    pytest.importorskip("xllamacpp")
    with start_llm(tmp_path_factory.mktemp("home")) as llm:
        free = {"usd_per_million_input": 0, "usd_per_million_output": 0, "concurrency": 4, "context_tokens": 2048}
        yield Endpoint.model_validate({"service": "llm", "base_url": llm.base_url, "model": llm.model, **free})


def test_it_answers_with_labels_and_only_once(endpoint: Endpoint, tmp_path: Path) -> None:
    spec = make_spec(
        model=endpoint.model, shots=SHOTS, instructions="Label the film review: negative or positive.", max_answer_tokens=32
    )
    rows = [Example(example=f"e{n}", row=n, inputs={"text": text}, label=None) for n, text in enumerate(TEXTS, start=1)]
    first, second = Meter(), Meter()
    answers = answer_all(spec, rows, endpoint, Cap(0.0), tmp_path / "journal.sqlite", meter=first)
    assert [answer.failure for answer in answers] == [None] * len(rows)
    assert {answer.label for answer in answers} <= {"negative", "positive"}
    assert answer_all(spec, rows, endpoint, Cap(0.0), tmp_path / "journal.sqlite", meter=second) == answers
    assert (first.requests, second.requests) == (4, 0)
    for row, answer in zip(rows, answers, strict=True):
        assert count_prompt_tokens(render(spec, row.inputs)) == pytest.approx(answer.input_tokens, rel=0.3)


def test_a_row_longer_than_its_context_is_a_counted_failure(endpoint: Endpoint) -> None:
    spec = make_spec(model=endpoint.model, max_answer_tokens=32)
    roomy = endpoint.model_copy(update={"context_tokens": 100_000})  # so that the server is the one who says so
    [answer] = answer_all(spec, [Example(example="e", row=1, inputs={"text": "word " * 10_000}, label=None)], roomy, Cap(0.0))
    assert answer.failure == Failure.TOO_LONG
