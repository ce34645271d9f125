"""A contender as a folder for other programs: its files as they are, or its model merged with its base.

    adapter/ tokenizer/ contender.json …     as it was published
    config.json model.safetensors tokenizer.json …     merged: what transformers loads by itself

A merged folder is loaded again before it gets its name, and must answer as the unmerged contender does.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.contenders.tuned import TunedSpec, base_path, read_spec, refuse_missing_weights
from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.records import Model
from tasks.settings import Settings

TOLERANCE = 1e-3
"""How far logits may be from those of the unmerged contender: float32 rounding of another order of additions."""


class Exported(Model):
    """What was written."""

    folder: Path
    contender: str
    kind: str
    merged: bool
    bytes: int
    checked_rows: int = 0
    """Rows for which merged and unmerged were compared."""
    largest_difference: float | None = None
    """Of their logits."""


def export_contender(folder: Path, to: Path) -> Exported:
    """Write the files that a contender's manifest names, and the manifest, into a new or empty folder.

    Raises:
        BadConfig: `to` is not empty.
        IntegrityError: a file is missing or not what the manifest says.
    """
    manifest = read_manifest(folder)
    with _new_folder(to) as aside:
        for name in (FILE, *manifest.files):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, aside / name)
        read_manifest(aside)
    return Exported(folder=to, contender=manifest.name, kind=manifest.kind, merged=False, bytes=_bytes(to))


def export_merged(folder: Path, to: Path, texts: Sequence[str], settings: Settings) -> Exported:
    """Write a tuned classifier as one model, which `AutoModelForSequenceClassification.from_pretrained` loads without Bakeoff.

    What was trained on a base in 4 bits (QLoRA) is merged into the base in float32, on which it predicts in Bakeoff as well.

    Args:
        texts: merged and unmerged must give them the same labels, and logits within `TOLERANCE`.

    Raises:
        BadConfig: it is no tuned classifier, there are no texts, or `to` is not empty.
        IntegrityError: the base is another, weights are missing, or merged and unmerged differ; nothing is left in `to`.
    """
    manifest = read_manifest(folder)
    spec = refuse_what_cannot_merge(folder, manifest)
    if not texts:
        raise BadConfig("a merged model is compared with the unmerged one, but there are no rows to compare them on")
    with _new_folder(to) as aside:
        _write_merged(folder, manifest, spec, aside, settings)
        apart = _difference(folder, manifest, spec, aside, texts, settings)
    found = Exported(folder=to, contender=manifest.name, kind=manifest.kind, merged=True, bytes=_bytes(to))
    return found.model_copy(update={"checked_rows": len(texts), "largest_difference": apart})


def refuse_what_cannot_merge(folder: Path, manifest: ContenderManifest) -> TunedSpec:
    """The spec of a tuned classifier. Raises BadConfig for any other contender."""
    why = "has no weights to merge" if manifest.kind != "tuned" else ""
    if manifest.spec.get("frame"):
        why = "answers in text, which is no classifier"
    if why:
        raise BadConfig(f"contender {manifest.name!r} (a {manifest.kind}) {why}: leave out --merged to export it as it is")
    spec = read_spec(folder, manifest)
    refuse_missing_weights(folder, manifest, spec)
    return spec


def refuse_full_folder(to: Path) -> None:
    """Raises BadConfig where an export would mix with what is there."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadConfig(f"{to} is there already and is not an empty folder: name a new folder, or empty it")


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A folder aside that gets its name when the `with` ends well, and is removed when it does not."""
    refuse_full_folder(to)
    aside = to.with_name(f".{to.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    aside.mkdir(parents=True)
    try:
        yield aside
        if to.is_dir():  # it may be a link or a mounted volume, which no name goes over
            for path in aside.iterdir():
                shutil.move(path, to / path.name)
        else:
            aside.rename(to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_merged(folder: Path, manifest: ContenderManifest, spec: TunedSpec, aside: Path, settings: Settings) -> None:
    from tasks.data.tokenize import load_tokenizer
    from tasks.tuning.methods import restore

    tokenizer = load_tokenizer(folder / "tokenizer").tokenizer
    model = restore(
        folder, spec.method, base_path(folder, spec, settings), manifest.labels, spec.vocabulary, tokenizer.pad_token_id
    )
    model.save_pretrained(aside)
    tokenizer.model_max_length, tokenizer.truncation_side = spec.max_tokens, spec.truncation_side.value
    tokenizer.init_kwargs["truncation_side"] = spec.truncation_side.value  # else it is not saved
    tokenizer.save_pretrained(aside)


def _difference(
    folder: Path, manifest: ContenderManifest, spec: TunedSpec, aside: Path, texts: Sequence[str], settings: Settings
) -> float:
    """The largest difference between the logits of what was written, loaded as a stranger would, and of the unmerged contender.

    Raises:
        IntegrityError: a label differs, or a logit beyond `TOLERANCE`.
    """
    from transformers import AutoModelForSequenceClassification

    from tasks.data.tokenize import encode_texts, load_tokenizer
    from tasks.tuning.batches import logits_of
    from tasks.tuning.methods import restore

    tokenizer = load_tokenizer(folder / "tokenizer").tokenizer
    pad_id, ids = tokenizer.pad_token_id, encode_texts(tokenizer, texts, spec.max_tokens, spec.truncation_side).ids
    plain = load_tokenizer(aside).tokenizer(list(texts), truncation=True).input_ids
    if [list(row) for row in plain] != [list(row) for row in ids]:
        raise IntegrityError(f"contender {manifest.name!r}: the exported tokenizer gives other tokens; nothing was written")

    def ask(model: Any) -> Any:
        return logits_of(model, lambda rows: [ids[row] for row in rows], [*map(len, ids)], pad_id)

    ground = base_path(folder, spec, settings)
    unmerged = ask(restore(folder, spec.method, ground, manifest.labels, spec.vocabulary, pad_id, merged=False))
    merged = ask(AutoModelForSequenceClassification.from_pretrained(aside, local_files_only=True, use_safetensors=True))
    other = int((unmerged.argmax(-1) != merged.argmax(-1)).sum())
    apart = float((unmerged - merged).abs().max())
    if other or not apart <= TOLERANCE:
        raise IntegrityError(
            f"contender {manifest.name!r}: merged and unmerged differ, in the label of {other} of {len(texts)} rows and by up to "
            f"{apart:.2g} in a logit (at most {TOLERANCE:g} is rounding); nothing was written: export it without --merged"
        )
    return apart


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
