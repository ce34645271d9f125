"""Rows that tests make up."""

import random
from typing import Any

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgklmnprst"]
Rows = list[dict[str, Any]]


def make_rows(count: int, seed: int = 0, labels: tuple[Any, ...] = ("bad", "good")) -> Rows:
    """Rows with texts that no other row resembles."""
    dice = random.Random(seed)
    return [{"text": " ".join(dice.choices(WORDS, k=12)), "label": labels[place % len(labels)]} for place in range(count)]
