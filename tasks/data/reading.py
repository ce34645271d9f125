"""A source's splits, read with the `datasets` library. Each file is read by itself, so that files whose label names are in another
order, or whose columns differ, are seen as they are and not silently cast to the first file's."""

import glob
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data.mapped import Mapped
from tasks.data.sources import FORMATS, Source
from tasks.data.text_files import check_text, csv_header, first_bad_json_line
from tasks.errors import BadConfig, BadData, MissingPart
from tasks.progress import progress

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Part:
    """One file of a split, or a whole split of the Hub."""

    data: "datasets.Dataset"
    first: int
    """The place of its first row in the split, from 0."""
    file: Path | None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.file.name if self.file else "the Hub"

    @cached_property
    def mapped(self) -> Mapped:
        """Its pages in memory."""
        return Mapped(self.data.data.table)


@dataclass(frozen=True)
class SourceSplit:
    """One split as the source has it."""

    name: str
    parts: list[Part]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(len(part.data) for part in self.parts)

    def columns(self) -> list[str]:
        """The columns that every part has."""
        names = [set(part.data.column_names) for part in self.parts]
        return [name for name in self.parts[0].data.column_names if all(name in others for others in names)]

    def at(self, places: Sequence[int], columns: list[str]) -> Iterator[dict[str, Any]]:
        """The rows at these places (from 0, ascending), read a batch at a time."""
        starts = [part.first for part in self.parts]
        for start in range(0, len(places), ROWS_AT_ONCE):
            batch = places[start : start + ROWS_AT_ONCE]
            by_part: dict[int, list[int]] = {}
            for place in batch:
                by_part.setdefault(bisect_right(starts, place) - 1, []).append(place)
            for number, inside in by_part.items():
                part = self.parts[number]
                data = part.data.select_columns(columns).with_format("arrow")
                found = data[[place - part.first for place in inside]].to_pylist()
                part.mapped.was_read(inside[-1] - inside[0] + 1)
                yield from found


def batches(part: Part, columns: list[str]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A part's rows in batches, each with the place in the split of its first row."""
    data = part.data.select_columns(columns).with_format("arrow")
    for start in range(0, len(data), ROWS_AT_ONCE):
        rows = data[start : start + ROWS_AT_ONCE].to_pylist()
        part.mapped.was_read(len(rows))
        yield part.first + start, rows


def read_source(source: Source, cache: Path) -> dict[str, SourceSplit]:
    """The source's splits by name.

    Args:
        cache: a folder for what the library builds from local files. It must be fresh, since the library recognises a file by path
            and time and not by content.

    Raises:
        BadData: a file that cannot be read, with the line where there is one.
        BadConfig: the Hub does not have this data set or configuration.
        MissingPart: the Hub cannot be reached.
    """
    if not source.files:
        return _read_hub(source)
    problems = [problem for file in source.files for problem in check_text(file)]
    if problems:
        raise BadData(f"{source.name} cannot be read:\n" + "\n".join(f"  {problem}" for problem in problems))
    splits: dict[str, SourceSplit] = {}
    by_split = _by_split(source)
    with progress(f"read {source.name}", sum(map(len, by_split.values()))) as bar:
        for name, files in by_split.items():
            parts: list[Part] = []
            for file in files:
                data = _read_file(file, cache)
                parts.append(Part(data, sum(len(part.data) for part in parts), file))
                parts[-1].mapped.let_go()
                bar.advance(note=file.name)
            splits[name] = SourceSplit(name, parts)
    return splits


def _library() -> Any:
    """The `datasets` library without its own progress bars and without its count of downloads, which would ask the network."""
    import datasets
    import datasets.config

    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets


def _by_split(source: Source) -> dict[str, list[Path]]:
    """The files of each split; in a folder they are named as `datasets` has it, or are all train."""
    if source.folder is None:
        return {"train": list(source.files)}
    _library()
    from datasets.data_files import DataFilesList, get_data_patterns

    base = glob.escape(str(source.folder))
    resolved = {file.resolve(): file for file in source.files}
    splits: dict[str, list[Path]] = {}
    for split, patterns in get_data_patterns(base).items():
        found = {Path(path).resolve() for path in DataFilesList.from_patterns(patterns, base_path=base)}
        files = sorted(file for real, file in resolved.items() if real in found)
        if files:
            splits[str(split)] = files
    left = set(source.files) - {file for files in splits.values() for file in files}
    if not splits:
        return {"train": list(source.files)}
    if left:
        logger.warning(
            "%s: no split is named in %s, so these are not read", source.name, ", ".join(sorted(file.name for file in left))
        )
    return splits


def _read_file(file: Path, cache: Path) -> "datasets.Dataset":
    library = _library()
    kind = FORMATS[file.suffix]
    options = _csv_options(file) if kind == "csv" else parquet_options() if kind == "parquet" else {}
    try:
        return library.load_dataset(kind, data_files=[glob.escape(str(file))], split="train", cache_dir=str(cache), **options)
    except (library.exceptions.DatasetsError, ValueError, StopIteration, OSError) as error:  # what the parsers raise
        if _is_not_the_files_fault(_cause(error)):
            raise
        raise BadData(f"{file.name} cannot be read as {kind}: {_where(file, error)}") from None


def parquet_options() -> dict[str, Any]:
    """Read through a buffer: without it the reader holds all of a file's compressed bytes until its end."""
    from pyarrow.dataset import ParquetFragmentScanOptions

    return {"fragment_scan_options": ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)}


def _csv_options(file: Path) -> dict[str, Any]:
    """Every column as text: the reader's guesses would turn "NA" into nothing and a column of digits with a hole into floats."""
    library = _library()
    features = library.Features({name: library.Value("string") for name in csv_header(file)})
    separator = "\t" if file.suffix == ".tsv" else ","
    return {"sep": separator, "features": features, "encoding": "utf-8-sig", "keep_default_na": False, "na_filter": False}


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_not_the_files_fault(error: BaseException) -> bool:
    """The system's errors (a full disk, no permission) have a number; a parser's `OSError` has none."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _where(file: Path, error: Exception) -> str:
    line = first_bad_json_line(file) if file.suffix in {".jsonl", ".ndjson"} else ""
    return line or str(_cause(error)) or type(_cause(error)).__name__


def _read_hub(source: Source) -> dict[str, SourceSplit]:
    library = _library()
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = library.load_dataset(
            source.name, name=source.subset or None, revision=source.revision, token=os.environ.get("HF_TOKEN") or None
        )
    except library.exceptions.DatasetNotFoundError as error:
        raise BadConfig(f"data set {source.name!r} cannot be had from the Hub: {error}") from None
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError) as error:
        raise MissingPart(
            f"data set {source.name!r} is not on this machine and the Hub cannot be reached ({type(error).__name__})"
        ) from None
    except ValueError as error:
        raise BadConfig(f"data set {source.name!r} with dataset.subset {source.subset!r}: {error}") from None
    return {str(name): SourceSplit(str(name), [Part(data, 0, None)]) for name, data in found.items()}
