"""The room's Prefect tasks."""

from tasks.orchestration.page import show_table
from tasks.orchestration.stages import stage
from tasks.predicting import files as reading
from tasks.predicting import predict as predicting
from tasks.predicting.predict import Seat
from tasks.predicting.records import PredictedFile, PredictFile, PredictionReport
from tasks.predicting.report import count_rows, file_rows, summary
from tasks.workspace import Workspace


@stage("find files", run_name="find {given}")
def find_files(given: str, to: str, own_process: bool, seat: Seat, prefix: str) -> list[PredictFile]:
    """The files to predict, every one checked before any is begun."""
    return reading.find_files(given, to, own_process, seat.settings, seat.manifest.inputs, prefix)


@stage("predict", run_name="predict {file.path.name}")
def predict_file(seat: Seat, file: PredictFile, max_characters: int, prefix: str) -> PredictedFile:
    """Predict a file's rows, or find that they are predicted, and write them with their answers."""
    return predicting.predict_file(seat, file, max_characters, prefix)


@stage("report", run_name="report {report.name}")
def report_prediction(report: PredictionReport, workspace: Workspace) -> None:
    """Keep the report under its run's id, and show its tables on the run's page."""
    predicting.keep_report(report, workspace)
    show_table(f"predictions {report.name}", count_rows(report), summary(report))
    show_table(f"files {report.name}", file_rows(report), summary(report))
