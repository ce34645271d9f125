"""One loader turns any contender folder into a predictor; nobody else needs to know what kind it is."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FORBIDDEN, ContenderManifest, read_manifest
from tasks.records import Answer, Example
from tasks.settings import Settings, load_settings

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext

logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """What can answer."""

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in the examples' order, never fewer."""
        ...


def load_contender(
    folder: Path, ask: "AskContext | None" = None, settings: Settings | None = None, quick: bool = False
) -> Predictor:
    """The predictor in a contender's folder, every file checked against the manifest first.

    Args:
        ask: the endpoint, cap and journal; needed for prompts and hybrids.
        settings: where base models lie; those of this process if None.
        quick: a classifier may round where its labels stay the same; others know no such way.

    Raises:
        IntegrityError: a file is missing, changed or of a kind that can run code, or the base is another than it was trained on.
        BadConfig: a prompt or hybrid without `ask`.
    """
    _refuse_code(folder)
    manifest = read_manifest(folder)
    if manifest.kind == "majority":
        from tasks.contenders.trivial import MajorityPredictor

        return MajorityPredictor(folder, manifest)
    if manifest.kind == "tfidf":
        from tasks.contenders.trivial import TfidfPredictor

        return TfidfPredictor(folder, manifest)
    if manifest.kind == "tuned" and manifest.spec.get("frame"):
        from tasks.contenders.writing import WritingPredictor

        return WritingPredictor(folder, manifest, settings or load_settings())
    if manifest.kind == "tuned":
        from tasks.contenders.tuned import TunedPredictor

        return TunedPredictor(folder, manifest, settings or load_settings(), quick)
    if manifest.kind in ("prompt", "hybrid"):
        return _asking(folder, manifest, ask, settings)
    raise IntegrityError(f"{folder} is of kind {manifest.kind!r}, which this version does not know: update bakeoff")


def _asking(folder: Path, manifest: ContenderManifest, ask: "AskContext | None", settings: Settings | None) -> Predictor:
    if ask is None:
        raise BadConfig(
            f"contender {manifest.name!r} is a {manifest.kind}: give the endpoint to ask ({manifest.occupies}), a cap and a journal"
        )
    if manifest.kind == "hybrid":
        from tasks.contenders.hybrid import HybridPredictor

        return HybridPredictor(folder, manifest, ask, settings or load_settings())
    from tasks.prompting.ask import PromptPredictor

    return PromptPredictor(folder, manifest, ask)


def _refuse_code(folder: Path) -> None:
    """A file that can run code has no business in the folder, whether or not the manifest owns to it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in FORBIDDEN:
            raise IntegrityError(
                f"{path} may run code when it is read; contenders hold safetensors, JSON and text: do not use this folder"
            )
