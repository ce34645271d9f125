"""How often test was looked at: a test set that decides again and again is fitted to in the end, by selection alone.

    <workspace>/looks/<fingerprint of the test rows>/rows.json            the rows, once
    <workspace>/looks/<fingerprint of the test rows>/<contender>.json     one look

A look is a contender whose answers to these rows a decision has seen for the first time. So a run over the same predictions is
none, be its verdict reused or not, and two runs at once cannot miscount. All contenders of a run count, since all their figures are
shown, and the champion; but not the trivial ones, which nobody has improved by what test said. Looks at another selection of rows
count as well, where it holds most of these: data that grow do not make test new.
"""

import json
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.config import Gate
from tasks.data.examples import read_examples
from tasks.evaluation.scores import Evaluation
from tasks.records import Arm, DatasetRecord, Looks
from tasks.workspace import Workspace, digest, write_durably

logger = logging.getLogger(__name__)
FOLDER, ROWS = "looks", "rows.json"
WORN = 0.5
"""From this chance of a promotion by luck on, test is called worn."""


def count_looks(
    gate: Gate, dataset: DatasetRecord, evaluations: Sequence[Evaluation], champion: Evaluation | None, workspace: Workspace
) -> Looks:
    """Remember whose answers to the test rows a decision has seen, and count those of all runs in this workspace, on whichever
    machine."""
    rows = sorted(f"{example.example} {example.label}" for example in read_examples(dataset, "test"))
    name = digest(rows)
    folder = workspace.root / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ROWS).exists():
        write_durably(folder / ROWS, json.dumps(rows))
    for evaluation in [*evaluations, *([champion] if champion else [])]:
        if evaluation.scores.arm is not Arm.TRIVIAL:
            _remember(folder / f"{evaluation.scores.of}.json", evaluation)
    if workspace.sharing:
        workspace.sharing.together(FOLDER)
    seen = {path.name for other in _alike(folder, rows) for path in other.glob("*.json") if path.name != ROWS}
    return _looks(name, len(seen), gate.alpha)


def chance_of_luck(looks: int, alpha: float) -> float:
    """The chance that one of so many contenders that are no better than the champion of their day is promoted all the same."""
    return -math.expm1(looks * math.log1p(-alpha / 2))


def _looks(name: str, contenders: int, alpha: float) -> Looks:
    chance = chance_of_luck(contenders, alpha)
    worn = chance > WORN
    if worn:
        logger.warning(
            "test is worn: %d contenders were measured on these rows, so that by now one no better is promoted by luck with "
            "a chance of up to %.0f %%; new labelled rows for test are due",
            contenders,
            100 * chance,
        )
    return Looks(fingerprint=name, contenders=contenders, chance_of_luck=chance, worn=worn)


def _remember(path: Path, evaluation: Evaluation) -> None:
    if not path.exists():
        look = {"contender": evaluation.scores.contender, "arm": evaluation.scores.arm, "when": datetime.now(UTC).isoformat()}
        write_durably(path, json.dumps(look))


def _alike(folder: Path, rows: Sequence[str]) -> list[Path]:
    """The folders of test sets that hold most of these rows."""
    ours = set(rows)
    found = []
    for other in folder.parent.iterdir():
        kept = other / ROWS
        if other == folder or (kept.exists() and 2 * len(ours & set(json.loads(kept.read_bytes()))) > len(ours)):
            found.append(other)
    return found
