"""The stages of a grading run, as plain functions."""

import logging
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tasks.config import BakeoffConfig, Prompt
from tasks.data.tables import place_result
from tasks.errors import BadConfig
from tasks.grading.agreement import measure_agreement, measure_consistency
from tasks.grading.files import examples_of, open_file, read_grades, write_graded, write_grades
from tasks.grading.judge import Judge, grade_rows, pick_prompt
from tasks.grading.records import GradedRecord, GradingFile, GradingReport, JudgeRecord
from tasks.grading.validation import judge_record, keep_record, not_validated
from tasks.manifest import read_manifest
from tasks.records import ContenderRecord
from tasks.settings import Settings
from tasks.workspace import Workspace, write_durably

logger = logging.getLogger(__name__)
GRADES = "grades.parquet"
REPORT = "grading.json"


def check_request(
    config: BakeoffConfig,
    input_file: str,
    output_file: str,
    own_process: bool,
    settings: Settings,
    champion: ContenderRecord | None = None,
) -> GradingFile:
    """The file to grade, validated, before anything is started or spent.

    Args:
        own_process: whether the caller's own rights hold for the output (`place_result`).
        champion: whose labels are the grades; None for a prompt of the config.

    Raises:
        OutsideRoots, BadConfig, BadData: as `open_file` and `place_result` say.
    """
    to = place_result(output_file, own_process, settings.home / "graded")
    grades = _labels_of(champion, config) if champion else []
    return open_file(config.dataset, settings.readable(input_file), to, grades)


def choose_prompt(config: BakeoffConfig, name: str, champion: bool, settings: Settings) -> Prompt | None:
    """The prompt that grades; None where the champion does. Raises BadConfig where both are named, and as `pick_prompt`."""
    if champion and name:
        raise BadConfig(f"prompt {name!r} and the champion are both named to grade: name one")
    return None if champion else pick_prompt(config, name, settings)


def grade_file(judge: Judge, file: GradingFile, folder: Path) -> GradedRecord:
    """Grade a file's rows, and write them with their grades.

    Args:
        folder: of the run; `grades.parquet` is written there for the stages that follow.

    Raises:
        BudgetReached, EndpointError: what was answered is kept; run again to go on.
        BadData: the file changed meanwhile.
    """
    grades = grade_rows(judge, list(examples_of(file)))
    write_graded(file, grades)
    folder.mkdir(parents=True, exist_ok=True)
    write_grades(folder / GRADES, grades)
    failures = Counter(grade.failure.value for grade in grades if grade.failure)
    if failures:
        logger.warning("%d of %d rows have no grade (%s)", failures.total(), len(grades), dict(failures))
    given = Counter(grade.grade for grade in grades if grade.grade is not None)
    counts = {name: given[name] for name in judge.manifest.labels}
    return GradedRecord(folder=folder, rows=len(grades), grades=counts, failures=dict(failures))


def check_judge(judge: Judge, file: GradingFile, graded: GradedRecord, wordings: int) -> tuple[JudgeRecord, JudgeRecord]:
    """What this file says of the judge, and the record that counts (an earlier one, where this file says too little)."""
    rows, grades = list(examples_of(file)), read_grades(graded.folder / GRADES)
    agreed = measure_agreement(judge, rows, grades)
    measured = judge_record(judge, file.sha256, agreed, measure_consistency(judge, rows, grades, wordings))
    kept = keep_record(judge.workspace, measured)
    if not kept.validated:
        logger.warning("%s", not_validated(kept.doubts, kept.name))
    return measured, kept


def report_of(
    config: BakeoffConfig,
    file: GradingFile,
    graded: GradedRecord,
    found: tuple[JudgeRecord, JudgeRecord],
    run_id: str,
    spent_usd: float,
) -> GradingReport:
    """The result of a run."""
    measured, counts = found
    return GradingReport(
        run_id=run_id,
        name=config.name,
        input=str(file.path),
        output=str(file.to),
        judge=measured.name,
        judge_kind=measured.kind,
        judge_fingerprint=measured.fingerprint,
        rows=graded.rows,
        grades=graded.grades,
        failures=graded.failures,
        agreement=measured.agreement,
        consistency=measured.consistency,
        validated=counts.validated,
        doubts=counts.doubts,
        spent_usd=spent_usd,
        created=datetime.now(UTC),
    )


def keep_report(report: GradingReport, workspace: Workspace) -> None:
    """Keep a run's result under its id."""
    folder = run_folder(workspace, report.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / REPORT, report.model_dump_json(indent=2))


def run_folder(workspace: Workspace, run_id: str) -> Path:
    """Where a run's results lie."""
    return workspace.root / "runs" / run_id


def _labels_of(champion: ContenderRecord, config: BakeoffConfig) -> list[str]:
    manifest = read_manifest(champion.folder)
    if manifest.inputs != config.dataset.inputs or not manifest.labels:
        sees, gives = ", ".join(manifest.inputs), ", ".join(manifest.labels) or "free text"
        raise BadConfig(
            f"the champion {manifest.name!r} sees {sees} and gives {gives}; to grade {', '.join(config.dataset.inputs)} it must "
            "see these columns and give labels"
        )
    return manifest.labels
