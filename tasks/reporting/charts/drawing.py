"""How every picture of the report is drawn: by matplotlib, then fitted to the page it is put into.

Colours stand for the page's own (`var(--ink)`), so that a picture is readable on light and on dark ground; text stays text.
Labels of data are never markup: matplotlib escapes them, and its mathematics (`$…$`) is off.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.reporting.text import visible
from tasks.verdict.text import plain
from tasks.workspace import digest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GROUND = "#101010", "#808080", "#fefefe"
ACCENT, WIN, LOSS = "#2060c0", "#108040", "#c02040"
SERIES = ("#2060c1", "#c06020", "#108041", "#8040a0", "#c02041", "#208090")
VARIABLES = {INK: "--ink", FAINT: "--faint", GROUND: "--ground", ACCENT: "--accent", WIN: "--win", LOSS: "--loss"}
VARIABLES |= {colour: f"--series-{place}" for place, colour in enumerate(SERIES)}
"""The page's variable by the colour that stands for it; no two are the same."""
MARKS = ("o", "s", "^", "D", "v", "P")
WIDTH = 4.8
"""Inches of a whole picture: at 72 points an inch its text of 10 points can be read on a phone."""
NAME_AT = 24
GAP = 4
"""Points between names, at least."""


def draw(name: str, title: str, said: str, height: float, paint: Callable[["Axes"], None], width: float = WIDTH) -> str:
    """One picture as an `<svg>` element. The same figures give the same bytes.

    Args:
        name: unique on the page; the ids inside begin with it.
        title, said: what it is, and what can be seen on it, for those who do not see it.
        paint: draws on the axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.hashsalt": "bakeoff",
        "svg.fonttype": "none",
        "font.size": 10,
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page's font has it, or the reader's does
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _fit(stream.getvalue(), name, title, said)


def finish(axes: "Axes", across: str, up: str = "", grid: str = "both") -> None:
    """Names of the axes, a quiet grid, and no box."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3, axis=grid, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def lean_names(axes: "Axes") -> None:
    """Turn the names below a picture where they would run into each other: aslant, or on end where even that is too near."""
    figure = axes.get_figure(root=True)
    assert figure
    figure.draw_without_rendering()  # who is how wide, once the rest has its place
    names = axes.get_xticklabels()
    boxes = [name.get_window_extent() for name in names]
    if all(later.x0 - earlier.x1 >= figure.dpi / 72 * GAP for earlier, later in pairwise(boxes)):
        return
    apart = min(later.x0 + later.x1 - earlier.x0 - earlier.x1 for earlier, later in pairwise(boxes)) / 2
    degrees = 60 if apart * math.sin(math.radians(60)) >= max(box.height for box in boxes) else 90
    for name in names:
        name.set(rotation=degrees, rotation_mode="anchor", ha="right", va="top" if degrees < 90 else "center")


def spread(shares: Sequence[float], intervals: Sequence[tuple[float, float]]) -> list[list[float]]:
    """How far intervals reach below and above their shares, in percent; where all are right, one ends a rounding error below 1."""
    low = [100 * max(0.0, share - bound) for share, (bound, _) in zip(shares, intervals, strict=True)]
    return [low, [100 * max(0.0, bound - share) for share, (_, bound) in zip(shares, intervals, strict=True)]]


def short(text: str, at: int = NAME_AT) -> str:
    """A name or label for a picture, on one line."""
    line = plain(visible(text))
    return line if len(line) <= at else f"{line[: at - 1]}…"


def slug(*parts: str) -> str:
    """An id for a picture: letters, digits and dashes. Names that have anything else are told apart by a hash."""
    whole = "-".join(parts)
    plainly = re.sub(r"[^a-z0-9]+", "-", whole.lower()).strip("-")
    return plainly if plainly == whole else f"{plainly}-{digest(list(parts))[:8]}"


def _fit(svg: str, name: str, title: str, said: str) -> str:
    """The bare element: named for those who do not see it, as wide as its place, with ids and colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # a style inside would hold for the whole page
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    head = f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title {name}-desc" xmlns="http://www.w3.org/2000/svg">'
    named = f'<title id="{name}-title">{escape(visible(title))}</title><desc id="{name}-desc">{escape(visible(said))}</desc>'
    return f"{head}{named}{body}</svg>"
