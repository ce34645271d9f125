"""Cells of the report's tables. Names, and whatever came from a store, are data: shown as plain text, they bring no markup."""

import re
from collections.abc import Callable, Sequence

DASH = "—"
"""A figure that cannot be had."""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are escaped already."""
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def or_dash(value: float | None, show: Callable[[float], str]) -> str:
    """The figure as text, or a dash."""
    return DASH if value is None else show(value)


def dollars(value: float) -> str:
    """Two digits that count, since costs span many sizes; never in powers of ten."""
    if value == 0 or value >= 1:
        return f"{value:.2f}"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def in_dollars(value: float) -> str:
    """The same with its sign: `$0.0480`, `<$0.0001`."""
    return f"${dollars(value)}".replace("$<", "<$")


def counted(value: float, what: str) -> str:
    """Such as `1 point`, `0.5 points`, `1,200 predictions`."""
    return f"{value:,.10g} {what}{'' if value == 1 else 's'}"


def milliseconds(value: float) -> str:
    """Whole from 10 on."""
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def plain(text: str) -> str:
    """Data as one line of text: what is no printable character (line ends, escape codes) becomes a space."""
    return "".join(character if character.isprintable() else " " for character in text)


def escape(text: str) -> str:
    """Data inside Markdown: every mark that could mean something is taken literally, and so is HTML; an address becomes no link."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    text = "".join(entities.get(character, character) for character in plain(text))
    return re.sub(
        r"([\\`*_{}\[\]()#+!|~$@-]|(?<=http):(?=//)|(?<=https):(?=//)|(?<=ftp):(?=//)|(?<=\bwww)\.)",
        r"\\\1",
        text,
        flags=re.IGNORECASE,
    )
