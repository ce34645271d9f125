"""What one run has at hand: the operator's settings, the workspace, the places that names lead to, and the cap on money."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.places import Limiter, LivePlaces
from tasks.child import children_end
from tasks.config import BakeoffConfig
from tasks.interrupt import interruptible
from tasks.records import ContenderRecord
from tasks.settings import Settings, load_settings
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.account import Account
    from tasks.prompting.ask import AskContext
    from tasks.prompting.budget import Cap
    from tasks.sharing.shelf import Shelf


@dataclass(frozen=True)
class Bench:
    """The surroundings of one run."""

    settings: Settings
    workspace: Workspace
    places: LivePlaces
    cap: "Cap"
    account: "Account"
    max_failed: float
    shelf: "Shelf | None" = None
    """Where the workspace is shared with other machines."""

    def resource(self, occupies: str) -> str:
        """The lane of a contender: the embedded LLM shares the cores with training, so both are `device`."""
        name = occupies.removeprefix("endpoint:")
        return "device" if name == occupies or self.settings.endpoint(name).service else occupies

    def remote(self, config: BakeoffConfig) -> list[str]:
        """The endpoints that the config's prompts and its grader ask and that are not embedded."""
        grader = [config.grader.prompt] if config.grader and config.grader.prompt else []
        names = dict.fromkeys(prompt.endpoint for prompt in [*config.prompts, *grader])
        return [name for name in names if not self.settings.endpoint(name).service]

    def asking(self, contender: ContenderRecord) -> "AskContext | None":
        """What the contender asks with, its endpoint listening; None for one that asks nobody."""
        from tasks.prompting.ask import AskContext

        name = contender.occupies.removeprefix("endpoint:")
        if name == contender.occupies:
            return None
        return AskContext.of(name, self.places, self.cap, self.workspace, self.max_failed)


@contextmanager
def opened(config: BakeoffConfig, *roots: Path, run: str = "", limiter: Limiter | None = None) -> Iterator[Bench]:
    """A bench for the time of a `with`; embedded services that were started stop with it, and so do child processes.

    Args:
        roots: folders whose files the run may read, beside those that the operator named.
        run: its id. What it spent before, when it was killed or given back, counts against the cap. Empty where it has none.
        limiter: keeps the endpoints' limits a minute across runs; None keeps them within this process.

    Raises:
        BadConfig: the settings are wrong, or the home cannot be written.
        StoreError: the workspace is shared, and its store refuses or is out of reach.
    """
    from tasks.prompting.account import Account
    from tasks.prompting.budget import Cap
    from tasks.prompting.shared_journal import SharedJournals
    from tasks.sharing.shelf import opened_shelf

    settings = load_settings(*roots)
    settings.check_home()
    root = settings.home / "workspace"
    with (
        LivePlaces(settings, limiter) as places,
        opened_shelf(places, root, SharedJournals) as shelf,
        children_end(),
        interruptible(),
    ):
        workspace, cap = Workspace(root, sharing=shelf), Cap(config.budget.usd)
        account = Account(root, shelf, cap, run)
        yield Bench(settings, workspace, places, cap, account, config.budget.max_failed, shelf)


def check_names(config: BakeoffConfig, settings: Settings) -> None:
    """Everything that can be known of a config's names without reading data or models, or touching the network.

    Raises:
        BadConfig: a store, an endpoint, its key or its price is missing, a template leaves out the row or what a hybrid tells it,
            there is no such file, or the home cannot be written.
        OutsideRoots: the data set or a template lies where this run may not read.
        MissingPart: the data set is in a package that is not installed.
    """
    from tasks.contenders.hybrid import check_hints
    from tasks.data.sources import locate
    from tasks.grading.referee import check_referee
    from tasks.prompting.endpoint import preflight

    settings.store(config.store)
    for prompt in config.prompts:
        preflight(prompt.endpoint, settings.endpoint(prompt.endpoint))
        if prompt.template:
            from tasks.prompting.techniques.registry import refuse_bad_template

            refuse_bad_template(prompt, settings)
    check_hints(config, settings)
    check_referee(config, settings)
    locate(config.dataset, settings)
    settings.check_home()
