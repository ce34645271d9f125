"""A machine for tests: a process with a home of its own that makes a product slowly, step by step, and goes on where one stopped.

python -m tests.sharing.machine HOME SETTINGS STEPS SECONDS    writes the steps that it made itself to HOME/made
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.places import LivePlaces
from tasks.interrupt import interruptible, pause
from tasks.prompting.shared_journal import SharedJournals
from tasks.records import Record
from tasks.settings import Settings
from tasks.sharing.shelf import opened_shelf
from tasks.workspace import Building, Stage, Workspace, write_durably

STAGE = Stage("steps", 1, ("tests.sharing.machine",))


class Steps(Record):
    """How many steps were made in all."""

    count: int


@contextmanager
def machine(settings: Settings, home: Path) -> Iterator[Workspace]:
    """The workspace of a machine with this home."""
    own = settings.model_copy(update={"home": home})
    with LivePlaces(own) as places, opened_shelf(places, home / "workspace", SharedJournals) as shelf, interruptible():
        yield Workspace(home / "workspace", sharing=shelf)


def make(workspace: Workspace, made: Path, steps: int = 5, seconds: float = 0.0) -> Steps:
    """The product: a file a step, each kept in progress as it comes."""

    def build(building: Building) -> Steps:
        for step in range(steps):
            kept = building.inprogress / f"step-{step}"
            if not kept.exists():
                pause(seconds)
                write_durably(kept, str(step))
                with made.open("a") as log:
                    log.write(f"{step}\n")
            write_durably(building.folder / f"{step}.txt", kept.read_text() * 1000)
        return Steps(count=steps)

    return workspace.produce(STAGE, ["in"], None, Steps, build)


def steps_of(made: Path) -> list[int]:
    """The steps that a machine made itself."""
    return [int(line) for line in made.read_text().split()] if made.exists() else []


def main(home: Path, settings: Path, steps: int, seconds: float) -> None:
    """Make the product, and say when."""
    read = Settings.model_validate_json(settings.read_text())
    with machine(read, home) as workspace:
        make(workspace, home / "made", steps, seconds)
    (home / "done").write_text(str(time.time()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
