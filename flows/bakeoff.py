"""The main job: a labelled data set in, a verdict out, the champion in S3."""

from datetime import UTC, datetime

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows.fan_out import check_pools, fan_out
from services.bench import Bench, check_names, opened
from tasks.announcing import announce, budget_watched
from tasks.config import BakeoffConfig, Interview, Technique
from tasks.contenders.stage import pair, trivial
from tasks.data.stage import load, tokenize
from tasks.evaluation.scores import Evaluation
from tasks.evaluation.stage import evaluate
from tasks.grading.judge import Judge, check_fits
from tasks.grading.stage import build_referee
from tasks.grading.validation import doubts_of
from tasks.orchestration.limits import limits_of_server
from tasks.orchestration.page import progress_on_page
from tasks.orchestration.pauses import ask_approval, ask_person, check_page
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.orchestration.stages import Lanes
from tasks.prompting.stage import model_behind, prompt_contender
from tasks.prompting.techniques.drafting import Exchange
from tasks.prompting.techniques.interview import interview_person
from tasks.records import ContenderRecord, DatasetRecord, Decision, TokensRecord, Verdict, Why
from tasks.registry.champion import ChampionVersion
from tasks.registry.publish import Publication
from tasks.registry.stage import fetch_champion, find_champion, grading_champion, publish_winner
from tasks.reporting.stage import page
from tasks.retraining.stage import remember
from tasks.tuning.stage import find_base, train
from tasks.verdict.report import approved, verdict_of, withheld
from tasks.verdict.stage import gate, looks, report

Evaluated = list[tuple[ContenderRecord, Evaluation]]
Made = tuple[set[str], PrefectFuture[ContenderRecord]]
"""What a contender occupies, and the contender."""


@flow(name="bakeoff", flow_run_name="{config.name}", persist_result=False)
def bakeoff(config: BakeoffConfig) -> Verdict:
    """Prompt a large model, or fine-tune a small one? Both are tried on the same held-out rows; the better is published.

    Args:
        config: the bake-off; only its data set is required.

    Raises:
        Refused: the config, the data, or the endpoint of a champion that is a prompt cannot be used.
        BakeoffError: a stage failed, or a run on another machine; a rerun goes on where this one was.
    """
    arrange_end()
    with (
        opened(config, *roots_of_run(), run=str(flow_run.id), limiter=limits_of_server) as bench,
        progress_on_page(),
        budget_watched(config.name),
    ):
        check_names(config, bench.settings)
        check_page(config.gate.approval)
        return judged(config, bench)


def judged(config: BakeoffConfig, bench: Bench, why: Why | None = None) -> Verdict:
    """The bake-off on an open bench, its names checked.

    Args:
        why: it runs, where something other than a person's word has it run.
    """
    check_pools(config, bench)
    dataset = load(config.dataset, bench.settings, bench.workspace)
    champion, published = find_champion(config, flow_run.id or "", bench.places)
    models = [model_behind(name, bench.settings, bench.workspace) for name in bench.remote(config)]
    fan_out(config, dataset, bench)
    evaluated, tokens = compete(config, dataset, bench)
    evaluations = [evaluation for _, evaluation in evaluated]
    holder = evaluate_champion(config, dataset, champion, evaluations, bench)
    judgement = gate(config, dataset, evaluations, holder, bench.workspace)
    verdict = verdict_of(
        judgement,
        run_id=str(flow_run.id),
        name=config.name,
        dataset=dataset,
        models=models,
        contenders=[contender for contender, _ in evaluated],
        champion=champion.champion() if champion else None,
        grader=config.grader.named if config.grader else None,
        looks=looks(config, dataset, evaluations, holder, bench.places, bench.workspace),
        spent_usd=bench.cap.spent_usd,
        reused=bench.workspace.reused,
        why=why,
        created=datetime.now(UTC),
    )
    if published:  # when this run was begun before, and nobody has heard of it
        verdict = published.model_copy(update={"spent_usd": verdict.spent_usd, "reused": verdict.reused})
    elif verdict.decision is Decision.PUBLISH:
        verdict = withheld(verdict, graders_doubts(config, bench))
    if verdict.decision is Decision.PUBLISH and config.gate.approval and not published:
        verdict = approved(verdict, ask_approval(verdict, config.gate.approval_hours))
    if verdict.decision is Decision.PUBLISH and not published:
        winner, evaluation = next(each for each in evaluated if each[0].name == judgement.winner)
        publication = Publication(config, verdict, winner, evaluation.predictions, dataset, champion)
        made = publish_winner(publication, bench.places, bench.workspace, bench.cap)
        verdict = verdict.model_copy(update={"champion": made.champion, "spent_usd": bench.cap.spent_usd})
    report(verdict, bench.workspace)
    announce(verdict)
    page(verdict, config, dataset, evaluated, tokens, judgement, bench.workspace)
    remember(config, dataset, verdict, bench.workspace)
    return verdict


def compete(config: BakeoffConfig, dataset: DatasetRecord, bench: Bench) -> tuple[Evaluated, dict[str, TokensRecord]]:
    """Every contender, made and evaluated; those that occupy the same resource take turns, and a hybrid follows its parts. Beside
    them the tokens of the tuned ones, by name."""
    lanes, space = Lanes(), bench.workspace
    bases = [find_base(tuned, bench.settings, space) for tuned in config.tuned]  # what is wrong comes out before anybody is paid
    tokens = [tokenize(tuned, dataset, base, space) for tuned, base in zip(config.tuned, bases, strict=True)]
    grader, told = seat_grader(config, bench), interview_people(config, dataset, bench)
    made: dict[str, Made] = {kind: ({"device"}, lanes.submit({"device"}, trivial, kind, dataset, space)) for kind in config.trivial}
    for tuned, base, ids in zip(config.tuned, bases, tokens, strict=True):
        asked = tuned, dataset, ids, base, space, config.samples, bench.settings
        made[tuned.name] = {"device"}, lanes.submit({"device"}, train, *asked)
    for prompt in config.prompts:
        resource = {bench.resource(f"endpoint:{prompt.endpoint}")}
        around = prompt, config.task, dataset, bench.places, bench.cap, space, told.get(prompt.name)
        made[prompt.name] = resource, lanes.submit(resource, prompt_contender, *around)
    rows = dataset, bench.places, bench.cap, config, space, grader
    evaluations = {name: lanes.submit(lane, evaluate, each, *rows) for name, (lane, each) in made.items()}
    for hybrid in config.hybrids:
        both = {"device", *made[hybrid.prompt][0]}
        parts = [future for part in (hybrid.tuned, hybrid.prompt) for future in (made[part][1], evaluations[part])]
        made[hybrid.name] = both, lanes.submit(both, pair, hybrid, *parts, dataset, bench.places, bench.cap, space)
        evaluations[hybrid.name] = lanes.submit(both, evaluate, made[hybrid.name][1], *rows)
    lanes.finish()
    evaluated = [(each.result(), evaluations[name].result()) for name, (_, each) in made.items()]
    return evaluated, {tuned.name: ids for tuned, ids in zip(config.tuned, tokens, strict=True)}


def interview_people(config: BakeoffConfig, dataset: DatasetRecord, bench: Bench) -> dict[str, list[Exchange] | None]:
    """What people answered, by the prompt that asks them. Before other work starts, since only a flow's own thread can pause."""
    asking = [each for each in config.prompts if Technique.FLIPPED in each.techniques and each.interview is Interview.HUMAN]
    around = config.task, dataset, bench.places, bench.cap, bench.workspace, ask_person
    return {each.name: interview_person(each, *around) for each in asking}


def evaluate_champion(
    config: BakeoffConfig, dataset: DatasetRecord, champion: ChampionVersion | None, evaluations: list[Evaluation], bench: Bench
) -> Evaluation | None:
    """The champion's evaluation on this run's rows: one that is there already where it competes again, else made now."""
    if champion is None:
        return None
    again = [evaluation for evaluation in evaluations if evaluation.scores.of == champion.fingerprint]
    if again:
        return again[0]
    contender = fetch_champion(config, champion, bench.places, bench.workspace)
    return evaluate(contender, dataset, bench.places, bench.cap, config, bench.workspace, seat_grader(config, bench))


def seat_grader(config: BakeoffConfig, bench: Bench) -> Judge | None:
    """Who goes over free-text answers, with what it asks; None where the config names nobody."""
    if config.grader is None:
        return None
    if config.grader.champion:
        contender = grading_champion(config, bench.places, bench.workspace)
    else:
        contender = build_referee(config.grader, bench.places, bench.cap, bench.workspace)
    grader = Judge(contender, bench.asking(contender), bench.settings, bench.workspace)
    check_fits(grader, config.grader.right)
    return grader


def graders_doubts(config: BakeoffConfig, bench: Bench) -> list[str]:
    """Why nothing may be published on the grader's word; empty for one that was validated, and where nobody grades."""
    grader = seat_grader(config, bench)
    return doubts_of(grader) if grader else []
