"""Predicts with a fine-tuned model.

In float32 on every device, so that a row's label depends neither on its batch nor on the machine; where one asks for quick ones,
in bfloat16 where that is faster and leaves the label as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Method, TruncationSide
from tasks.data.completions import Frame
from tasks.errors import IntegrityError
from tasks.manifest import FILE, ContenderManifest
from tasks.records import Answer, Example, Model
from tasks.settings import Settings


class TunedSpec(Model):
    """`spec` in the manifest of a tuned contender."""

    method: Method
    base: str
    """The base's public id (or the hash of a local folder)."""
    revision: str
    config_sha256: str
    """Of the base's `config.json`."""
    source: str
    """What the config called the base: where it is looked for."""
    vocabulary: int
    """Tokens that the tokenizer knows."""
    max_tokens: int
    truncation_side: TruncationSide
    temperature: float = Field(1.0, gt=0)
    """Logits are divided by this before they become probabilities; labels do not depend on it."""
    frame: Frame | None = None
    """For contenders that answer in text: what stands around a row."""
    max_answer_tokens: int = 0
    """Likewise: where an answer is cut."""
    adapted: bool = False
    """Whether it stands on the base in `adapted/`, which came of the base by further pre-training."""


class TunedPredictor:
    """A tuned contender's folder, loaded.

    Args:
        quick: in bfloat16 where the device is faster with it; labels are those of float32, probabilities differ in the third digit.

    Raises:
        IntegrityError: the spec is malformed, the folder lacks weights, or the base is another than the one it was trained on.
    """

    def __init__(self, folder: Path, manifest: ContenderManifest, settings: Settings, quick: bool = False) -> None:
        from tasks.data.tokenize import load_tokenizer
        from tasks.device import pick_device
        from tasks.tuning.faster import speed_up
        from tasks.tuning.methods import restore
        from tasks.tuning.quiet import quiet_libraries

        quiet_libraries()
        self.spec = read_spec(folder, manifest)
        refuse_missing_weights(folder, manifest, self.spec)
        self.labels = manifest.labels
        self.tokenizer = load_tokenizer(folder / "tokenizer").tokenizer
        picked = pick_device()
        self.device, self.dtype = picked.name, picked.dtype if quick else "float32"
        ground = base_path(folder, self.spec, settings)
        model = restore(folder, self.spec.method, ground, self.labels, self.spec.vocabulary, self.tokenizer.pad_token_id)
        self.model = speed_up(model.to(self.device))

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in order, with logits and the label's probability."""
        from tasks.data.examples import input_text
        from tasks.data.tokenize import encode_texts
        from tasks.tuning.batches import quick_logits_of

        if not examples:
            return []
        texts = [input_text(example.inputs) for example in examples]
        ids = encode_texts(self.tokenizer, texts, self.spec.max_tokens, self.spec.truncation_side).ids
        fetch, lengths = (lambda rows: [ids[row] for row in rows]), [*map(len, ids)]
        logits = quick_logits_of(self.model, fetch, lengths, self.tokenizer.pad_token_id, self.dtype)
        return _answers(logits, ids, self.labels, self.spec.temperature)


def base_path(folder: Path, spec: TunedSpec, settings: Settings) -> Path | None:
    """What a contender's weights stand on; None for those that bring every weight. Errors as of `find_base`."""
    if spec.method is Method.FULL:
        return None
    return folder / "adapted" if spec.adapted else find_base(spec, settings).path


def find_base(spec: TunedSpec, settings: Settings) -> ResolvedBase:
    """The base that a contender was trained on, on this machine.

    Raises:
        IntegrityError: what is found under its name is another: both are named, with revision and config hash.
        BadConfig, MissingPart: there is none.
    """
    local = spec.base.startswith("folder-")
    found = resolve_base(spec.source, "" if local else spec.revision, settings)
    wanted, got = (spec.base, spec.revision, spec.config_sha256), (found.id, found.revision, found.config_sha256)
    if wanted != got:
        named = ["{} at revision {} (config SHA-256 {})".format(*base) for base in (wanted, got)]
        raise IntegrityError(f"the contender was trained on {named[0]}, but the base here is {named[1]}: give it the base it knows")
    return found


def read_spec(folder: Path, manifest: ContenderManifest) -> TunedSpec:
    """Raises IntegrityError where the manifest's spec is malformed."""
    try:
        return TunedSpec.model_validate(manifest.spec)
    except ValidationError as error:
        fault = error.errors()[0]
        raise IntegrityError(f"{folder / FILE}: spec.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None


def refuse_missing_weights(folder: Path, manifest: ContenderManifest, spec: TunedSpec) -> None:
    """Libraries fall back to pickle where safetensors are missing; so their absence is an error before any library looks."""
    weights = {
        Method.LORA: "adapter/adapter_model.safetensors",
        Method.HEAD: "head.safetensors",
        Method.FULL: "model/model.safetensors",
    }[spec.method]
    for needed in [weights, *(["adapted/model.safetensors"] if spec.adapted and spec.method is not Method.FULL else [])]:
        if needed not in manifest.files and f"{needed}.index.json" not in manifest.files:
            raise IntegrityError(f"{folder} has no {needed}: only safetensors weights are loaded")


def _answers(logits: Any, ids: Sequence[Sequence[int]], labels: Sequence[str], temperature: float) -> list[Answer]:
    best, sure = logits.argmax(-1), (logits / temperature).softmax(-1).amax(-1)
    rows = zip(logits.tolist(), best.tolist(), sure.tolist(), ids, strict=True)
    return [
        Answer(answer=labels[index], label=labels[index], probability=probability, input_tokens=len(tokens), logits=row)
        for row, index, probability, tokens in rows
    ]
