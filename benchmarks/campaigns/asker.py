"""The process that the campaigns kill: it asks a server about rows, and writes the answers down when it has them all.

python -m benchmarks.campaigns.asker URL FOLDER ROWS one-by-one|batch
"""

import json
import sys
from pathlib import Path
from typing import Any

from tasks.config import Technique
from tasks.prompting import batch as batches
from tasks.prompting.ask import answer_all
from tasks.prompting.budget import Cap
from tasks.prompting.messages import PromptSpec
from tests.prompting.conftest import make_endpoint, make_examples, make_spec

CONCURRENCY = 8
KEY_ENV = "CAMPAIGN_KEY"
"""Its value tells the server which of the processes asks."""
THINKING: dict[str, Any] = {"think": "Think step by step.", "thinking_tokens": 20, "answer_form": "Now the label."}


def plans(rows: int) -> list[tuple[PromptSpec, int]]:
    """Prompts, and how many rows each is asked about: one request a row, then two, then three."""
    chain, both = [Technique.CHAIN_OF_THOUGHT], [Technique.CHAIN_OF_THOUGHT, Technique.REFLECT]
    return [
        (make_spec(), rows),
        (make_spec(techniques=chain, instructions="Say which, after thought.", **THINKING), rows // 3),
        (make_spec(techniques=both, instructions="Say which, and be sure.", review="Sure?", rounds=1, **THINKING), rows // 3),
    ]


def main(url: str, folder: Path, rows: int, batch: bool) -> None:
    """Ask all plans one after the other, with one journal."""
    batches.FIRST_POLL_S = 0.05
    endpoint = make_endpoint(url, key_env=KEY_ENV, batch=batch, concurrency=CONCURRENCY)
    answers = []
    for spec, count in plans(rows):
        answers += answer_all(spec, make_examples(count), endpoint, Cap(10.0), folder / "journal.sqlite")
    told = [answer.model_dump(mode="json", exclude={"latency_ms"}) for answer in answers]
    (folder / "answers.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "batch")
