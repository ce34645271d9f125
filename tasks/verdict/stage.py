"""The room's Prefect tasks."""

from collections.abc import Sequence

from tasks.config import BakeoffConfig
from tasks.evaluation.scores import Evaluation
from tasks.orchestration.page import show_markdown, show_table
from tasks.orchestration.stages import stage
from tasks.records import DatasetRecord, Judgement, Looks, Verdict
from tasks.settings import Places
from tasks.store import open_store
from tasks.verdict.effects_report import effect_rows
from tasks.verdict.judge import judge
from tasks.verdict.looks import count_looks
from tasks.verdict.report import HEADLINES, headline, markdown_verdict, table_rows
from tasks.verdict.tuned_report import tuned_rows
from tasks.workspace import Workspace, write_durably


@stage("gate", run_name="gate {config.name}")
def gate(
    config: BakeoffConfig,
    dataset: DatasetRecord,
    evaluations: Sequence[Evaluation],
    champion: Evaluation | None,
    workspace: Workspace,
) -> Judgement:
    """Decide whether the best contender may become champion, whose evaluation `champion` is; and find what techniques do."""
    return judge(config.gate, evaluations, champion, workspace, config.prompts, config.tuned, dataset, config.use)


@stage("looks", run_name="looks {config.name}")
def looks(
    config: BakeoffConfig,
    dataset: DatasetRecord,
    evaluations: Sequence[Evaluation],
    champion: Evaluation | None,
    places: Places,
    workspace: Workspace,
) -> Looks:
    """Remember whose answers to the test rows a decision has seen, and count them."""
    embedded = places.settings.store(config.store).service  # this home's alone, as its workspace is: not started only to count
    store = None if embedded else open_store(places, config.store)
    return count_looks(config.gate, dataset, evaluations, champion, workspace, store)


@stage("report", run_name="report {verdict.name}")
def report(verdict: Verdict, workspace: Workspace) -> None:
    """Keep the verdict under its run's id, and show it on the run's page: for reading, and as tables."""
    folder = workspace.root / "runs" / verdict.run_id
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "verdict.json", verdict.model_dump_json(indent=2))
    show_markdown(f"verdict {verdict.name}", markdown_verdict(verdict), f"{HEADLINES[verdict.decision]}: {headline(verdict)}")
    show_table(f"contenders {verdict.name}", table_rows(verdict), verdict.reason)
    show_table(f"effects {verdict.name}", effect_rows(verdict), "What each technique does, against its endpoint's plain prompt")
    show_table(f"tuned {verdict.name}", tuned_rows(verdict), "What each tuned contender trained, took, and adds")
