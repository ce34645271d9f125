"""Gives back pages of tables that are mapped from files, so that reading a large one through does not hold all of it.

The system keeps the file's bytes in its cache as long as it likes, so that a second reading is no slower.
"""

import ctypes
import mmap
import sys
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

ROWS_HELD = 25_000
"""After so many rows that were read in their order, pages go back: a few megabytes of text."""
SCATTERED = 400
"""The same for rows in random order: each brings pages around it, which the system reads ahead."""
MAPS = Path("/proc/self/maps")
DONTNEED = 4


class Mapped:
    """The pages of one table; where it is no file's, or the system is not Linux, nothing happens."""

    def __init__(self, table: "pyarrow.Table", rows_held: int = ROWS_HELD) -> None:
        self.table = table
        """Kept: what is at its addresses must stay the file's."""
        self._held, self._read = rows_held, 0
        self._ranges = file_ranges(table) if sys.platform.startswith("linux") and MAPS.exists() else []

    def was_read(self, rows: int) -> None:
        """So many more rows were read, or stand between some that were; now and then all pages are given back."""
        self._read += rows
        if self._read >= self._held:
            self.let_go()

    def let_go(self) -> None:
        """Give all pages back; who reads there again gets them from the file."""
        self._read = 0
        for start, end in self._ranges:
            _advise()(start, end - start, DONTNEED)  # a refusal does no harm: the pages stay until the system wants them
        release_freed()


def file_ranges(table: "pyarrow.Table") -> list[tuple[int, int]]:
    """Where a table's buffers lie, in whole pages (from, to), as far as that is memory mapped from a file and never written: there
    alone what is given back can be had again. A mapping in which no buffer lies is not touched."""
    buffers = (buffer for column in table.columns for chunk in column.chunks for buffer in chunk.buffers() if buffer)
    maps, page = _file_maps(), mmap.PAGESIZE
    starts, found = [low for low, _ in maps], dict[int, tuple[int, int]]()
    for buffer in buffers:
        start, end = buffer.address // page * page, -(-(buffer.address + buffer.size) // page) * page
        place = bisect_right(starts, buffer.address) - 1
        if place >= 0 and end <= maps[place][1]:
            low, high = found.get(place, (start, end))
            found[place] = min(low, start), max(high, end)
    return sorted(found.values())


def _file_maps() -> list[tuple[int, int]]:
    """The address ranges of this process that are mapped from files, for reading alone; ascending."""
    found = []
    for line in MAPS.read_text().splitlines():
        addresses, rights, _, _, inode, *_ = line.split()
        if inode != "0" and rights.startswith("r--"):
            start, end = addresses.split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


@cache
def _advise() -> Any:
    call = ctypes.CDLL(None).madvise
    call.argtypes, call.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return call


def release_freed() -> None:
    """Give the system back what Arrow freed: its allocator keeps that for a while, tens of megabytes after a million rows."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
