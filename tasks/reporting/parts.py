"""What a page is put together from; the template knows these and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.reporting.records import ShownRow


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """So many columns hold words; those after them hold figures."""
    marked: int | None = None
    """The row that stands out."""


@dataclass(frozen=True)
class Chart:
    """A picture with its figures."""

    title: str
    svg: str
    table: Table


@dataclass(frozen=True)
class Code:
    """Something to be read as it was written."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    title: str
    said: Sequence[str] = ()
    """Paragraphs."""
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    rows: Sequence[ShownRow] = ()
    codes: Sequence[Code] = ()
    drawn: Sequence[str] = ()
    """Paragraphs that say how the pictures are read, for where they are seen."""


@dataclass(frozen=True)
class Page:
    """The report."""

    title: str
    headline: str
    reason: str
    about: str
    """Whose run it is, and when it was."""
    why: str
    """Why it ran; empty where somebody ran it."""
    decision: str
    sections: Sequence[Section] = field(default_factory=list)
