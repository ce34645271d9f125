"""What a frozen encoder says of each row, computed once and kept on disk: head-only training costs one pass over the encoder.

    kept/train-00000.arrow …    a row's first token as the encoder leaves it, label and length 1; parts of `ROWS_A_PART` rows

The parts are read memory-mapped, so that memory stays flat; a run that was killed goes on after its last whole part.
The encoder runs without dropout: what it says of a row is the same in every epoch.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import torch
from datasets import Dataset, concatenate_datasets
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tasks.tuning.batches import logits_of

ROWS_A_PART = 4_096
TOLERANCE = 1e-4


class KeptEncoder(torch.nn.Module):
    """Stands in an encoder's place: is given what that said of rows, and says it again.

    A pooler stays part of it, under its own name, since it may train.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.pooler = getattr(encoder, "pooler", None)
        self.whole = (encoder,)  # in a tuple, so that it is no part of the model meanwhile

    def forward(self, input_ids: Any, **_: Any) -> Any:
        """Of the first tokens of rows, float32 [rows, width], the encoder's output for one token each."""
        hidden = input_ids[:, None]
        return BaseModelOutputWithPooling(hidden, self.pooler(hidden) if self.pooler is not None else None)


class _FirstTokens(torch.nn.Module):
    """An encoder whose logits are what it says of each row's first token, before the pooler."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = getattr(model, model.base_model_prefix)
        self.config = SimpleNamespace(num_labels=model.config.hidden_size)
        self.device = model.device

    def forward(self, **batch: Any) -> Any:
        """Logits [rows, width]."""
        return SimpleNamespace(logits=self.encoder(**batch).last_hidden_state[:, 0])


def keep(
    model: Any,
    rows: Dataset,
    folder: Path,
    split: str,
    pad_id: int,
    dtype: str,
    told: Callable[[int], None] = lambda rows: None,
    threads: int = 0,
) -> Dataset:
    """What the encoder says of the rows of a split, in their order: the columns of tokens, the first token's state as `input_ids`.

    Args:
        folder: where the parts lie, and are found again.
        told: hears of the rows done.
        threads: as of `logits_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder, parts = _FirstTokens(model), []
    for start in range(0, len(rows), ROWS_A_PART):
        path = folder / f"{split}-{start // ROWS_A_PART:05}.arrow"
        part = rows.select(range(start, min(start + ROWS_A_PART, len(rows))))
        if path.exists():
            told(len(part))
        else:
            _write(path, encoder, part, pad_id, dtype, told, threads)
        parts.append(Dataset.from_file(str(path)))
    return concatenate_datasets(parts)


def stand_in(model: Any) -> None:
    """Put a `KeptEncoder` in the place of a model's encoder, for rows that `keep` made."""
    setattr(model, model.base_model_prefix, KeptEncoder(getattr(model, model.base_model_prefix)))


def put_back(model: Any) -> None:
    """Undo `stand_in`, where it was done."""
    encoder = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if isinstance(encoder, KeptEncoder):
        setattr(model, model.base_model_prefix, encoder.whole[0])


def can_be_kept(model: Any, pad_id: int) -> bool:
    """Whether only the head trains, and it reads no more than the first token: two made-up rows must get the same logits."""
    encoder = getattr(model, model.base_model_prefix)
    trains = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    if any(not name.startswith("pooler.") for name in trains):
        return False
    rows = [[token for token in range(1, 9) if token != pad_id], [token for token in range(3, 7) if token != pad_id]]
    lengths = [*map(len, rows)]
    plain = logits_of(model, lambda wanted: [rows[row] for row in wanted], lengths, pad_id)
    try:
        tokens = logits_of(_FirstTokens(model), lambda wanted: [rows[row] for row in wanted], lengths, pad_id).tolist()
        stand_in(model)
        kept = logits_of(model, lambda wanted: [tokens[row] for row in wanted], lengths, pad_id)
        return bool((plain - kept).abs().max() <= TOLERANCE)
    except (RuntimeError, IndexError, TypeError, AttributeError, ValueError):
        return False  # a head that wants all tokens, or their ids
    finally:
        setattr(model, model.base_model_prefix, encoder)


def _write(path: Path, encoder: Any, part: Dataset, pad_id: int, dtype: str, told: Callable[[int], None], threads: int) -> None:
    said = logits_of(encoder, lambda rows: part[rows]["input_ids"], part["length"][:], pad_id, dtype, told, threads).numpy()
    starts = pyarrow.array(range(0, said.size + 1, said.shape[1]), pyarrow.int32())
    columns = {
        "input_ids": pyarrow.ListArray.from_arrays(starts, pyarrow.array(said.reshape(-1))),
        "label": pyarrow.array(part["label"][:], pyarrow.int64()),
        "length": pyarrow.array([1] * len(part), pyarrow.int32()),
    }
    table = pyarrow.table(columns)
    aside = path.with_suffix(".writing")
    with pyarrow.OSFile(str(aside), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    aside.rename(path)
