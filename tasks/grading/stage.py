"""The room's Prefect tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig, Grader, Prompt
from tasks.grading import grade as grading
from tasks.grading import judge as judges
from tasks.grading import referee
from tasks.grading.judge import Judge
from tasks.grading.records import GradedRecord, GradingFile, GradingReport, JudgeRecord
from tasks.grading.report import agreement_rows, confusion_rows, stayed_in_all, verdict_on_judge
from tasks.orchestration.page import show_table
from tasks.orchestration.stages import stage
from tasks.records import ContenderRecord
from tasks.settings import Places, Settings
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


@stage("read", run_name="read {input_file}")
def read_file(
    config: BakeoffConfig,
    input_file: str,
    output_file: str,
    own_process: bool,
    settings: Settings,
    champion: ContenderRecord | None = None,
) -> GradingFile:
    """The file to grade, every row of it checked."""
    return grading.check_request(config, input_file, output_file, own_process, settings, champion)


@stage("judge", run_name="judge {prompt.name}")
def build_judge(
    prompt: Prompt, config: BakeoffConfig, grades: Sequence[str], places: Places, cap: "Cap", workspace: Workspace
) -> ContenderRecord:
    """The contender that grades by a prompt."""
    return judges.build_judge(prompt, config, grades, places, cap, workspace)


@stage("grader", run_name="grader {grader.prompt.name}")
def build_referee(grader: Grader, places: Places, cap: "Cap", workspace: Workspace) -> ContenderRecord:
    """The contender that goes over free-text answers, where the config gives its prompt."""
    return referee.build_referee(grader, places, cap, workspace)


@stage("grade", run_name="grade {file.rows} rows")
def grade_file(judge: Judge, file: GradingFile, folder: Path) -> GradedRecord:
    """Grade the rows, and write them with their grades."""
    return grading.grade_file(judge, file, folder)


@stage("check judge", run_name="check {judge.contender.name}")
def check_judge(judge: Judge, file: GradingFile, graded: GradedRecord, wordings: int) -> tuple[JudgeRecord, JudgeRecord]:
    """Agreement with people, and consistency in other wordings: of this file, and as they count for the judge."""
    return grading.check_judge(judge, file, graded, wordings)


@stage("report", run_name="report {report.name}")
def report_grading(report: GradingReport, workspace: Workspace) -> None:
    """Keep the report under its run's id, and show its tables on the run's page."""
    grading.keep_report(report, workspace)
    rows = [{"grade": name, "rows": count} for name, count in {**report.grades, **report.failures}.items()]
    show_table(f"grades {report.name}", rows, f"{report.rows} rows graded by {report.judge}; {verdict_on_judge(report)}")
    show_table(f"agreement {report.name}", agreement_rows(report), f"{stayed_in_all(report)}; {verdict_on_judge(report)}")
    show_table(f"confusion {report.name}", confusion_rows(report), "People's grades by the judge's")
