"""The room's Prefect task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.artifacts import create_link_artifact

from tasks.config import BakeoffConfig
from tasks.evaluation.scores import Evaluation
from tasks.orchestration import artifact_key, stage
from tasks.records import ContenderRecord, DatasetRecord, Judgement, TokensRecord, Verdict
from tasks.reporting.page import write_report
from tasks.reporting.runs import keep_run, runs_folder
from tasks.workspace import Workspace


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
    """Keep what a report needs beside the verdict, write the report, and say on the run's page where it lies."""
    keep_run(verdict.run_id, config, dataset, evaluated, tokens, judgement, workspace.root)
    written = write_report(runs_folder(workspace.root) / verdict.run_id, workspace)
    create_link_artifact(key=artifact_key("report", verdict.name), link=written.as_uri(), description=f"The report: {written}")
    return written
