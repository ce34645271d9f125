"""The room's Prefect task."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.config import BakeoffConfig
from tasks.errors import StoreError
from tasks.evaluation.scores import Evaluation
from tasks.orchestration.page import show_markdown
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord, DatasetRecord, Judgement, TokensRecord, Verdict
from tasks.reporting.page import markdown_report, read_page, write_page
from tasks.reporting.runs import REPORT, keep_run, runs_folder
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)


@stage("page", run_name="page {verdict.name}")
def page(
    verdict: Verdict,
    config: BakeoffConfig,
    dataset: DatasetRecord,
    evaluated: Sequence[tuple[ContenderRecord, Evaluation]],
    tokens: Mapping[str, TokensRecord],
    judgement: Judgement,
    workspace: Workspace,
) -> Path:
    """Keep what a report needs beside the verdict, write the report, and show it on the run's page.

    A report that cannot be drawn does not undo what was decided and published: the log says why, and which command tries again.
    """
    keep_run(verdict.run_id, config, dataset, evaluated, tokens, judgement, workspace.root)
    folder = runs_folder(workspace.root) / verdict.run_id
    try:
        told = read_page(folder, workspace)
        written = write_page(told, folder / REPORT)
        shown = markdown_report(told, written, verdict.run_id, _shared(written, workspace))
    except Exception:
        logger.exception("the report could not be written; once that is mended: bakeoff report %s", verdict.run_id)
        return folder
    show_markdown(f"report {verdict.name}", shown, "The report, and where it lies as a file with its pictures")
    return written


def _shared(written: Path, workspace: Workspace) -> str:
    """The report's address in a workspace that machines share; empty where it is not there."""
    if workspace.sharing is None:
        return ""
    try:
        return workspace.sharing.keep(written)
    except StoreError as error:
        logger.warning("the report lies on this machine alone: %s", error)
        return ""
