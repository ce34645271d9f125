"""The files that are predicted, checked before anything is started or spent, and the files that are written."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tasks.data.tables import FORMATS, Row, Types, check_pair, columns_of, count_rows, place_result, rows_of, write_extended
from tasks.data.text_files import check_shape
from tasks.errors import BadConfig, BadData
from tasks.predicting.records import PredictFile
from tasks.predicting.rows import Inputs, read_row
from tasks.records import Answer, Failure
from tasks.settings import Settings
from tasks.workspace import file_sha256

logger = logging.getLogger(__name__)
PREFIX = r"[A-Za-z0-9_]{0,40}"
TYPES: Types = {
    "label": lambda pyarrow: pyarrow.string(),
    "probability": lambda pyarrow: pyarrow.float64(),
    "answer": lambda pyarrow: pyarrow.string(),
    "reason": lambda pyarrow: pyarrow.string(),
    "failure": lambda pyarrow: pyarrow.string(),
    "cost_usd": lambda pyarrow: pyarrow.float64(),
    "input_tokens": lambda pyarrow: pyarrow.int64(),
    "output_tokens": lambda pyarrow: pyarrow.int64(),
}
"""The columns that prediction adds."""


def find_files(
    given: str, to: str, own_process: bool, settings: Settings, columns: Sequence[str] = (), prefix: str = ""
) -> list[PredictFile]:
    """The files that are to be predicted: the one that is given, or all in the folder that is given, with where each goes.

    Args:
        own_process: whether the caller's own rights hold for the output (`place_result`).
        columns: those that the champion sees; empty where it is not known yet.
        prefix: stands before the names of the added columns.

    Raises:
        OutsideRoots, BadConfig: a path cannot be read, or the output's place is not right.
        BadData: a file cannot be read, a column is missing, or would be overwritten.
    """
    if not re.fullmatch(PREFIX, prefix):
        raise BadConfig(f"prefix {prefix[:50]!r} must be letters, digits and `_`, at most 40 of them")
    source, target = settings.readable(given), place_result(to, own_process, settings.home / "predicted")
    if not source.is_dir():
        pairs = [(source, target / source.name if target.is_dir() else target)]
    else:
        if target.is_file() or target.resolve().is_relative_to(source) or source.is_relative_to(target.resolve()):
            raise BadConfig(f"{given} is a folder, so its predictions go into a folder beside it: {to} is not one")
        pairs = [(path, target / path.relative_to(source)) for path in _in_folder(source, settings)]
    files = [_check(path, to, columns, prefix) for path, to in pairs]
    logger.info("%d rows in %d files", sum(file.rows for file in files), len(files))
    return files


def inputs_of(file: PredictFile, columns: Sequence[str], max_characters: int) -> Iterator[Inputs | Failure]:
    """The inputs of each row, or why it has none, in order."""
    return (read_row(row, columns, max_characters) for row in rows_of(file.path))


def write_predicted(file: PredictFile, answers: Iterable[Answer], prefix: str) -> None:
    """Write a file's rows with their answers, in order: aside, then renamed when whole.

    Raises:
        BadData: the file is no longer the one that was predicted.
    """
    types = {prefix + name: kind for name, kind in TYPES.items()}
    file.to.parent.mkdir(parents=True, exist_ok=True)
    write_extended(file.path, file.to, file.sha256, types, (_cells(answer, prefix) for answer in answers))


def _cells(answer: Answer, prefix: str) -> Row:
    return {prefix + name: value for name, value in answer.model_dump(mode="json", include=set(TYPES)).items()}


def _in_folder(folder: Path, settings: Settings) -> list[Path]:
    """Its files of a format that is read, those of folders inside it as well; hidden ones and others are left alone."""
    every = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
    found = [path for path in every if path.suffix in FORMATS]
    if not found:
        raise BadData(f"folder {folder} holds no file that can be read: {', '.join(FORMATS)} are")
    if len(found) < len(every):
        logger.warning("%s: %d files of other kinds are left alone", folder, len(every) - len(found))
    for path in found:
        settings.readable(path)  # a link may lead out of what may be read
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _check(path: Path, to: Path, columns: Sequence[str], prefix: str) -> PredictFile:
    check_pair(path, to, "predictions")
    if to.is_dir():
        raise BadConfig(f"the predictions cannot be written to {to}: it is a folder")
    problems = check_shape(path)
    if problems:
        raise BadData(f"{path.name} cannot be read:\n" + "\n".join(f"  {problem}" for problem in problems))
    there = columns_of(path)
    missing = [column for column in columns if column not in there]
    if missing:
        raise BadData(f"{path.name} has no column {missing[0]!r}, which the champion sees; it has {', '.join(there) or 'none'}")
    taken = [prefix + name for name in TYPES if prefix + name in there]
    if taken:
        raise BadData(
            f"{path.name} has a column {taken[0]!r} already, which prediction would write: set a prefix for the new columns, such "
            "as `--prefix predicted_`"
        )
    rows = count_rows(path)
    if not rows:
        raise BadData(f"{path.name} has no rows to predict")
    return PredictFile(path=path, to=to, sha256=file_sha256(path), rows=rows)
