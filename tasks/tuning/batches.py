"""Rows of like length go together: less padding, hence less work, in training and in evaluation."""

import hashlib
import logging
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from tasks.data.mapped import Mapped

TOKENS_A_BATCH = {"cuda": 65_536, "mps": 16_384, "cpu": 4_096}
"""How many tokens, padding included, an evaluation batch holds, by device."""
TOKENS_A_CORE = 1_536
"""The same where cores compute batches of their own."""
LOOKED_AT_TOGETHER = 50
"""Batches whose rows are sorted together: enough for little padding, few enough that the order stays random."""
MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory"),
    *("could not create a primitive", "could not create a memory object"),
)
"""How torch, CUDA, the system and oneDNN (which does not say what it lacked) tell that memory ran out."""
EVEN = 16
"""In bfloat16 on the CPU, a batch is padded to a multiple of so many tokens: oneDNN compiles each product of a new shape, which
takes 2 to 4 ms on AMX, and keeps the newest 1,024 alone."""
NEAREST, SPREAD = 16, 8
"""Rows that quick predictions compute both ways, at least: those whose labels hang by least, which rounding also moves most (on
2,000 IMDB reviews by up to 0.24, and by 0.01 in the surer half), and some from all over."""
SAFETY = 4.0
"""So many times the most that rounding was seen to do, it is taken to do at most. With half of it, models of random weights had
rows left that rounding moved by 0.96 of what would change their label, in place of 0.41."""
logger = logging.getLogger(__name__)


class LikeLengths:
    """The order of train rows: random, rows of like length in one batch, and the longest row in the first, so that memory
    runs out at once or not at all.

    The order follows from seed and epoch alone, so that a resumed epoch sees the same batches. It takes 4 bytes a row.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, mapped: Mapped | None = None) -> None:
        """Args:
        mapped: the pages of the rows, which are given back as the rows are taken.
        """
        self.lengths = array("I", lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.mapped = mapped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader at the start of each epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed} {self.epoch}")  # noqa: S311  an order, not a secret
        lengths = self.lengths.__getitem__
        rows = array("I", range(len(self.lengths)))
        rng.shuffle(rows)
        span = self.batch_size * LOOKED_AT_TOGETHER
        for start in range(0, len(rows), span):
            rows[start : start + span] = array("I", sorted(rows[start : start + span], key=lengths))
        batches = array("I", range(len(rows) // self.batch_size))  # what is left at the end must stay last
        rng.shuffle(batches)
        if batches:
            longest = max(range(len(batches)), key=lambda place: max(map(lengths, self._batch(rows, batches[place]))))
            batches[0], batches[longest] = batches[longest], batches[0]
        for batch in (*batches, len(batches)):
            yield from self._batch(rows, batch)
            if self.mapped:
                self.mapped.was_read(self.batch_size)

    def _batch(self, rows: "array[int]", batch: int) -> "array[int]":
        return rows[batch * self.batch_size : (batch + 1) * self.batch_size]


def part_of(train: Any, share: float, groups: Sequence[Hashable] | None = None) -> Any:
    """A share of the train rows (a `datasets.Dataset`), of each label as large a part, in their order. Rows are chosen by a hash of
    their tokens: a larger share holds the rows of a smaller one, and a row keeps its place when the data grows.

    Args:
        groups: of which as large a part each is taken, by row, in place of the labels.
    """
    if share >= 1:
        return train
    groups, ranked = train["label"][:] if groups is None else groups, defaultdict(list)
    for row, rank in enumerate(_ranks(train)):
        ranked[groups[row]].append((rank, row))
    kept = [row for rows in ranked.values() for _, row in sorted(rows)[: math.ceil(share * len(rows))]]
    return train.select(sorted(kept))


def some_of(rows: Any, most: int) -> Any:
    """At most so many rows (of a `datasets.Dataset`), in their order, chosen by a hash of their tokens."""
    ranked = sorted((rank, row) for row, rank in enumerate(_ranks(rows)))
    return rows.select(sorted(row for _, row in ranked[:most])) if len(rows) > most else rows


def _ranks(rows: Any) -> Iterator[bytes]:
    for ids in rows["input_ids"]:
        yield hashlib.sha256(repr(list(ids)).encode()).digest()


def even(tokens: int, most: int, device: str, dtype: str) -> int:
    """To how many tokens rows of at most `tokens` are padded, so that few shapes come about; the base is known to take `most`."""
    multiple = EVEN if (device, dtype) == ("cpu", "bfloat16") else 1
    return max(tokens, min(most, -(-tokens // multiple) * multiple))


def pad(ids: Sequence[Sequence[int]], pad_id: int, width: Callable[[int], int] = lambda longest: longest) -> dict[str, Any]:
    """Token ids of several rows as `input_ids` and `attention_mask`, int64 tensors [rows, width], padded on the right.

    What was kept of an encoder instead of ids (`tasks/tuning/kept.py`), numbers of one length, becomes float32 [rows, length].

    Args:
        width: how wide, given the longest row.
    """
    import torch

    kept = isinstance(ids[0][0], float)
    longest = max(map(len, ids))
    shape = len(ids), longest if kept else width(longest)
    tokens = torch.full(shape, pad_id, dtype=torch.float32 if kept else torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = torch.as_tensor(row)
        mask[index, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def collate(pad_id: int, width: Callable[[int], int] = lambda longest: longest) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Makes a train batch of rows with `input_ids` and `label`, padded as `pad` does."""

    def batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        return pad([row["input_ids"] for row in rows], pad_id, width) | {"labels": torch.tensor([row["label"] for row in rows])}

    return batch


def by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, each at most `tokens` with its padding (but at least one row)."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = max(1, tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def logits_of(
    model: Any,
    fetch: Callable[[list[int]], Sequence[Sequence[int]]],
    lengths: Sequence[int],
    pad_id: int,
    dtype: str = "float32",
    told: Callable[[int], None] = lambda rows: None,
    threads: int = 0,
) -> Any:
    """What a classifier says of rows: a float32 tensor [rows, labels] on the CPU, in the rows' order.

    Args:
        fetch: token ids of the rows with these numbers.
        lengths: tokens of each row.
        dtype: of matrix products; `float32` gives the same for a row whatever batch it is in, up to rounding.
        told: hears of the rows done after each batch.
        threads: of torch, on the CPU; 0 for as many as it has. The same number gives the same bits.
    """
    import torch

    from tasks.tuning.cores import cores, pays

    device = model.device.type
    width = partial(even, most=max(lengths, default=0), device=device, dtype=dtype)
    model.eval()
    found = torch.zeros(len(lengths), model.config.num_labels)

    def compute(rows: list[int]) -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return _forward(model, fetch(rows), pad_id, width)

    widths, team = [*map(width, lengths)], None
    if pays(model, len(widths), sum(widths), threads or torch.get_num_threads()):
        team = cores(threads or torch.get_num_threads())
    budget = TOKENS_A_BATCH[device] if team is None else min(TOKENS_A_CORE, -(-sum(widths) // team.count))
    batches = by_tokens(widths, budget)
    with closing(team.mapped(compute, batches) if team else ((rows, compute(rows)) for rows in batches)) as done:
        for rows, logits in done:
            found[rows] = logits
            told(len(rows))
    return found


def quick_logits_of(
    model: Any, fetch: Callable[[list[int]], Sequence[Sequence[int]]], lengths: Sequence[int], pad_id: int, dtype: str
) -> Any:
    """As `logits_of`, in `dtype` where rounding is not expected to change a row's label: the others are computed again in float32.

    How far rounding moves the difference of two logits is seen on rows that are computed both ways, those whose two best logits are
    nearest to each other and some more; a row whose two are not `SAFETY` times further apart than the most seen is computed again
    too, and counts as seen. With float32 and with few rows this is `logits_of`.
    """
    import torch

    rows = len(lengths)
    if dtype == "float32" or rows < 4 * (NEAREST + SPREAD) or model.config.num_labels < 2:
        return logits_of(model, fetch, lengths, pad_id)

    def exactly(chosen: list[int]) -> Any:
        return logits_of(model, lambda inside: fetch([chosen[row] for row in inside]), [lengths[row] for row in chosen], pad_id)

    from tasks.tuning.faster import hold_rounded

    exact_again = hold_rounded(model, whole=True)
    try:
        found = logits_of(model, fetch, lengths, pad_id, dtype)
    finally:
        exact_again()
    best = found.topk(2).values
    apart = (best[:, 0] - best[:, 1]).where(found.isfinite().all(-1), -1.0)  # what is no number is computed again
    order = apart.argsort()
    differ = apart[order].diff(prepend=apart.new_tensor([-math.inf])) > 0  # of rows that are the same, one
    again = sorted({*range(0, rows, rows // SPREAD), *order[differ][:NEAREST].tolist()})
    exact, moved = torch.zeros(rows, dtype=torch.bool), 0.0
    while again:
        logits = exactly(again)
        off = logits - found[again]
        moved = max(moved, float((off.amax(-1) - off.amin(-1)).nan_to_num(nan=math.inf, posinf=math.inf).max()))
        found[again], exact[again] = logits, True
        again = (~exact & (apart <= SAFETY * moved)).nonzero().flatten().tolist()
    logger.info("%d of %d rows were predicted in %s alone", rows - int(exact.sum()), rows, dtype)
    return found


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has a type for it on CUDA alone."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in MEMORY_WORDS)


def _forward(model: Any, ids: Sequence[Sequence[int]], pad_id: int, width: Callable[[int], int]) -> Any:
    """Logits of one batch; where memory runs out, of its halves."""
    import torch

    try:
        batch = {name: tensor.to(model.device) for name, tensor in pad(ids, pad_id, width).items()}
        return model(**batch).logits.float().cpu()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(ids) == 1:
            raise
    half = len(ids) // 2  # outside the `except`, which would hold on to the failed batch's tensors
    return torch.cat([_forward(model, part, pad_id, width) for part in (ids[:half], ids[half:])])
