"""Data to be shown: cut where it is long, and with nothing in it that a reader cannot see."""

import re

from tasks.reporting.records import Text

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Controls, and marks that turn the direction of the text: a row could use them to be read as something else than it is."""
CUT_AT = 600


def visible(text: str) -> str:
    """The text with what cannot be seen spelled out, such as `[U+202E]`; it is still data, and no markup."""
    return UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def cut(text: str, at: int = CUT_AT) -> Text:
    """The beginning of a text, and how long it is."""
    return Text(text=visible(text[:at]), characters=len(text))
