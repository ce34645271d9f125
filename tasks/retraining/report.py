"""What was looked at, for people: on the run's page, in its name, in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.records import Trigger
from tasks.retraining.records import Looked, Retraining, State
from tasks.verdict.text import escape, markdown_table, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

NAMES = {
    Trigger.ASKED: "asked for",
    Trigger.CHAMPION: "no champion yet",
    Trigger.CONTENDERS: "another question",
    Trigger.DATA: "new data",
    Trigger.SHUTDOWN: "a model ends",
    Trigger.AGE: "an old verdict",
    Trigger.DRIFT: "drift",
    Trigger.QUALITY: "champion worse",
}
"""Of reasons, in a run's name."""
WHY, UNCHANGED = "why:", "unchanged"
"""Of tags."""
COLOURS = {State.DUE: "green", State.ANSWERED: "cyan", State.QUIET: "dim", State.UNKNOWN: "yellow"}


def short(found: Looked) -> str:
    """Why, in a few words."""
    kinds = [signal.kind for signal in found.signals if signal.state is State.DUE]
    return ", ".join(NAMES[kind] for kind in dict.fromkeys(kinds)) or "nothing changed"


def tagged(tags: Sequence[str], found: Looked) -> list[str]:
    """A run's tags with those that say why, such as `why:data`, for the list of runs; `unchanged` where nothing is due. Those of an
    earlier look go: the run was begun again."""
    why = [f"{WHY}{signal.kind.value}" for signal in found.signals if signal.state is State.DUE]
    kept = [tag for tag in tags if tag != UNCHANGED and not tag.startswith(WHY)]
    return list(dict.fromkeys([*kept, *(why or [UNCHANGED])]))


def markdown_looked(found: Looked) -> str:
    """For the run's page."""
    rows = [[signal.kind.value, signal.state.value, escape(signal.words)] for signal in found.signals]
    return f"{escape(found.words)}\n\n{markdown_table(['looked at', 'found', 'evidence'], rows)}\n"


def render_retraining(found: Retraining) -> "RenderableType":
    """For a terminal of 80 columns or more."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3):
        grid.add_column(no_wrap=column < 2, overflow="fold")
    for signal in found.signals:
        grid.add_row(signal.kind.value, Text(signal.state.value, style=COLOURS[signal.state]), Text(plain(signal.words)))
    head = Text.assemble(
        ("DUE" if found.due else "UNCHANGED", f"bold {'green' if found.due else 'cyan'}"), "  ", plain(found.words)
    )
    return Group(Text(), head, Text(), grid)
