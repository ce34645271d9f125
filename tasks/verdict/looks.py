"""How often test was looked at: a test set that decides again and again is fitted to in the end, by selection alone.

    looks/<fingerprint of the test rows>/rows.json            the rows' hashes and labels, once
    looks/<fingerprint of the test rows>/<contender>.json     one look

The same files lie in the workspace and in the store that the bake-off publishes to, so a data set's looks are those of every
machine and home that publishes there.

A look is a contender whose answers to these rows a decision has seen for the first time. So a run over the same predictions is
none, be its verdict reused or not, and two runs at once cannot miscount. All contenders of a run count, since all their figures
are shown, and the champion; but not the trivial ones, which nobody has improved by what test said. Looks at another selection of
rows count as well, where it holds most of these: data that grow do not make test new.
"""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tasks.config import Gate
from tasks.data.examples import read_examples
from tasks.errors import IntegrityError, StoreError
from tasks.evaluation.scores import Evaluation
from tasks.records import Arm, DatasetRecord, Looks
from tasks.store import StoreClient
from tasks.workspace import Workspace, digest, write_durably

logger = logging.getLogger(__name__)
FOLDER, ROWS = "looks", "rows.json"
WORN = 0.5
"""From this chance of a promotion by luck on, test is called worn."""
PLACE = re.compile(r"[0-9a-f]{64}")
AT_ONCE = 8
"""Requests to the store."""


def count_looks(
    gate: Gate,
    dataset: DatasetRecord,
    evaluations: Sequence[Evaluation],
    champion: Evaluation | None,
    workspace: Workspace,
    store: StoreClient | None = None,
) -> Looks:
    """Remember whose answers to the test rows a decision has seen, and count those of all runs in this workspace and this store. A
    store that fails now does not fail a bake-off that has ended: they are counted here alone, and sent by the next one.
    """
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
    there: Mapping[str, set[str]] = {}
    if store:
        try:
            there = _exchange(store, folder, rows)
        except (StoreError, IntegrityError) as error:
            logger.warning("looks at test are counted in this workspace alone, until the next run sends them: %s", error)
    seen = {file for other in _alike(folder, rows) for file in _marks(other) | there.get(other.name, set())}
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


def _marks(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.json") if path.name != ROWS}


def _exchange(store: StoreClient, folder: Path, rows: Sequence[str]) -> Mapping[str, set[str]]:
    """Have the store know every look at these rows that this workspace knows, and have the rows of every test set here that lies
    there. Sent before it is counted: of two runs at once, the later one sees both.

    Returns: the looks in the store, by test set.
    """
    known = _listed(store)
    ours = [other / file for other in _alike(folder, rows) for file in (ROWS, *sorted(_marks(other)))]
    missing = [path for path in ours if path.name not in known.get(path.parent.name, ())]
    unknown = [other for other, files in known.items() if ROWS in files and not (folder.parent / other / ROWS).exists()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda path: _send(store, path), missing))
        list(pool.map(lambda other: _fetch_rows(store, folder.parent / other), unknown))
    return {other: files - {ROWS} for other, files in (_listed(store) if missing else known).items()}


def _listed(store: StoreClient) -> Mapping[str, set[str]]:
    """The names of the files in the store, by test set."""
    found: dict[str, set[str]] = defaultdict(set)
    for stored in store.listed(FOLDER):
        *_, other, file = stored.key.split("/")
        if PLACE.fullmatch(other) and file.endswith(".json"):
            found[other].add(file)
    return found


def _send(store: StoreClient, path: Path) -> None:
    store.write_once(store.key(FOLDER, path.parent.name, path.name), path.read_bytes())


def _fetch_rows(store: StoreClient, folder: Path) -> None:
    """Raises nothing for a file that is not what its name says: looks only warn, and that set's own runs see theirs."""
    found = store.read(store.key(FOLDER, folder.name, ROWS))
    if found is None or not _is_named(found[0], folder.name):
        logger.warning("%s is not the list of rows that its name says: left out", store.uri(FOLDER, folder.name, ROWS))
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / ROWS, json.dumps(json.loads(found[0])))


def _is_named(body: bytes, name: str) -> bool:
    """Whether these are the rows that have this fingerprint."""
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(rows, list) and all(isinstance(row, str) for row in rows) and digest(rows) == name


def _alike(folder: Path, rows: Sequence[str]) -> list[Path]:
    """The folders of test sets that hold most of these rows."""
    ours = set(rows)
    found = []
    for other in folder.parent.iterdir():
        kept = other / ROWS
        if other == folder or (kept.exists() and 2 * len(ours & set(json.loads(kept.read_bytes()))) > len(ours)):
            found.append(other)
    return found
