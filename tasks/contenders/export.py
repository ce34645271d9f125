"""A contender as a folder for other programs: its files as they are, or its model merged with its base (`merging.py`).

adapter/ tokenizer/ contender.json …     as it was published
config.json model.safetensors tokenizer.json …     merged: what transformers loads by itself
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.contenders.merging import compare, write_merged
from tasks.contenders.tuned import TunedSpec, read_spec, refuse_missing_weights
from tasks.errors import BadConfig
from tasks.manifest import FILE, ContenderManifest, read_manifest
from tasks.records import Model
from tasks.settings import Settings


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
    prompts_alike: int | None = None
    """Of a contender that answers in text: compared rows whose prompt comes out of the exported tokenizer's chat template, token by
    token. Of others the text was cut, or holds what the template takes for its own, or its edges join with what stands around it.
    None for classifiers."""


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
    """Write a tuned contender as one model, which transformers loads without Bakeoff: by `AutoModelForSequenceClassification`, or
    by `AutoModelForCausalLM` where it answers in text.

    What was trained on a base in 4 bits (QLoRA) is merged into the base in float32, on which it predicts in Bakeoff as well.

    Args:
        texts: merged and unmerged must give them the same answers, and logits within `merging.TOLERANCE`.

    Raises:
        BadConfig: it is not tuned, there are no texts, or `to` is not empty.
        IntegrityError: the base is another, weights are missing, or merged and unmerged differ; nothing is left in `to`.
    """
    manifest = read_manifest(folder)
    spec = refuse_what_cannot_merge(folder, manifest)
    if not texts:
        raise BadConfig("a merged model is compared with the unmerged one, but there are no rows to compare them on")
    with _new_folder(to) as aside:
        write_merged(folder, manifest, spec, aside, settings)
        apart, alike = compare(folder, manifest, spec, aside, texts, settings)
    found = Exported(folder=to, contender=manifest.name, kind=manifest.kind, merged=True, bytes=_bytes(to))
    return found.model_copy(update={"checked_rows": len(texts), "largest_difference": apart, "prompts_alike": alike})


def refuse_what_cannot_merge(folder: Path, manifest: ContenderManifest) -> TunedSpec:
    """The spec of a tuned contender. Raises BadConfig for any other."""
    if manifest.kind != "tuned":
        raise BadConfig(
            f"contender {manifest.name!r} (a {manifest.kind}) has no weights to merge: leave out --merged to export it as it is"
        )
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


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
