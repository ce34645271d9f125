"""What each technique does for this task, endpoint by endpoint: by how much, how surely, and at what price.

Every prompted contender is measured against its endpoint's plain prompt, on the same test rows. What makes no difference is kept
like what does. Nothing here takes part in the decision.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config import Prompt, Technique
from tasks.evaluation.cost import NEVER_ASKED
from tasks.evaluation.scores import Evaluation
from tasks.records import BestPrompt, Comparison, Effect, FormatSpread
from tasks.verdict.contestants import Contestant, contestant
from tasks.verdict.statistics import compare, holm

logger = logging.getLogger(__name__)
PLAIN = "plain"
"""The format of a prompt without `structured`."""
COLUMNS = ("split", "label", "reference", "correct", "input_tokens", "output_tokens", "failure", "draft")


@dataclass(frozen=True)
class Reviews:
    """What became of the test rows that had a draft before the answer."""

    repaired: int
    damaged: int


@dataclass(frozen=True)
class Prompted:
    """One prompted contender: how it asks, how it did, and what that took."""

    prompt: Prompt
    contestant: Contestant
    input_tokens: float | None = None
    """A test row, on average over those that were asked."""
    output_tokens: float | None = None
    reviews: Reviews | None = None
    """None where no test row has a draft."""

    @property
    def name(self) -> str:
        return self.prompt.name

    @property
    def techniques(self) -> list[str]:
        """Without `zero_shot`, which adds nothing to a stack."""
        return [each.value for each in self.prompt.techniques if each is not Technique.ZERO_SHOT]

    @property
    def format(self) -> str | None:
        return self.prompt.format.value if Technique.STRUCTURED in self.prompt.techniques else None

    @property
    def accuracy(self) -> float:
        return self.contestant.scores.test.accuracy


def read_prompted(prompts: Sequence[Prompt], evaluations: Sequence[Evaluation]) -> list[Prompted]:
    """The prompted contenders among the evaluations, in the order of `prompts`."""
    by_name = {evaluation.scores.contender: evaluation for evaluation in evaluations}
    return [_read(prompt, by_name[prompt.name]) for prompt in prompts if prompt.name in by_name]


def find_effects(prompted: Sequence[Prompted], alpha: float, clusters: Sequence[int] | None = None) -> list[Effect]:
    """The effect of every prompted contender: by endpoint, the baseline first, then single techniques, then stacks.

    Args:
        alpha: a difference counts as found where its p-value, corrected by Holm over all effects, is below it; intervals cover
            1 - alpha, each by itself.
        clusters: for each test row the number of its cluster; None where each stands alone.
    """
    pairs = [(each, group[0]) for group in _by_endpoint(prompted) for each in group]
    comparisons = [_against(each, baseline, alpha, clusters) for each, baseline in pairs]
    corrected = iter(holm([found.p_value for found in comparisons if found]))
    p_values = [next(corrected) if found else None for found in comparisons]
    return [
        _effect(each, baseline, found, p_holm, alpha)
        for (each, baseline), found, p_holm in zip(pairs, comparisons, p_values, strict=True)
    ]


def find_format_spread(prompted: Sequence[Prompted]) -> list[FormatSpread]:
    """Where contenders differ in nothing but their format: how far apart they are on test."""
    groups: dict[str, list[Prompted]] = {}
    for each in prompted:
        if math.isfinite(each.accuracy):
            groups.setdefault(_recipe(each.prompt, but={"format"}), []).append(each)
    return [_spread(group) for group in groups.values() if len({each.format for each in group}) > 1]


def find_best_prompts(prompted: Sequence[Prompted]) -> list[BestPrompt]:
    """The best on dev for each endpoint, and where else the same prompt was tried and beaten; nothing for a single endpoint."""
    groups = list(_by_endpoint(prompted))
    if len(groups) < 2:
        return []
    best = [min(group, key=lambda each: each.contestant.rank()) for group in groups]
    return [
        BestPrompt(
            endpoint=winner.prompt.endpoint,
            contender=winner.name,
            dev_accuracy=_dev(winner),
            test_accuracy=winner.accuracy,
            beaten_on={
                other.prompt.endpoint: other.name
                for group, other in zip(groups, best, strict=True)
                if any(_same_elsewhere(winner, each) and _dev(each) < _dev(other) for each in group)
            },
        )
        for winner in best
    ]


def dollars_per_point(extra_usd_per_1000: float | None, difference: float) -> float | None:
    """Extra dollars for 1,000 rows over the points of accuracy gained; 0 where the gain costs nothing more.

    Args:
        difference: in accuracy, between -1 and 1; None comes back where it is no gain, or where the cost is not known.
    """
    if extra_usd_per_1000 is None or not difference > 0:
        return None
    return max(extra_usd_per_1000, 0.0) / (100 * difference)


def _read(prompt: Prompt, evaluation: Evaluation) -> Prompted:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(evaluation.predictions.folder / "predictions.parquet")
    there = [column for column in COLUMNS if column in file.schema_arrow.names]  # products of an earlier release have no drafts
    rows = [row for row in file.read(columns=there).to_pylist() if row["split"] == "test"]
    asked = [row for row in rows if row["failure"] not in NEVER_ASKED]
    return Prompted(
        prompt, contestant(evaluation), _mean(asked, "input_tokens"), _mean(asked, "output_tokens"), count_reviews(rows)
    )


def count_reviews(rows: Sequence[dict[str, Any]]) -> Reviews | None:
    """How many rows a review put right or wrong; None where no row has a draft.

    Args:
        rows: with `draft` (a label; None where none could be read), `reference` and `correct`. An answer that was lost is damage.
    """
    if all(row.get("draft") is None for row in rows):
        return None
    drafts = [(row["draft"] is not None and row["draft"] == row["reference"], row["correct"]) for row in rows]
    return Reviews(sum(after and not before for before, after in drafts), sum(before and not after for before, after in drafts))


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    return sum(row[column] for row in rows) / len(rows) if rows else None


def _by_endpoint(prompted: Sequence[Prompted]) -> Iterator[list[Prompted]]:
    """The contenders of each endpoint, those with the fewest techniques first; otherwise as they came."""
    for endpoint in dict.fromkeys(each.prompt.endpoint for each in prompted):
        yield sorted((each for each in prompted if each.prompt.endpoint == endpoint), key=lambda each: len(each.techniques))


def _against(each: Prompted, baseline: Prompted, alpha: float, clusters: Sequence[int] | None) -> Comparison | None:
    """The comparison; None for the baseline itself, and where the answers cannot be paired."""
    if each is baseline:
        return None
    first, second = each.contestant, baseline.contestant
    if not first.examples or first.examples != second.examples or None in (*first.correct, *second.correct):
        logger.warning("%s and %s have no scores on the same test rows: no effect is shown", first.name, second.name)
        return None
    return compare(first.name, first.right, second.name, second.right, alpha, clusters)


def _effect(each: Prompted, baseline: Prompted, found: Comparison | None, p_holm: float | None, alpha: float) -> Effect:
    test = each.contestant.scores.test
    extra_usd = _less(test.cost_usd_per_1000, baseline.contestant.scores.test.cost_usd_per_1000) if found else None
    return Effect(
        contender=each.name,
        endpoint=each.prompt.endpoint,
        techniques=each.techniques,
        format=each.format,
        baseline=baseline.name,
        accuracy=test.accuracy,
        comparison=found,
        p_holm=p_holm,
        finding=None if found is None or p_holm is None else _finding(found.difference, p_holm, alpha),
        dev_gap=_dev(each) - test.accuracy,
        usd_per_1000=test.cost_usd_per_1000,
        extra_usd_per_1000=extra_usd,
        usd_per_point=dollars_per_point(extra_usd, found.difference) if found else None,
        input_tokens=each.input_tokens,
        output_tokens=each.output_tokens,
        extra_output_tokens=_less(each.output_tokens, baseline.output_tokens) if found else None,
        latency_p50_ms=test.latency_ms.p50,
        repaired=each.reviews.repaired if each.reviews else None,
        damaged=each.reviews.damaged if each.reviews else None,
    )


def _finding(difference: float, p_holm: float, alpha: float) -> Any:
    if p_holm >= alpha:
        return "none"
    return "gain" if difference > 0 else "loss"


def _less(value: float | None, baseline: float | None) -> float | None:
    """The difference; None where either is not known or no number."""
    if value is None or baseline is None or not (math.isfinite(value) and math.isfinite(baseline)):
        return None
    return value - baseline


def _recipe(prompt: Prompt, but: set[str]) -> str:
    """All that makes a prompt, but for its name and what else is left out; techniques that are no part of it do not count."""
    kept = prompt.model_dump(mode="json", exclude={"name", "techniques", "format", *but})
    techniques = {each.value for each in prompt.techniques} - {Technique.ZERO_SHOT.value}
    if "format" in but:
        techniques -= {Technique.STRUCTURED.value}
    elif Technique.STRUCTURED in prompt.techniques:
        kept["format"] = prompt.format.value
    return repr((sorted(techniques), sorted(kept.items())))


def _same_elsewhere(one: Prompted, other: Prompted) -> bool:
    """Whether the two are the same prompt for different endpoints."""
    without = {"endpoint"}
    return one.prompt.endpoint != other.prompt.endpoint and _recipe(one.prompt, without) == _recipe(other.prompt, without)


def _spread(group: Sequence[Prompted]) -> FormatSpread:
    ranked = sorted(group, key=lambda each: (-each.accuracy, each.name))
    return FormatSpread(
        endpoint=group[0].prompt.endpoint,
        techniques=[each for each in group[0].techniques if each != Technique.STRUCTURED.value],
        formats={each.name: each.format or PLAIN for each in ranked},
        accuracies={each.name: each.accuracy for each in ranked},
        spread=ranked[0].accuracy - ranked[-1].accuracy,
    )


def _dev(each: Prompted) -> float:
    return each.contestant.scores.dev.accuracy
