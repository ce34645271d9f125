"""The unlabelled text of objective `self_supervised`: the train rows' own, or a source by itself. What stands in dev or test is
left out of it, since a contender that has read its test rows beforehand is not measured on new ones."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.config import Dataset, Tuned
from tasks.data.duplicates import content_key
from tasks.data.examples import input_text, read_example_file, split_path
from tasks.data.reading import batches, read_source
from tasks.data.sources import Source, find_source
from tasks.data.validate import as_text
from tasks.errors import BadConfig, BadData
from tasks.records import DatasetRecord, Finding
from tasks.settings import Settings

FILE = "texts.parquet"


@dataclass(frozen=True)
class Corpus:
    """Where unlabelled text comes from."""

    identity: str
    """Changes with its bytes."""
    source: Source | None
    """None for the train rows."""


def find_corpus(tuned: Tuned, dataset: DatasetRecord | None, settings: Settings) -> Corpus:
    """The corpus that a recipe names; cheap.

    Raises:
        BadConfig, OutsideRoots, MissingPart: there is none of this name that this run may read.
    """
    if not tuned.corpus:
        return Corpus(dataset.fingerprint if dataset else "", None)
    try:
        source = find_source(
            Dataset(source=tuned.corpus, inputs=[tuned.corpus_column], label=f"not {tuned.corpus_column}"), settings
        )
    except BadConfig as error:
        raise BadConfig(f"tuned contender {tuned.name!r}, corpus: {error}") from None
    return Corpus(source.revision, source)


def write_texts(tuned: Tuned, corpus: Corpus, dataset: DatasetRecord, folder: Path) -> tuple[int, list[Finding]]:
    """Write the texts, a row each, into `folder`: how many, and what was left out.

    Raises:
        BadData: the source lacks the column, or nothing is left.
    """
    import pyarrow
    import pyarrow.parquet

    held = {
        content_key([input_text(row.inputs)]) for split in ("dev", "test") for row in read_example_file(split_path(dataset, split))
    }
    kept: dict[bytes, str] = {}
    empty = repeated = kept_out = 0
    for text in _texts(tuned, corpus, dataset, folder / "cache"):
        key = content_key([text])
        empty += not text.strip()
        repeated += key in kept
        kept_out += key in held
        if text.strip() and key not in held:
            kept.setdefault(key, text)
    chosen = sorted(kept, key=lambda key: hashlib.sha256(b"corpus" + key).digest())[: tuned.corpus_rows]
    if not chosen:
        raise BadData(f"tuned contender {tuned.name!r}: no text of {tuned.corpus or 'train'} is left for further pre-training")
    pyarrow.parquet.write_table(pyarrow.table({"text": [kept[key] for key in chosen]}), folder / FILE)
    found = {"empty": empty, "repeated": repeated, "equal to a dev or test row": kept_out}
    message = "; ".join(f"{count:,} {what}" for what, count in found.items() if count)
    findings = (
        [Finding(kind="corpus", count=sum(found.values()), message=f"unlabelled text left out: {message}")] if message else []
    )
    return len(chosen), findings


def _texts(tuned: Tuned, corpus: Corpus, dataset: DatasetRecord, cache: Path) -> Iterator[str]:
    if corpus.source is None:
        for row in read_example_file(split_path(dataset, "train")):
            yield input_text(row.inputs)
        return
    column = tuned.corpus_column
    for split in read_source(corpus.source, cache).values():
        if column not in split.columns():
            raise BadData(
                f"tuned contender {tuned.name!r}: corpus {tuned.corpus} has no column {column!r}; it has "
                f"{', '.join(split.columns())}: set corpus_column"
            )
        for part in split.parts:
            for _, rows in batches(part, [column]):
                yield from (as_text(row[column]) for row in rows)
