"""What every record has in common, and a row."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Arm(StrEnum):
    """A kind of contender; dev picks one finalist of each."""

    TRIVIAL = "trivial"
    PROMPT = "prompt"
    TUNED = "tuned"
    HYBRID = "hybrid"


class Failure(StrEnum):
    """Why a row has no usable answer. Such a row counts as wrong, and is never dropped."""

    INVALID = "invalid"
    """No label, or more than one, in the answer."""
    REFUSED = "refused"
    """The model declined."""
    CUT = "cut"
    """The answer ended before it was whole (length, a cut stream, no finish reason)."""
    TOO_LONG = "too_long"
    """The prompt does not fit the model's context, or the row has more characters than `dataset.max_characters`."""
    EMPTY = "empty"
    """The row has no text."""
    NOT_TEXT = "not_text"
    """The row is none that can be read: bytes that are not UTF-8, a NUL, a list, a column that is not there."""
    PROTOCOL = "protocol"
    """Not an answer at all: HTML with status 200, bad JSON, no choices."""
    ENDPOINT = "endpoint"
    """The endpoint kept failing until the row's attempts were used up."""
    DEADLINE = "deadline"
    """The row's total deadline passed."""
    BUDGET = "budget"
    """Not asked: the cap in dollars would have been passed."""
    STOPPED = "stopped"
    """Not asked: too large a share of the rows before it failed."""


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")


class Record(Model):
    """What a stage hands on: where its product lies, and what is in it."""

    fingerprint: str = ""
    """SHA-256 that names the product for whatever builds on it; the stage's own key unless the product has a content hash."""
    folder: Path = Field(default=Path(), exclude=True)
    """Where the product lies on this machine."""
    reused: bool = Field(default=False, exclude=True)
    """Whether the product was there already."""


class Example(Model):
    """One row of a split, as contenders see it."""

    example: str
    """Identifies the row: a hash of its inputs."""
    row: int
    """Its place in the source, counted from 1."""
    inputs: dict[str, str]
    """Text by input column, in the config's order."""
    label: str | None
    """The right answer's name; None where it is not known."""
    columns: dict[str, str] = {}
    """What travels with the row and no contender sees, by column: its cluster, and what it is sliced by."""


class Finding(Model):
    """Something that validation or tokenization saw and dealt with."""

    kind: str
    """Such as `duplicate`, `overlap`, `near_overlap`, `dropped`, `truncated`, `pad_token`."""
    count: int
    """How many rows (or tokens)."""
    message: str
    """A sentence for people, with row numbers where there are any."""
