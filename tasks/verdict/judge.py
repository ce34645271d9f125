"""The verdict's product: the decision, and what else there is to say of the same predictions."""

from collections.abc import Sequence

from tasks.config import Gate, Prompt, Tuned, Use
from tasks.evaluation.scores import Evaluation
from tasks.records import Comparison, DatasetRecord, Judgement
from tasks.verdict.contestants import Contestant, Rows, contestant, read_rows
from tasks.verdict.decision import decide
from tasks.verdict.effects import find_best_prompts, find_effects, find_format_spread, read_prompted
from tasks.verdict.guards import find_slices
from tasks.verdict.lifts import find_lifts
from tasks.verdict.measures import differences
from tasks.verdict.money import find_break_even, with_money
from tasks.verdict.wording import champion_label
from tasks.workspace import Building, Stage, Workspace

STAGE = Stage(
    "verdict",
    8,
    (
        "tasks.evaluation.clusters",
        "tasks.verdict.contestants",
        "tasks.verdict.decision",
        "tasks.verdict.effects",
        "tasks.verdict.field",
        "tasks.verdict.guards",
        "tasks.verdict.judge",
        "tasks.verdict.lifts",
        "tasks.verdict.measures",
        "tasks.verdict.money",
        "tasks.verdict.power",
        "tasks.verdict.reasons",
        "tasks.verdict.resampling",
        "tasks.verdict.statistics",
        "tasks.verdict.wording",
    ),
)
NOT_JUDGED = {"approval", "approval_hours"}
"""Fields of the gate that come after the judgement."""


def judge(
    gate: Gate,
    evaluations: Sequence[Evaluation],
    champion: Evaluation | None,
    workspace: Workspace,
    prompts: Sequence[Prompt] = (),
    tuned: Sequence[Tuned] = (),
    dataset: DatasetRecord | None = None,
    use: Use | None = None,
) -> Judgement:
    """Decide, or find what was decided over the same predictions and champion; with what else the predictions tell.

    Args:
        evaluations: of this run's contenders, in any order.
        champion: of the contender that is champion now, on the same data set; None where there is none. One with the fingerprint
            of a contender of this run is that contender.
        prompts: the run's prompted contenders; their effects take no part in the decision.
        tuned: the run's tuned contenders; likewise their lifts.
        dataset: says what the test rows belong to and are sliced by; without it each stands alone.
        use: how much the champion will be used; what training is spread over.
    """
    rows, foreseen = read_rows(dataset) if dataset else Rows(), use or Use()
    inputs = sorted(evaluation.scores.fingerprint for evaluation in evaluations)
    of_champion = champion and [champion.scores.of, champion.scores.fingerprint]
    asked = gate.model_dump(mode="json", exclude=NOT_JUDGED)
    config = {
        "gate": asked,
        "champion": of_champion,
        "prompts": list(prompts),
        "tuned": list(tuned),
        "rows": rows.fingerprint(),
        "use": foreseen,
    }

    def build(building: Building) -> Judgement:
        contestants = [contestant(evaluation) for evaluation in evaluations]
        reigning = contestant(champion) if champion else None
        judgement = decide(gate, contestants, reigning, rows)
        prompted = read_prompted(prompts, evaluations)
        return describe(gate, judgement, contestants, reigning, rows, foreseen).model_copy(
            update={
                "effects": find_effects(prompted, gate.alpha, rows.clusters),
                "format_spread": find_format_spread(prompted),
                "best_prompts": find_best_prompts(prompted),
                "lifts": find_lifts(tuned, contestants, gate.alpha, rows.clusters),
            }
        )

    return workspace.produce(STAGE, inputs, config, Judgement, build)


def describe(
    gate: Gate, judgement: Judgement, contestants: Sequence[Contestant], champion: Contestant | None, rows: Rows, use: Use
) -> Judgement:
    """The judgement with what takes no part in it: other measures of those that were compared, slices, and money."""
    if judgement.comparison is None:
        return judgement.model_copy(update={"contenders": with_money(judgement.contenders, gate, use)})
    by_name = {each.name: each for each in contestants} | ({champion_label(champion.name): champion} if champion else {})

    def measured(found: Comparison) -> Comparison:
        others = differences(by_name[found.contender], by_name[found.against], rows, gate.alpha)
        return found.model_copy(update={"others": [each for each in others if each.metric != found.metric]})

    comparisons = [measured(each) for each in judgement.comparisons]
    deciding = comparisons[judgement.comparisons.index(judgement.comparison)]
    return judgement.model_copy(
        update={
            "comparison": deciding,
            "comparisons": comparisons,
            "contenders": with_money(judgement.contenders, gate, use),
            "slices": find_slices(gate, contestants, rows),
            "break_even": find_break_even(judgement.contenders, use),
        }
    )
