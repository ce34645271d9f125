"""A search over learning rate, rank and targets on dev, by Optuna, within a budget of trials and minutes.

    inprogress/search/<fingerprint>/study.log    Optuna's journal: a killed search goes on with the trial it was at
    products/search/<fingerprint>/sweep.svg      what was tried

Trials are trained one after the other. Each that runs to its end is the training of a contender like any other, so that the chosen
one is not trained again. Given the same recipe, data and number of trials, the same is chosen, broken off or not: what a trial
tries depends on the trials before it and on the recipe's seed alone.
"""

import importlib.util
import itertools
import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.config import Method, Tuned
from tasks.errors import MissingPart, TrainingError
from tasks.progress import progress
from tasks.records import ContenderRecord, SweepRecord, Trial
from tasks.tuning.trial import STARTUP, open_study
from tasks.tuning.trial import Trial as Place
from tasks.tuning.tune import TRAIN, Pruned
from tasks.workspace import Building, Stage, Workspace

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

logger = logging.getLogger(__name__)
SEARCH = Stage("search", 2, ("tasks.tuning.search", "tasks.tuning.trial", "tasks.tuning.charts"))
SWEEP = "sweep.svg"
JOURNAL = "study.log"
SPAN = 4.0
"""Learning rates from the recipe's over this to the recipe's times this are tried, where none are named."""
ALL = "all-linear"
Train = Callable[[Tuned, Place], ContenderRecord]
"""Trains a recipe as a trial of a study; raises Pruned where it is given up."""


def refuse_without_optuna(tuned: Tuned) -> None:
    """Raises MissingPart where a recipe is to be searched for and Optuna is not installed."""
    if tuned.searches and importlib.util.find_spec("optuna") is None:
        raise MissingPart(
            f"tuned contender {tuned.name!r} searches for its recipe, which needs optuna: `pip install '.[search]'` in the "
            "project's folder, or remove search_trials and search_minutes"
        )


def candidate(tuned: Tuned, learning_rate: float, rank: int, targets: str) -> Tuned:
    """The recipe of one trial: alpha moves with the rank, so that the update keeps its scale."""
    return tuned.single(learning_rate=learning_rate, rank=rank, alpha=tuned.alpha * rank / tuned.rank, targets=names_of(targets))


def every_target(tuned: Tuned) -> Tuned:
    """The recipe with all targets that it or a trial of its search names, to be checked at once."""
    tried = [name for each in tuned.targets_tried for name in names_of(each)]
    return tuned.model_copy(update={"targets": [*tuned.targets, *tried]})


def names_of(targets: str) -> list[str]:
    """`query, value` as a list; empty for `all-linear`."""
    return [] if targets == ALL else [name.strip() for name in targets.split(",") if name.strip()]


def search(tuned: Tuned, train: Train, inputs: Sequence[str], samples: Sequence[str], workspace: Workspace) -> SweepRecord:
    """Try recipes on dev, or find what was tried.

    Args:
        train: trains a trial's recipe.
        inputs: fingerprints of what every trial is trained from.
        samples: as for the contender, since trials and contender share their trainings.

    Raises:
        TrainingError: every trial diverged.
    """

    def build(building: Building) -> SweepRecord:
        study = open_study(building.inprogress / JOURNAL)
        _enqueue(study, tuned)
        with progress(f"search {tuned.name}", tuned.search_trials or tuned.search_minutes * 60) as bar:
            while trial := _next(study, tuned):
                _run(study, trial, tuned, train, building)
                bar.move(len(_ended(study)) if tuned.search_trials else _seconds(study), _best_words(study))
        sweep = _record(study, tuned)
        from tasks.tuning.charts import draw_sweep

        draw_sweep(sweep, building.folder / SWEEP)
        return sweep

    config = {"tuned": tuned.model_copy(update={"seeds": [], "learning_curve": False}), "samples": list(samples)}
    return workspace.produce(SEARCH, [*inputs, f"{TRAIN.name} {TRAIN.version}"], config, SweepRecord, build, f"search {tuned.name}")


def space(tuned: Tuned) -> "dict[str, BaseDistribution]":
    """What a trial chooses."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    choices: dict[str, Any] = {name: CategoricalDistribution(values) for name, values in _choices(tuned).items()}
    rate = tuned.learning_rate
    return {"learning_rate": FloatDistribution(rate / SPAN, min(rate * SPAN, 1.0), log=True)} | choices


def chosen(tuned: Tuned, sweep: SweepRecord) -> Tuned:
    """The recipe that a search chose."""
    best = sweep.trials[sweep.chosen]
    return candidate(tuned, best.learning_rate, best.rank, best.targets)


def sweep_words(sweep: SweepRecord) -> str:
    """Such as `best of 12 trials on dev (5 given up early): learning rate 0.001, rank 16, all-linear; 79.0 %, the recipe as given
    77.0 %`."""
    best, pruned = sweep.trials[sweep.chosen], sum(trial.outcome == "pruned" for trial in sweep.trials)
    given = sweep.trials[0].dev_accuracy
    early = f" ({pruned} given up early)" if pruned else ""
    recipe = f"learning rate {best.learning_rate:.3g}, rank {best.rank}, {best.targets}"
    against = "diverged" if given is None else f"{100 * given:.1f} %"
    figures = f"{100 * (best.dev_accuracy or 0):.1f} % there, the recipe as given {against}"
    return f"best of {len(sweep.trials)} trials on dev{early}: {recipe}; {figures}"


def _choices(tuned: Tuned) -> dict[str, list[Any]]:
    """What is chosen from a list, the recipe's own value first."""
    given = ",".join(tuned.targets) or ALL
    lora = tuned.method is Method.LORA
    ranks = [tuned.rank, *tuned.ranks_tried] if lora else [tuned.rank]
    targets = [given, *(",".join(names_of(each)) or ALL for each in tuned.targets_tried)] if lora else [given]
    found: dict[str, list[Any]] = {"rank": list(dict.fromkeys(ranks)), "targets": list(dict.fromkeys(targets))}
    if tuned.learning_rates_tried:
        found["learning_rate"] = list(dict.fromkeys([tuned.learning_rate, *tuned.learning_rates_tried]))
    return found


def _enqueue(study: "optuna.Study", tuned: Tuned) -> None:
    """First the recipe as it is given. Where lists name every value and all combinations fit the budget, then those, shuffled."""
    choices = _choices(tuned)
    given = {name: values[0] for name, values in choices.items()} | {"learning_rate": tuned.learning_rate}
    queue = [given]
    combinations = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if "learning_rate" in choices and len(combinations) <= (tuned.search_trials or len(combinations)):
        others = [each for each in combinations if each != given]
        random.Random(tuned.seed).shuffle(others)  # noqa: S311  an order, not a secret
        queue += others
    for params in queue[len(study.trials) :]:
        study.enqueue_trial(params)


def _next(study: "optuna.Study", tuned: Tuned) -> "optuna.trial.Trial | None":
    """The trial that was under way when the search was broken off, else a new one; None where the budget is used up or all is
    tried."""
    import optuna

    under_way = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    if under_way:
        return optuna.trial.Trial(study, under_way[0]._trial_id)
    ended = len(_ended(study))
    spent = tuned.search_trials and ended >= tuned.search_trials
    late = tuned.search_minutes and _seconds(study) >= tuned.search_minutes * 60
    choices = _choices(tuned)
    listed = "learning_rate" in choices and ended >= len(list(itertools.product(*choices.values())))
    if ended and (spent or late or listed):
        return None
    study.sampler = optuna.samplers.TPESampler(seed=tuned.seed + ended, n_startup_trials=STARTUP + 2)
    return study.ask(space(tuned))


def _run(study: "optuna.Study", trial: "optuna.trial.Trial", tuned: Tuned, train: Train, building: Building) -> None:
    """Train one trial and tell the study what came of it."""
    import optuna

    recipe = candidate(tuned, trial.params["learning_rate"], trial.params["rank"], trial.params["targets"])
    place = Place(journal=building.inprogress / JOURNAL, id=trial._trial_id)
    accuracies: list[float] = []
    reached: float | None = None
    seconds, state = 0.0, optuna.trial.TrialState.COMPLETE
    try:
        facts = train(recipe, place).training
        assert facts
        accuracies, seconds, reached = [epoch["dev_accuracy"] for epoch in facts.epochs], facts.seconds, facts.dev_accuracy
        given_up = next((epoch for epoch in range(1, len(accuracies)) if place.gives_up(accuracies[:epoch])), None)
        if given_up:  # it had been trained before, in full: what is chosen must not depend on that
            accuracies, state = accuracies[:given_up], optuna.trial.TrialState.PRUNED
            reached = max(accuracies)
    except Pruned as pruned:
        accuracies, seconds = [epoch["dev_accuracy"] for epoch in pruned.facts.epochs], pruned.facts.seconds
        reached = max(accuracies)
        state = optuna.trial.TrialState.PRUNED
    except TrainingError as error:
        logger.warning("search %s: trial %d came to nothing: %s", tuned.name, trial.number, error)
        state = optuna.trial.TrialState.FAIL
    trial.set_user_attr("epochs", accuracies)
    trial.set_user_attr("dev_accuracy", reached)
    trial.set_user_attr("seconds", seconds)
    study.tell(trial, reached if state is optuna.trial.TrialState.COMPLETE else None, state)


def _ended(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _seconds(study: "optuna.Study") -> float:
    return sum(trial.user_attrs["seconds"] for trial in _ended(study))


def _best_words(study: "optuna.Study") -> str:
    values = [trial.value for trial in _ended(study) if trial.value is not None]
    return f"best {100 * max(values):.1f} % on dev" if values else ""


def _record(study: "optuna.Study", tuned: Tuned) -> SweepRecord:
    """Raises TrainingError where no trial came to its end."""
    import optuna

    names = {optuna.trial.TrialState.COMPLETE: "complete", optuna.trial.TrialState.PRUNED: "pruned"}
    trials = [
        Trial(
            number=trial.number,
            learning_rate=trial.params["learning_rate"],
            rank=trial.params["rank"],
            targets=trial.params["targets"],
            outcome=names.get(trial.state, "diverged"),
            dev_accuracy=trial.user_attrs["dev_accuracy"],
            epochs=trial.user_attrs["epochs"],
            seconds=trial.user_attrs["seconds"],
        )
        for trial in _ended(study)
    ]
    whole = [trial for trial in trials if trial.outcome == "complete" and trial.dev_accuracy is not None]
    if not whole:
        raise TrainingError(
            f"search {tuned.name!r}: none of {len(trials)} trials came to its end: lower learning_rate, and run again"
        )
    best = max(whole, key=lambda trial: (trial.dev_accuracy or 0.0, -trial.number))
    return SweepRecord(trials=trials, chosen=best.number, seconds=round(sum(trial.seconds for trial in trials), 1))
