"""Pages of mapped tables are given back, and what is no file's is left alone."""

import sys
from pathlib import Path

import datasets
import pyarrow
import pytest

from tasks.config import Dataset
from tasks.data.mapped import Mapped, file_ranges
from tasks.data.reading import ROWS_AT_ONCE, batches, read_source
from tasks.data.sources import find_source
from tasks.settings import Settings

TEXTS = [f"{row:06} " * 40 for row in range(40_000)]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is given back")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An Arrow file of 11 MB, a thousand rows a batch."""
    table = pyarrow.table({"text": TEXTS})
    with pyarrow.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROWS_AT_ONCE)
    return tmp_path / "rows.arrow"


def test_pages_that_were_read_go_back_and_are_read_again_from_the_file(file: Path) -> None:
    rows = datasets.Dataset.from_file(str(file))
    mapped = Mapped(rows.data.table)
    assert rows["text"][:] == TEXTS
    assert resident(file) > file.stat().st_size / 2
    mapped.let_go()
    assert resident(file) < file.stat().st_size / 10
    assert rows["text"][:] == TEXTS


def test_what_is_no_files_is_left_alone(file: Path) -> None:
    kept = datasets.Dataset.from_file(str(file), in_memory=True)
    both = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)), kept])
    assert file_ranges(kept.data.table) == []
    Mapped(both.data.table).let_go()
    assert both["text"][:] == TEXTS * 2


def test_a_source_that_is_read_through_is_never_in_memory_whole(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": ["a"] * len(TEXTS)}), tmp_path / "rows.parquet")
    source = find_source(Dataset(source="rows.parquet", inputs=["text"], label="label"), Settings(roots=[tmp_path]))
    split = read_source(source, tmp_path / "cache")["train"]
    [part] = split.parts
    made = Path(part.data.cache_files[0]["filename"])
    rows = split.at(range(0, len(TEXTS), 7), ["text"])
    for how in (batches(part, ["text"]), (row for number, row in enumerate(rows) if number % 500 == 0)):
        most = max(resident(made) for _ in how)
        assert most < 0.8 * made.stat().st_size
    assert [row["text"] for row in split.at([0, 39_999], ["text"])] == [TEXTS[0], TEXTS[-1]]


def resident(file: Path) -> int:
    """Bytes of a file that this process has in memory by its mappings."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found
