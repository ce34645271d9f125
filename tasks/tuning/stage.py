"""The room's Prefect tasks."""

from functools import partial

from tasks.bases import ResolvedBase, resolve_base
from tasks.child import taking_turns
from tasks.config import Objective, Tuned
from tasks.orchestration.page import show_svg, show_table
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord, DatasetRecord, TokensRecord
from tasks.settings import Settings
from tasks.tuning.calibration import calibration_words
from tasks.tuning.check import check_recipe
from tasks.tuning.develop import develop, repeats_words
from tasks.tuning.further import OBJECTIVES, further, refuse_without_trl
from tasks.tuning.language.corpus import find_corpus
from tasks.tuning.language.pairs import find_preferences
from tasks.tuning.learning_curve import CHART
from tasks.tuning.search import SWEEP, every_target, refuse_without_optuna, sweep_words
from tasks.tuning.trackers import refuse_missing_trackers
from tasks.tuning.tune import PICTURE
from tasks.turns import training_turn
from tasks.workspace import Workspace


@stage("base", "base {tuned.base}")
def find_base(tuned: Tuned, settings: Settings, workspace: Workspace) -> ResolvedBase:
    """Where the base model lies on this machine, downloaded where it must be; a recipe that does not fit it is refused."""
    refuse_missing_trackers(settings.training)
    base = resolve_base(tuned.base, tuned.revision, settings)
    if tuned.objective is Objective.SELF_SUPERVISED:
        find_corpus(tuned, None, settings)
    if tuned.objective in OBJECTIVES:
        refuse_without_trl(tuned)
        find_preferences(tuned, settings)
    refuse_without_optuna(tuned)
    check_recipe(every_target(tuned), base, workspace)
    return base


@stage("train", "train {tuned.name}")
def train(
    tuned: Tuned,
    dataset: DatasetRecord,
    tokens: TokensRecord,
    base: ResolvedBase,
    workspace: Workspace,
    samples: list[str],
    settings: Settings,
) -> ContenderRecord:
    """Train one contender, or find the one that was trained from the same; its epochs and samples stand on the run's page, and what
    was tried to get there."""
    with taking_turns(partial(training_turn, workspace.root / "turns")):
        if tuned.objective in OBJECTIVES:
            contender = further(tuned, dataset, tokens, base, workspace, settings)
        else:
            contender = develop(tuned, dataset, tokens, base, workspace, samples, settings)
    facts = contender.training
    if facts:
        said = f"{facts.parameters_trained:,} of {facts.parameters:,} parameters trained on {facts.device} in {facts.dtype}"
        said += f"; epoch {facts.best_epoch} is the best on dev"
        show_table(f"training {tuned.name}", facts.epochs, "; ".join([said, *calibration_words(facts)]))
        show_svg(f"curves {tuned.name}", contender.folder / PICTURE, f"How {tuned.name} learned")
        show_table(f"watched {tuned.name}", facts.watched, "; ".join(finding.message for finding in facts.findings))
    show_table(f"samples {tuned.name}", contender.samples, "Predictions before and after training")
    show_tried(contender)
    return contender


def show_tried(contender: ContenderRecord) -> None:
    """The search, the seeds and the learning curve on the run's page, as far as they were asked for."""
    name = contender.name
    if contender.sweep:
        show_svg(f"search {name}", contender.sweep.folder / SWEEP, sweep_words(contender.sweep))
        trials = [trial.model_dump(exclude={"epochs"}) for trial in contender.sweep.trials]
        show_table(f"trials {name}", trials, "What the search tried on dev")
    if contender.repeats:
        found = zip(contender.repeats.seeds, contender.repeats.dev_accuracy, strict=True)
        rows = [{"seed": seed, "dev accuracy": accuracy} for seed, accuracy in found]
        show_table(f"seeds {name}", rows, repeats_words(contender.repeats))
    if contender.curve:
        show_svg(f"learning curve {name}", contender.curve.folder / CHART, contender.curve.sentence)
