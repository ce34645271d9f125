"""Examples that are chosen for each row anew: the pool in a contender's folder, and what it holds that is like the row.

`pool.json` has the rows and what embedded them; `pool.safetensors`, for selection `nearest` alone, has their vectors.
"""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.config import Order, Selection
from tasks.data.duplicates import content_key
from tasks.data.examples import input_text
from tasks.errors import IntegrityError
from tasks.prompting.budget import count_tokens
from tasks.prompting.embed import Embedder, embed_texts, find_embedder
from tasks.prompting.messages import Pool, PromptSpec, Shot
from tasks.records import Example, Model
from tasks.settings import Settings, load_settings
from tasks.workspace import digest

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
FILE = "pool.json"
VECTORS = "pool.safetensors"
BY_ROW = (Selection.NEAREST, Selection.BM25)
"""Selections that go by row; the others show the same examples with every row."""
MOST_ROWS = 2_000
"""Rows in a pool; it is published with the prompt, and looked through for every row."""
ANSWER_TOKENS = 24
"""Of the context, about so much goes to an example's answer and the marks of its two turns."""
DECIMALS = 5
"""Similarities that agree so far count as equal, and the row's id decides: machines differ beyond."""
WORD = r"(?u)\b\w+\b"


class PoolFile(Model):
    """The content of `pool.json`."""

    rows: list[Example]
    """In the order of their ids; each text once."""
    embedder: Embedder | None = None
    """What made the vectors; None where there are none."""


@dataclass(frozen=True)
class ExamplePool:
    """The train rows that may be shown."""

    rows: list[Example]
    embedder: Embedder | None = None
    vectors: "np.ndarray | None" = None
    """[rows, dimensions], each of length 1."""

    def embedded(self, settings: Settings) -> "ExamplePool":
        """With the rows' vectors. Raises as `find_embedder` and `embed_texts`."""
        embedder, model = find_embedder(settings)
        return replace(self, embedder=embedder, vectors=embed_texts([input_text(row.inputs) for row in self.rows], model))

    def save(self, folder: Path, selection: Selection) -> None:
        """Write what this selection needs into a contender's folder."""
        with_vectors = selection is Selection.NEAREST and self.vectors is not None
        content = PoolFile(rows=self.rows, embedder=self.embedder if with_vectors else None)
        (folder / FILE).write_text(content.model_dump_json(indent=1), encoding="utf-8")
        if with_vectors:
            from safetensors.numpy import save_file

            save_file({"vectors": self.vectors}, folder / VECTORS)

    def rank(
        self, selection: Selection, examples: Sequence[Example], most: int, settings: Settings | None = None
    ) -> list[list[int]]:
        """For each example the rows most like it, the most similar first; never one that says the same as it.

        Args:
            most: how many rows at most.
            settings: where the embedding model lies; those of this process if None.

        Raises:
            IntegrityError: the rows were embedded with another model than this machine has.
        """
        import numpy as np

        keys = [content_key(row.inputs.values()) for row in self.rows]
        ranked = []
        for example, scores in zip(examples, self._similarities(selection, examples, settings), strict=True):
            order = np.argsort(-np.round(scores, DECIMALS), kind="stable")[: most + 1].tolist()
            same = content_key(example.inputs.values())
            ranked.append([place for place in order if keys[place] != same][:most])
        return ranked

    def _similarities(self, selection: Selection, examples: Sequence[Example], settings: Settings | None) -> "Iterator[np.ndarray]":
        texts = [input_text(example.inputs) for example in examples]
        if selection is Selection.BM25:
            return _shared_words([input_text(row.inputs) for row in self.rows], texts)
        return self._cosines(texts, settings or load_settings())

    def _cosines(self, texts: Sequence[str], settings: Settings) -> "Iterator[np.ndarray]":
        if self.vectors is None or self.embedder is None:
            raise IntegrityError(f"the pool of examples has no vectors, which selection {Selection.NEAREST} needs: build it again")
        _, model = find_embedder(settings, wanted=self.embedder)
        for vector in embed_texts(texts, model):
            yield self.vectors @ vector


def make_pool(rows: Sequence[Example]) -> ExamplePool:
    """A pool of these rows: each text once, and at most `MOST_ROWS` of them, chosen by hash."""
    unique = {content_key(row.inputs.values()): row for row in sorted(rows, key=lambda row: row.example, reverse=True)}
    kept = sorted(unique.values(), key=lambda row: digest(row.example))[:MOST_ROWS]
    return ExamplePool(sorted(kept, key=lambda row: row.example))


def read_pool(folder: Path) -> ExamplePool:
    """The pool in a contender's folder.

    Raises:
        IntegrityError: it is missing or malformed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = PoolFile.model_validate_json((folder / FILE).read_bytes())
        vectors = load_file(folder / VECTORS)["vectors"] if content.embedder else None
    except (OSError, ValidationError, SafetensorError, KeyError) as error:
        raise IntegrityError(f"the pool of examples in {folder} cannot be read: {error}; build or fetch the prompt again") from None
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(content.rows)):
        raise IntegrityError(f"{folder / VECTORS} has shape {vectors.shape} for {len(content.rows)} rows: build the prompt again")
    return ExamplePool(content.rows, content.embedder, vectors)


def shots_by_row(folder: Path, spec: PromptSpec, examples: Sequence[Example], settings: Settings | None = None) -> list[list[Shot]]:
    """For each row the examples to show with it, from the pool in the contender's folder.

    Args:
        settings: where the embedding model lies; those of this process if None.

    Raises:
        IntegrityError: the pool is missing or malformed, or this machine's embedding model is another one.
    """
    assert spec.pool, "the prompt shows the same examples with every row"
    if not examples:
        return []
    pool = read_pool(folder)
    ranked = pool.rank(spec.pool.selection, examples, spec.pool.count, settings)
    return choose_shots(spec.pool, pool, spec.labels, examples, ranked)


def choose_shots(
    how: Pool, pool: ExamplePool, labels: Sequence[str], examples: Sequence[Example], ranked: Sequence[Sequence[int]]
) -> list[list[Shot]]:
    """For each row the examples to show with it, of those ranked for it: as many as fit the room, the most similar before others.

    Args:
        ranked: places in the pool by row, the most similar first (`ExamplePool.rank`).
    """
    sizes = [shot_tokens(row) for row in pool.rows]
    shots, left_out, rows = [], 0, 0
    for example, places in zip(examples, ranked, strict=True):
        kept = list(places[: how.count])
        wanted = len(kept)
        while sum(sizes[place] for place in kept) > how.room:
            kept.pop()
        left_out += wanted - len(kept)
        rows += len(kept) < wanted
        chosen = [Shot(inputs=pool.rows[place].inputs, label=str(pool.rows[place].label)) for place in kept]
        shots.append(_ordered(chosen, how.order, labels, example))
    if left_out:
        logger.info(
            "%d examples (with %d of %d rows) were left out, the least similar first: a row's examples may take %d tokens together",
            left_out,
            rows,
            len(examples),
            how.room,
        )
    return shots


def shot_tokens(row: Example) -> int:
    """About how many tokens a row takes as an example, its answer included."""
    return count_tokens(input_text(row.inputs)) + ANSWER_TOKENS


def _ordered(shots: list[Shot], order: Order, labels: Sequence[str], example: Example) -> list[Shot]:
    """Shots that come the most similar first, in the order in which they are shown."""
    if order is Order.SHUFFLED:
        chooser = random.Random(json.dumps(example.inputs))  # noqa: S311
        return chooser.sample(shots, len(shots))
    rising = shots[::-1]
    return sorted(rising, key=lambda shot: labels.index(shot.label)) if order is Order.GROUPED else rising


def _shared_words(texts: Sequence[str], asked: Sequence[str]) -> "Iterator[np.ndarray]":
    """BM25 of each of the texts for each of the asked ones."""
    import bm25s
    import numpy as np

    def words(some: Sequence[str]) -> list[list[str]]:
        plain = {"stopwords": None, "return_ids": False, "show_progress": False}
        found: list[list[str]] = bm25s.tokenize(list(some), token_pattern=WORD, **plain)
        return found

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    for query in words(asked):
        known = [word for word in query if word in index.vocab_dict]
        yield index.get_scores(known) if known else np.zeros(len(texts), dtype=np.float32)
