"""One trial of a search, as the process that trains it sees it: what it reports, and when it is given up."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import optuna

STUDY = "search"
STARTUP = 3
"""So many trials are trained to their end before the first may be given up."""


class Trial(BaseModel):
    """A trial's place in a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    journal: Path
    """The file in which Optuna keeps the study."""
    id: int

    def gives_up(self, accuracies: Sequence[float]) -> bool:
        """Report dev accuracy by epoch; True where after the last of them the best so far is below the median of the trials that
        were trained to their end, so that the rest of this training is not worth its time."""
        import optuna

        trial = optuna.trial.Trial(open_study(self.journal), self.id)
        known = trial.study._storage.get_trial(self.id).intermediate_values
        for step, accuracy in enumerate(accuracies):
            if step not in known:
                trial.report(accuracy, step)
        return trial.should_prune()


def open_study(journal: Path) -> "optuna.Study":
    """The study in a journal; a new one where there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=STUDY,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        load_if_exists=True,
    )
