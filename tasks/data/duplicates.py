"""Rows that say the same: exactly, once letter case, punctuation, markup and white space are put aside, or nearly."""

import hashlib
import html
import logging
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.progress import Bar, progress

logger = logging.getLogger(__name__)

MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,200}>|<!--.{0,200}?-->")
HASHES = 128
"""Hash functions of a MinHash sketch."""
RECALL = 0.99
"""Chance that a pair exactly at the threshold is seen; above it the chance is greater."""
CANDIDATES = 100
"""Held-out rows that one train row is compared with at most."""
ROWS_AT_ONCE = 1000
KEYS_AT_ONCE = 100_000
WORDS_KEPT = 500_000

Texts = tuple[str, ...]
"""A row's normalised inputs, one text a column."""


def normalise(text: str) -> str:
    """Words alone, in one case: NFKC, markup and entities out, punctuation and white space as single spaces. A text with nothing
    else in it (a smiley made of punctuation) keeps its characters."""
    plain = MARKUP.sub(" ", html.unescape(text) if "&" in text else text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    return " ".join(folded.translate(_no_punctuation()).split()) or " ".join(folded.split()) or text


def content_key(inputs: Iterable[str]) -> bytes:
    """16 bytes that rows with the same normalised inputs share."""
    return hashlib.sha256("\x1f".join(map(normalise, inputs)).encode()).digest()[:16]


def near_matches(
    held: int,
    train: int,
    threshold: float,
    held_texts: Callable[[Sequence[int]], Iterator[Texts]],
    train_texts: Callable[[Sequence[int]], Iterator[Texts]],
) -> Iterator[tuple[int, int]]:
    """Pairs of a train row and a held-out row that are similar in every column: Jaccard over word trigrams at least `threshold`.

    Sketches find the candidates and the texts decide, so that short sentences never match by accident. Rows share a band of their
    sketches with what they resemble: the bands lie in files, and one at a time is in memory. Texts without spaces between words are
    compared whole.

    Args:
        held, train: how many rows there are of each.
        held_texts, train_texts: give the normalised inputs of rows, by position (ascending).

    Yields:
        Positions (train, held-out), in train's order.
    """
    from tempfile import TemporaryDirectory

    import numpy as np

    bands, rows = _bands(threshold)
    with TemporaryDirectory() as name, progress("look for near-duplicates", held + train) as bar:
        sketch = _sketcher(bands, rows)
        _write_bands(Path(name) / "held", held, bands, held_texts, sketch, bar)
        _write_bands(Path(name) / "train", train, bands, train_texts, sketch, bar)
        pairs = _candidates(Path(name), held, train, bands)
        starts = np.searchsorted(pairs >> np.uint64(32), np.arange(0, train, ROWS_AT_ONCE, dtype=np.uint64))
        for first, last in pairwise([*starts, len(pairs)]):
            found = _by_row(pairs[first:last])
            texts = train_texts([row for row, _ in found]) if found else iter(())
            together = [(row, text, candidates) for (row, candidates), text in zip(found, texts, strict=True)]
            yield from _verified(together, threshold, held_texts)


def _write_bands(
    path: Path,
    count: int,
    bands: int,
    texts: Callable[[Sequence[int]], Iterator[Texts]],
    sketch: Callable[[Iterator[Texts]], Any],
    bar: Bar,
) -> None:
    """The bands of so many rows' sketches, band after band, as 8 bytes a row."""
    path.mkdir()
    files = [(path / str(band)).open("wb") for band in range(bands)]
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        for batch in _ranges(count):
            made = sketch(texts(batch))
            for band, file in enumerate(files):
                file.write(made[:, band].tobytes())
            bar.advance(len(batch))


def _candidates(folder: Path, held: int, train: int, bands: int) -> Any:
    """Rows that share a band: train's position times 2**32 plus the held-out one, uint64, ascending; a few for each train row."""
    import numpy as np

    pairs = np.empty(0, dtype=np.uint64)
    for band in range(bands) if held and train else ():
        theirs = np.fromfile(folder / "held" / str(band), dtype=np.uint64)
        order = np.argsort(theirs, kind="stable").astype(np.uint32)
        theirs = theirs[order]
        found = [pairs]
        for start in range(0, train, KEYS_AT_ONCE):
            own = np.fromfile(folder / "train" / str(band), dtype=np.uint64, count=KEYS_AT_ONCE, offset=8 * start)
            first = np.searchsorted(theirs, own, side="left")
            counts = np.minimum(np.searchsorted(theirs, own, side="right") - first, CANDIDATES)
            rows = np.flatnonzero(counts)
            counts, first = counts[rows], first[rows]
            ends = np.cumsum(counts)
            within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
            which = np.repeat(rows + start, counts).astype(np.uint64) << np.uint64(32)
            found.append(which | order[np.repeat(first, counts) + within])
        pairs = _at_most(np.unique(np.concatenate(found)), CANDIDATES)
    return pairs


def _at_most(pairs: Any, most: int) -> Any:
    """The first few pairs of each train row."""
    import numpy as np

    rows = pairs >> np.uint64(32)
    beyond = np.zeros(len(pairs), dtype=bool)
    beyond[most:] = rows[most:] == rows[:-most]
    return pairs[~beyond]


def _by_row(pairs: Any) -> list[tuple[int, list[int]]]:
    """Each train row with its candidates."""
    found: dict[int, list[int]] = {}
    for pair in pairs.tolist():
        found.setdefault(pair >> 32, []).append(pair & 0xFFFFFFFF)
    return list(found.items())


def _verified(
    found: Sequence[tuple[int, Texts, list[int]]], threshold: float, held_texts: Callable[[Sequence[int]], Iterator[Texts]]
) -> Iterator[tuple[int, int]]:
    needed = sorted({candidate for _, _, candidates in found for candidate in candidates})
    shingles = {position: [_shingles(text) for text in texts] for position, texts in zip(needed, held_texts(needed), strict=True)}
    for position, texts, candidates in found:
        own = [_shingles(text) for text in texts]
        for candidate in candidates:
            if all(_jaccard(a, b) >= threshold for a, b in zip(own, shingles[candidate], strict=True)):
                yield position, candidate


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def _jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows a band of the index: the most selective ones that keep the recall."""
    for rows in range(HASHES, 1, -1):
        bands = HASHES // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return HASHES, 1


def _sketcher(bands: int, rows: int) -> Callable[[Iterator[Texts]], Any]:
    """Makes rows' MinHash sketches, and of each sketch's bands a number: uint64 [rows, bands]. Trigrams are hashed from their
    words' hashes, by numpy; the same on every machine."""
    import numpy
    from datasketch import MinHash

    known = _WordHashes()
    first = MinHash(num_perm=HASHES, hashfunc=int)
    mix = numpy.uint64(0x9E3779B97F4A7C15), numpy.uint64(0xC2B2AE3D27D4EB4F)

    def hashes(column: int, text: str) -> Any:
        words = numpy.fromiter(map(known.__getitem__, text.split()), dtype=numpy.uint64) + numpy.uint64(column)
        three = (words[:-2], words[1:-1], words[2:]) if len(words) > 2 else (words[:1], words[:1], words[-1:])
        return (((three[0] * mix[0] + three[1]) * mix[1] + three[2]) * mix[1]) >> numpy.uint64(32)

    def sketch(texts: Texts) -> Any:
        made = MinHash(num_perm=HASHES, hashfunc=int, permutations=first.permutations, scheme=first.scheme)
        made.update_batch(numpy.concatenate([hashes(column, text) for column, text in enumerate(texts)]))
        return made.hashvalues

    def banded(many: Iterator[Texts]) -> Any:
        sketches = numpy.stack([sketch(texts) for texts in many]).astype(numpy.uint64)[:, : bands * rows].reshape(-1, bands, rows)
        made = numpy.zeros(sketches.shape[:2], dtype=numpy.uint64)
        for place in range(rows):
            made = (made + sketches[:, :, place] + numpy.uint64(1)) * mix[0]
            made ^= made >> numpy.uint64(29)
        return made

    return banded


class _WordHashes(dict[str, int]):
    """Hashes of the words seen so far, up to a size."""

    def __missing__(self, word: str) -> int:
        if len(self) >= WORDS_KEPT:
            self.clear()
        self[word] = made = zlib.crc32(word.encode())
        return made


def _ranges(count: int) -> Iterator[range]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield range(start, min(start + ROWS_AT_ONCE, count))


@cache
def _no_punctuation() -> dict[int, str]:
    """A space for every punctuation character of Unicode; symbols and combining marks are content."""
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "P"}
