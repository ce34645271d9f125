"""The config of one bake-off: the flow's parameter, the command line's file, the form in Prefect's UI, and what is kept beside what
was published. It holds names only; the places behind the names stand in the operator's settings (`tasks/settings.py`).

Importing this module is cheap (pydantic alone).
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tasks.errors import BadConfig

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
"""A name that is safe as a file name, an S3 key and an artifact key."""


class Part(BaseModel):
    """One part of a config: frozen, no unknown keys, each field's docstring its help in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Splits(Part):
    """Which of the source's splits play which role.

    Left empty, splits are recognised by their usual names (train; validation, valid, dev; test), and what is missing is taken
    from train by a hash of each row's content. Roles that name the same split of the source share it, by hash.
    """

    train: str = ""
    """The source's split that teaches."""
    dev: str = ""
    """The source's split that selects prompts, checkpoints and thresholds."""
    test: str = ""
    """The source's split that is scored once per contender and decides."""
    dev_share: float = Field(0.15, gt=0, lt=1)
    """Share of a split that becomes dev, where roles share one."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of a split that becomes test, where roles share one."""
    train_rows: int | None = Field(None, ge=1)
    """Keep at most this many train rows, chosen by hash."""
    dev_rows: int | None = Field(None, ge=1)
    """Keep at most this many dev rows, chosen by hash."""
    test_rows: int | None = Field(None, ge=1)
    """Keep at most this many test rows, chosen by hash."""

    @model_validator(mode="after")
    def _shares_leave_something_for_train(self) -> Self:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(f"dev_share {self.dev_share} and test_share {self.test_share} leave nothing for train: lower one")
        return self


class OnBadRows(StrEnum):
    """What happens to rows that fail validation."""

    REFUSE = "refuse"
    DROP = "drop"


class Dataset(Part):
    """The labelled examples."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads `labels: {0: negative}` with a number as key

    source: str = Field(min_length=1, max_length=1024)
    """A Hub id (`owner/name`), a file (parquet, CSV, JSON lines), a folder of them, or `package:` and a file inside an installed
    Python package."""
    revision: str = ""
    """The Hub revision (a commit is best: a branch can move)."""
    subset: str = ""
    """The Hub configuration name, where the data set has several."""
    where: dict[str, str] = {}
    """Keep only rows whose column has this value."""
    inputs: list[str] = Field(default=["text"], min_length=1)
    """The columns that a contender sees."""
    label: str = "label"
    """The column with the right answer."""
    labels: dict[str, str] = {}
    """Names for the values of the label column, such as `0: negative`. Values that are not listed are refused; class labels that
    bear these names already are taken as they are."""
    splits: Splits = Splits()
    """Which rows teach, select and decide."""
    on_bad_rows: OnBadRows = OnBadRows.REFUSE
    """Refuse the data when rows are bad (empty, unknown label, too long), or drop those rows and count them."""
    max_characters: int = Field(100_000, ge=1)
    """A row with more characters than this is bad."""
    drop_repeats: bool = True
    """Keep each text once a split; off keeps repeats within a split as the source has them. Across splits they never stay."""
    near_duplicates: float = Field(0.85, ge=0, le=1)
    """Rows at least this similar (Jaccard over word trigrams) are near-duplicates; 0 looks for exact ones only."""
    max_overlap: float = Field(0.01, ge=0, le=1)
    """Stop when a larger share of the given dev and test rows is found again in train; at or below it those rows leave train."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        columns = [*self.inputs, self.label]
        if len(set(columns)) < len(columns):
            raise ValueError(f"inputs {self.inputs} and label {self.label!r} name a column twice: name each column once")
        return self


class Trivial(StrEnum):
    """Contenders that any other must beat."""

    MAJORITY = "majority"
    TFIDF = "tfidf"


class Technique(StrEnum):
    """How a prompt is built."""

    ZERO_SHOT = "zero_shot"
    FEW_SHOT = "few_shot"


class Prompt(Part):
    """One prompted contender."""

    name: Name
    """Its name in the tables."""
    endpoint: Name = "local"
    """Which of the operator's named endpoints answers."""
    technique: Technique = Technique.ZERO_SHOT
    """How the prompt is built."""
    instructions: str = Field("", max_length=20_000)
    """What is asked of the model; empty takes a general instruction that names the labels."""
    examples: int = Field(4, ge=1, le=64)
    """How many labelled train rows a few-shot prompt shows, balanced over the labels."""
    max_answer_tokens: int = Field(32, ge=1, le=4096)
    """An answer that is longer was cut, and counts as a failure."""
    seed: int = Field(0, ge=0)
    """Chooses the examples."""


class Method(StrEnum):
    """Which weights train."""

    LORA = "lora"
    HEAD = "head"
    FULL = "full"


class TruncationSide(StrEnum):
    """Which end of a long text is cut."""

    LEFT = "left"
    RIGHT = "right"


class Tuned(Part):
    """One fine-tuned contender."""

    name: Name
    """Its name in the tables."""
    base: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1, max_length=256)
    """The base model: a Hub id, or a folder in an allowed root."""
    revision: str = ""
    """The base's Hub revision; empty takes the one that the operator's settings pin, else `main`."""
    method: Method = Method.LORA
    """Which weights train: low-rank adapters (`lora`), the classifier alone (`head`), or all (`full`)."""
    rank: int = Field(8, ge=1, le=1024)
    """LoRA: the rank of the update."""
    alpha: float = Field(16, gt=0)
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """LoRA: dropout before the update."""
    targets: list[str] = []
    """LoRA: names of the modules to adapt; empty adapts all linear layers of the encoder."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """The peak learning rate."""
    epochs: int = Field(3, ge=1, le=1000)
    """Passes over train."""
    batch_size: int = Field(16, ge=1, le=4096)
    """Rows in one optimiser step."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises; then it falls to zero."""
    attention_dropout: float | None = Field(0.0, ge=0, lt=1)
    """The base's own attention dropout while training; 0 lets the fast attention kernels run, empty keeps the base's."""
    max_tokens: int = Field(256, ge=8, le=131_072)
    """Longer texts are cut to this many tokens."""
    truncation_side: TruncationSide = TruncationSide.RIGHT
    """Which end of a long text is cut off."""
    seed: int = Field(42, ge=0)
    """Seeds the head's first weights, the order of rows and dropout."""


class Budget(Part):
    """What a run may spend on endpoints."""

    usd: float = Field(1.0, ge=0)
    """The hard cap in dollars for one run: it stops before this is passed."""
    max_failed: float = Field(0.5, gt=0, le=1)
    """A prompted contender stops asking once more than this share of its rows (at least 20 asked) failed."""


class Gate(Part):
    """When a contender may become champion."""

    alpha: float = Field(0.05, gt=0, le=0.5)
    """The significance level of the deciding test; intervals cover 1 - alpha."""
    minimum_gain: float = Field(0.0, ge=0, lt=1)
    """The gain in accuracy that a new champion must show on test."""
    minimum_rows: int = Field(30, ge=2)
    """With fewer test rows the verdict is always `not_enough_evidence`."""


class BakeoffConfig(Part):
    """One bake-off. Only `dataset` is required."""

    name: str = Field("", pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$")
    """The bake-off's name; its champions are kept under it. Empty takes the config file's name, or the data set's."""
    dataset: Annotated[Dataset, BeforeValidator(lambda value: {"source": value} if isinstance(value, str) else value)]
    """The labelled examples that every contender is measured on."""
    trivial: list[Trivial] = [Trivial.MAJORITY, Trivial.TFIDF]
    """Contenders that any other must beat."""
    prompts: list[Prompt] = [Prompt(name="zero_shot"), Prompt(name="few_shot", technique=Technique.FEW_SHOT)]
    """The prompted contenders."""
    tuned: list[Tuned] = [Tuned(name="lora")]
    """The fine-tuned contenders."""
    budget: Budget = Budget()
    """What the run may spend."""
    gate: Gate = Gate()
    """What a contender must show to become champion."""
    store: Name = "local"
    """Which of the operator's named stores receives the champion."""
    samples: list[str] = Field(default=[], max_length=50)
    """Texts whose predictions are shown before and after training (for a data set with one input column)."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.trivial:
            raise ValueError("trivial is empty: keep at least one, since a bake-off without a baseline proves nothing")
        if not self.prompts and not self.tuned:
            raise ValueError("there is nothing to compare: name at least one contender under prompts or tuned")
        names = [*map(str, self.trivial), *(part.name for part in self.prompts), *(part.name for part in self.tuned)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"contenders share the name {twice[0]!r}: give each its own")
        if self.samples and len(self.dataset.inputs) > 1:
            raise ValueError(f"samples are single texts, but dataset.inputs has {len(self.dataset.inputs)} columns: remove samples")
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_data_set(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("name"):
            dataset = values.get("dataset")
            source = dataset.get("source") if isinstance(dataset, Mapping) else getattr(dataset, "source", dataset)
            return {**values, "name": _slug(PurePosixPath(str(source or "")).stem)}
        return values


def load_config(path: Path, overrides: Sequence[str] = ()) -> BakeoffConfig:
    """Read a YAML config and apply `key.inner=value` overrides, their values read as YAML.

    Raises:
        BadConfig: the file is missing or not YAML, or a key or value is wrong; every wrong key is named.
    """
    values = _read_yaml(path)
    values.setdefault("name", _slug(path.stem))
    for override in overrides:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: BakeoffConfig | Mapping[str, Any], where: str = "config") -> BakeoffConfig:
    """Validate a config given as a mapping.

    Raises:
        BadConfig: naming every wrong key, its value and what is expected.
    """
    if isinstance(values, BakeoffConfig):
        return values
    try:
        return BakeoffConfig.model_validate(values)
    except ValidationError as error:
        raise BadConfig(explain(error, where)) from None


def explain(error: ValidationError, where: str) -> str:
    """A validation error as one line a fault: key, what is wrong, the value."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(step) for step in fault["loc"]) or "(whole)"
        value = fault["input"]
        shown = "" if isinstance(value, Mapping) or fault["type"] == "missing" else f" (got {str(value)[:80]!r})"
        lines.append(f"  {key}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return f"{where} is refused:\n" + "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadConfig(f"cannot read config {path}: {error.strerror}; give the path of a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(f"config {path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise BadConfig(f"config {path} must hold keys and values, at least `dataset:`; it holds {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. Numbers index lists, so `tuned.0.epochs=1` works."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise BadConfig(f"override {override!r} is not of the form key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadConfig(f"override {override!r}: the value is not YAML; quote it") from None
    *path, last = key.split(".")
    if path and path[0] in ("prompts", "tuned") and path[0] not in values:
        default = BakeoffConfig.model_fields[path[0]].default
        values[path[0]] = [part.model_dump(mode="json", exclude_unset=True) for part in default]
    place: Any = values
    for step in path:
        place = _descend(place, step, override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _descend(place: Any, step: str, override: str) -> Any:
    inner = place[_index(place, step, override)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(inner, str) and step == "dataset":
        inner = place[step] = {"source": inner}
    if not isinstance(inner, dict | list):
        raise BadConfig(f"override {override!r}: {step!r} holds {inner!r}, which has no keys inside")
    return inner


def _index(place: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise BadConfig(f"override {override!r}: {step!r} must be a position from 0 to {len(place) - 1} in the list")
    return int(step)


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
    return slug or "bakeoff"
