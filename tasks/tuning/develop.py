"""Several trainings around one recipe: a search for a better one, a training with each seed, and a learning curve. Each training is
a product of its own, and is shared: the chosen trial is the contender, whose training is the learning curve's last point.

All of it looks at dev alone: test sees the contender, and no other training.
"""

import statistics

from tasks.bases import ResolvedBase
from tasks.config import Tuned
from tasks.records import ContenderRecord, DatasetRecord, Repeats, TokensRecord
from tasks.settings import Settings
from tasks.tuning.learning_curve import epochs_of, learning_curve
from tasks.tuning.search import chosen, search, sweep_words
from tasks.tuning.trial import Trial
from tasks.tuning.tune import tune
from tasks.workspace import Workspace


def develop(
    tuned: Tuned,
    dataset: DatasetRecord,
    tokens: TokensRecord,
    base: ResolvedBase,
    workspace: Workspace,
    samples: list[str] | None = None,
    settings: Settings | None = None,
) -> ContenderRecord:
    """The contender of a recipe, with what was tried to get there.

    Args: as of `tune`, whose errors are raised too.
    """
    around = dataset, tokens, base, workspace, samples or [], settings.training if settings else None, settings
    inputs = [dataset.fingerprint, tokens.fingerprint, base.id, base.revision, base.config_sha256]
    recipe, sweep = tuned.single(), None
    if tuned.searches:

        def train(candidate: Tuned, trial: Trial) -> ContenderRecord:
            return tune(candidate, *around, trial=trial)

        sweep = search(tuned, train, inputs, samples or [], workspace)
        recipe = chosen(tuned, sweep)
    recipes = [recipe.single(seed=seed) for seed in tuned.seeds] or [recipe]
    made = [tune(each, *around) for each in recipes]
    place = max(range(len(made)), key=lambda each: (dev_accuracy(made[each]), -each))
    contender = made[place]
    curve = None
    if tuned.learning_curve:

        def train_part(share: float) -> ContenderRecord:
            return tune(recipes[place].single(epochs=epochs_of(tuned.epochs, share)), *around, share=share)

        curve = learning_curve(contender, train_part, dataset, workspace)
    repeats = repeats_of(tuned.seeds, made, place, recipe.seed if sweep else None) if tuned.seeds else None
    return contender.model_copy(update={"sweep": sweep, "repeats": repeats, "curve": curve})


def dev_accuracy(contender: ContenderRecord) -> float:
    """Dev accuracy of the weights that were kept."""
    assert contender.training
    return contender.training.dev_accuracy


def repeats_of(seeds: list[int], made: list[ContenderRecord], place: int, searched: int | None = None) -> Repeats:
    """Mean and spread on dev over the seeds.

    Args:
        searched: the seed of a search, whose chosen trial is one of these trainings where it is among the seeds.
    """
    found = [dev_accuracy(each) for each in made]
    own = [each.training.seconds for seed, each in zip(seeds, made, strict=True) if each.training and seed != searched]
    return Repeats(
        seeds=seeds,
        dev_accuracy=found,
        mean=statistics.fmean(found),
        spread=statistics.stdev(found) if len(found) > 1 else 0.0,
        chosen=seeds[place],
        seconds=round(sum(own), 1),
    )


def tried_words(contender: ContenderRecord) -> list[tuple[str, str]]:
    """What was tried to get to the contender: a title and a sentence each."""
    said = [("search", sweep_words(contender.sweep))] if contender.sweep else []
    if contender.repeats:
        said.append(("seeds", repeats_words(contender.repeats)))
    return said + ([("more labels", contender.curve.sentence)] if contender.curve else [])


def repeats_words(repeats: Repeats) -> str:
    """Such as `77.3 % on dev, give or take 1.2 points, over the seeds 1, 2, 3; the best, 2, is the contender`."""
    seeds = ", ".join(map(str, repeats.seeds))
    mean, spread = 100 * repeats.mean, 100 * repeats.spread
    best = f"the best, {repeats.chosen}, is the contender"
    return f"{mean:.1f} % on dev, give or take {spread:.1f} points, over the seeds {seeds}; {best}"
