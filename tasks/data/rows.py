"""Very many good rows at little memory: a few columns of numbers, and no text, which stays where it is."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

KEY = np.dtype("S16")
ROWS_AT_ONCE = 1000
KEYS_AT_ONCE = 100_000


class Row(NamedTuple):
    """One good row."""

    source: str
    """The source's split."""
    place: int
    """Its place there, from 0."""
    key: bytes
    """Hash of its normalised inputs."""
    label: str


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """Rows as columns, about 25 bytes a row. A number takes out one; a slice, a mask or numbers take out some."""

    sources: Sequence[str]
    labels: Sequence[str]
    source: np.ndarray
    """Position in `sources`, uint8 or more."""
    place: np.ndarray
    """uint32."""
    key: np.ndarray
    """16 bytes that rows with the same normalised inputs share."""
    label: np.ndarray
    """Position in `labels`, uint32."""
    cluster: np.ndarray | None = None
    """16 bytes that rows which belong together share (dataset.cluster); None where the data name nothing of the kind."""

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, which):  # type: ignore[no-untyped-def]
        if isinstance(which, int):
            key = self.key[which : which + 1].tobytes()
            return Row(self.sources[self.source[which]], int(self.place[which]), key, self.labels[self.label[which]])
        return self._each(lambda column: column[which])

    def __iter__(self) -> Iterator[Row]:
        for place in range(len(self)):
            yield self[place]

    def keep(self, which: np.ndarray) -> "Rows":
        """Those of a mask, in place: what they were taken out of must not be used again, and no second copy lies in memory."""
        return self._each(lambda column: _compacted(column, which))

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        source, place, key, label = map(change, (self.source, self.place, self.key, self.label))
        cluster = None if self.cluster is None else change(self.cluster)
        return Rows(self.sources, self.labels, source, place, key, label, cluster)

    def chunks(self) -> Iterator["Rows"]:
        """Some rows at once, all of one source's split."""
        starts = [0, *(np.flatnonzero(np.diff(self.source)) + 1).tolist(), len(self)]
        for first, last in pairwise(starts):
            for start in range(first, last, ROWS_AT_ONCE):
                yield self[start : min(start + ROWS_AT_ONCE, last)]

    def order(self) -> np.ndarray:
        """Numbers of the rows, by source's split (its name) and place."""
        rank = np.argsort(np.argsort(np.asarray(self.sources)))
        return np.lexsort((self.place, rank[self.source]))

    def equal(self, others: "Rows") -> np.ndarray:
        """Which rows say the same as one of the others: a mask. One sorted copy of their keys is all that it takes."""
        found = np.zeros(len(self), dtype=bool)
        theirs = np.sort(others.key)
        for start in range(0, len(self) if len(theirs) else 0, KEYS_AT_ONCE):
            own = self.key[start : start + KEYS_AT_ONCE]
            near = np.minimum(np.searchsorted(theirs, own), len(theirs) - 1)
            found[start : start + len(own)] = theirs[near] == own
        return found

    def count_labels(self) -> Counter[str]:
        """Rows by label."""
        counts = np.bincount(self.label, minlength=len(self.labels))
        return Counter({label: int(count) for label, count in zip(self.labels, counts, strict=True) if count})


def _compacted(column: np.ndarray, which: np.ndarray) -> np.ndarray:
    """A column's cells of a mask, moved to its beginning."""
    filled = 0
    for start in range(0, len(column), KEYS_AT_ONCE):
        some = column[start : start + KEYS_AT_ONCE][which[start : start + KEYS_AT_ONCE]]
        column[filled : filled + len(some)] = some
        filled += len(some)
    return column[:filled]


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows behind one another."""
    sources = list(dict.fromkeys(name for part in parts for name in part.sources))
    labels = list(dict.fromkeys(name for part in parts for name in part.labels))
    at_source = [np.array([sources.index(name) for name in part.sources], dtype=np.uint16)[part.source] for part in parts]
    at_label = [np.array([labels.index(name) for name in part.labels], dtype=np.uint32)[part.label] for part in parts]
    place = np.concatenate([part.place for part in parts])
    key = np.concatenate([part.key for part in parts])
    return Rows(sources, labels, np.concatenate(at_source), place, key, np.concatenate(at_label))


@dataclass
class Gathered:
    """Rows of one source's split as they are read."""

    source: str
    places: "array[int]" = field(default_factory=lambda: array("I"))
    keys: bytearray = field(default_factory=bytearray)
    codes: "array[int]" = field(default_factory=lambda: array("I"))
    labels: dict[str, int] = field(default_factory=dict)
    clusters: bytearray = field(default_factory=bytearray)

    def add(self, place: int, key: bytes, label: str, cluster: bytes = b"") -> None:
        """One more row; all of them have a cluster, or none has."""
        self.places.append(place)
        self.keys += key
        self.clusters += cluster
        self.codes.append(self.labels.setdefault(label, len(self.labels)))

    def rows(self) -> Rows:
        """All of them, in the order in which they came."""
        places, codes = (np.frombuffer(column, dtype=np.uint32) for column in (self.places, self.codes))
        keys = np.frombuffer(self.keys, dtype=KEY)
        clusters = np.frombuffer(self.clusters, dtype=KEY) if self.clusters else None
        return Rows([self.source], list(self.labels), np.zeros(len(places), dtype=np.uint8), places, keys, codes, clusters)
