"""Sentence embeddings, made in a child process: torch stays out of the one that asks.

    run_child("tasks.prompting.embed", {"model": folder, "texts": JSON file, "out": safetensors file})

Every batch has one of a few fixed shapes, so a text's vector does not depend on the texts beside it: whoever computes it again,
alone or among others, finds the same neighbours.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks.bases import resolve_base
from tasks.child import run_child, serve_child
from tasks.errors import IntegrityError
from tasks.progress import progress
from tasks.records import Model
from tasks.settings import Settings
from tasks.workspace import digest, file_sha256

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
BASE = "sentence-transformers/all-MiniLM-L6-v2"
ROWS_AT_ONCE = 32
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens that a batch is padded to; longer texts are cut, as this model's authors do."""


class Embedder(Model):
    """The model that made a vector; vectors of different ones cannot be compared."""

    id: str
    revision: str
    config_sha256: str
    weights_sha256: str


def find_embedder(settings: Settings, wanted: Embedder | None = None) -> tuple[Embedder, Path]:
    """The embedding model and its folder on this machine.

    Args:
        wanted: what made the vectors that the new ones are to be compared with; None takes what the settings have.

    Raises:
        IntegrityError: this machine has another one.
        BadConfig, MissingPart: as `resolve_base`.
    """
    base = resolve_base(wanted.id if wanted else BASE, wanted.revision if wanted else "", settings)
    weights = digest({file.name: file_sha256(file) for file in sorted(base.path.glob("*.safetensors"))})
    found = Embedder(id=base.id, revision=base.revision, config_sha256=base.config_sha256, weights_sha256=weights)
    if wanted and found != wanted:
        raise IntegrityError(
            f"the examples were embedded with {_named(wanted)}, but this machine has {_named(found)}, whose vectors mean something "
            "else: install the first one, or build the prompt again"
        )
    return found, base.path


def embed_texts(texts: Sequence[str], model: Path) -> "np.ndarray":
    """The texts' vectors, [texts, dimensions] in float32, each of length 1.

    Raises:
        ChildDied: the child was killed, or ran out of memory.
    """
    from safetensors.numpy import load_file

    with TemporaryDirectory(prefix="bakeoff-embed-") as name:
        given, out = Path(name) / "texts.json", Path(name) / "vectors.safetensors"
        given.write_text(json.dumps(list(texts)), encoding="utf-8")
        run_child("tasks.prompting.embed", {"model": str(model), "texts": str(given), "out": str(out)})
        return load_file(out)["vectors"]


def embed(request: Mapping[str, str]) -> dict[str, Any]:
    """The child's work: read the texts, write their vectors.

    Returns: `rows`, and the `device` that it ran on.
    """
    import numpy as np
    from safetensors.numpy import save_file
    from transformers import AutoTokenizer

    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(request["model"], local_files_only=True)
    tokens = [tokenizer(text, truncation=True, max_length=LENGTHS[-1])["input_ids"] for text in texts]
    model, device = _load_model(request["model"])
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with progress("embed texts", len(texts)) as bar:
        for rows, length in _batches(tokens):
            padded = [tokens[row] for row in rows] + [[]] * (ROWS_AT_ONCE - len(rows))
            batch = tokenizer.pad({"input_ids": padded}, padding="max_length", max_length=length, return_tensors="pt")
            vectors[rows] = _pool(model, batch.to(device))[: len(rows)]
            bar.advance(len(rows))
    save_file({"vectors": vectors}, request["out"])
    return {"rows": len(texts), "device": device}


def _load_model(path: str) -> tuple[Any, str]:
    """The model in float32, whatever the device multiplies faster: vectors are compared across machines."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    from tasks.device import pick_device

    transformers_logging.disable_progress_bar()
    device = pick_device().name
    model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    return model.eval().to(device), device


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], int]]:
    """Positions of texts of about the same length, and the length that they are padded to."""
    shortest = 0
    for length in LENGTHS:
        rows = [row for row, ids in enumerate(tokens) if shortest < len(ids) <= length]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            yield rows[start : start + ROWS_AT_ONCE], length
        shortest = length


def _pool(model: Any, batch: Any) -> "np.ndarray":
    """The mean over a text's tokens, at length 1: [rows, dimensions]."""
    import torch

    with torch.inference_mode():
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: np.ndarray = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
    return vectors


def _named(embedder: Embedder) -> str:
    hashes = f"weights {embedder.weights_sha256[:12]}, config {embedder.config_sha256[:12]}"
    return f"{embedder.id} at {embedder.revision[:12]} ({hashes})"


if __name__ == "__main__":
    serve_child(embed)
