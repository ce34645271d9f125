"""The room's Prefect task."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.artifacts import create_link_artifact

from tasks.config import BakeoffConfig
from tasks.evaluation.scores import Evaluation
from tasks.orchestration import artifact_key, page_may_be_away, stage
from tasks.records import ContenderRecord, DatasetRecord, Judgement, TokensRecord, Verdict
from tasks.reporting.page import write_report
from tasks.reporting.runs import keep_run, runs_folder
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
    """Keep what a report needs beside the verdict, write the report, and say on the run's page where it lies.

    A report that cannot be drawn does not undo what was decided and published: the log says why, and which command tries again.
    """
    keep_run(verdict.run_id, config, dataset, evaluated, tokens, judgement, workspace.root)
    folder = runs_folder(workspace.root) / verdict.run_id
    try:
        written = write_report(folder, workspace)
    except Exception:
        logger.exception("the report could not be written; once that is mended: bakeoff report %s", verdict.run_id)
        return folder
    with page_may_be_away():
        create_link_artifact(key=artifact_key("report", verdict.name), link=written.as_uri(), description=f"The report: {written}")
    return written
