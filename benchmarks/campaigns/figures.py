"""What a campaign gives: figures, each with the goal that it is held to."""

import operator
from dataclasses import dataclass
from typing import Any

COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt}


@dataclass(frozen=True)
class Options:
    """How much a campaign does."""

    seed: int = 0
    kills: int | None = None
    """End the campaigns of kills (and races) after so many; None for as many as their goals want."""
    rows: int = 300
    """Asked about in the campaign `kills`."""
    seconds: float | None = None
    """Of load in the campaign `serving`; None for as many as its goals want."""


@dataclass(frozen=True)
class Figure:
    """One number."""

    name: str
    value: float
    goal: str = ""
    """Such as `<= 8`; empty for a number that is only told."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if not self.goal:
            return None
        sign, limit = self.goal.split()
        return bool(COMPARE[sign](self.value, float(limit)))  # NaN meets none

    def as_json(self) -> dict[str, Any]:
        """The figure as it is written down."""
        told = {"name": self.name, "value": round(self.value, 4), "goal": self.goal or None, "met": self.met, "note": self.note}
        return {key: value for key, value in told.items() if value not in (None, "")}
