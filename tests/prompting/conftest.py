from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config import Technique
from tasks.prompting.ask import Meter, answer_all
from tasks.prompting.budget import Cap
from tasks.prompting.messages import PromptSpec, template_of
from tasks.records import Answer, Example
from tasks.settings import Endpoint


def make_endpoint(url: str, **changes: Any) -> Endpoint:
    """A paid endpoint that gives up soon."""
    values = {"base_url": url, "model": "m", "usd_per_million_input": 1.0, "usd_per_million_output": 2.0, "concurrency": 4}
    return Endpoint.model_validate(values | {"attempts": 3, "timeout_s": 5.0, "deadline_s": 10.0} | changes)


def make_spec(**changes: Any) -> PromptSpec:
    values: dict[str, Any] = {"endpoint": "there", "model": "m", "techniques": [Technique.ZERO_SHOT], "inputs": ["text"]}
    values |= {"labels": ["negative", "positive"], "instructions": "Say which.", "structured": True, "max_answer_tokens": 16}
    values |= {"template": template_of("plain")}
    return PromptSpec.model_validate(values | changes)


def make_examples(count: int) -> list[Example]:
    words = ["bad", "good"]
    return [Example(example=f"e{n}", row=n + 1, inputs={"text": f"a {words[n % 2]} film {n}"}, label=None) for n in range(count)]


@pytest.fixture
def ask_rows(tmp_path: Path) -> Callable[..., list[Answer]]:
    """Ask a server about so many rows, with a journal of the test's own."""

    def ask(url: str, count: int = 1, cap: Cap | None = None, meter: Meter | None = None, **changes: Any) -> list[Answer]:
        max_failed = changes.pop("max_failed", 1.0)
        spec = changes.pop("spec", make_spec())
        return answer_all(
            spec,
            make_examples(count),
            make_endpoint(url, **changes),
            cap or Cap(1.0),
            tmp_path / "journal.sqlite",
            max_failed,
            meter,
        )

    return ask
