"""What every part of a config has in common."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
"""A name that is safe as a file name, an S3 key and an artifact key."""
SPELLED = {"dora": "DoRA", "rslora": "rsLoRA", "usd": "USD", "ece": "ECE", "kl": "KL"}
"""Words of field names that the form spells in their own way."""


def _title(name: str, _field: object) -> str:
    """A field's title in the form: its own name, where pydantic would take that of an enum."""
    words = " ".join(SPELLED.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:] if name.split("_")[0] not in SPELLED else words


class Part(BaseModel):
    """One part of a config: frozen, no unknown keys, each field's docstring its help in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, field_title_generator=_title)


def slug_of(text: str) -> str:
    """A text as a `Name`."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
    return slug or "bakeoff"
