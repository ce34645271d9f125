"""Batch prediction: files of rows in, the same files with the champion's answers out, whatever kind the champion is."""

from prefect import flow
from prefect.runtime import flow_run

from services.bench import opened
from tasks.announcing import budget_watched
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig
from tasks.orchestration.limits import limits_of_server
from tasks.orchestration.page import progress_on_page
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.predicting.predict import Seat, report_of
from tasks.predicting.records import PredictionReport
from tasks.predicting.stage import find_files, predict_file, report_prediction
from tasks.registry.champion import current_champion
from tasks.registry.stage import fetch_champion


@flow(name="predict", flow_run_name="{config.name}", persist_result=False)
def predict(config: BakeoffConfig, input_path: str, output_path: str, prefix: str = "", quick: bool = False) -> PredictionReport:
    """Predict the rows of files with the champion of a bake-off.

    Args:
        config: the bake-off; `name` and `store` say where its champion is, `budget.usd` what this run may spend on an endpoint.
        input_path: CSV, TSV, JSON lines or parquet, or a folder of them, that the run may read.
        output_path: the same rows with their predictions: a file, or a folder for a folder. For a run of a deployment a plain name:
            it is written to `<home>/predicted/`.
        prefix: stands before the names of the added columns, such as `predicted_`.
        quick: a fine-tuned classifier predicts in bfloat16 where the machine is faster with it and the label stays the same;
            probabilities differ in the third digit.

    Raises:
        Refused: there is no champion, or a file cannot be used; nothing was spent.
        BakeoffError: a stage failed; a rerun goes on where this one was.
    """
    arrange_end()
    roots = roots_of_run()
    with (
        opened(config, *roots, run=str(flow_run.id), limiter=limits_of_server) as bench,
        progress_on_page(),
        budget_watched(config.name),
    ):
        champion = current_champion(bench.places, config.store, config.name)  # which needs no right to publish
        if champion is None:
            raise BadConfig(f"{config.name} has no champion yet: `bakeoff run` publishes one when the evidence is there")
        contender = fetch_champion(config, champion, bench.places, bench.workspace)
        seat = Seat(contender, bench.asking, bench.settings, bench.workspace, quick=quick)
        files = find_files(input_path, output_path, bool(roots), seat, prefix)
        predicted = [predict_file(seat, file, config.dataset.max_characters, prefix) for file in files]
        report = report_of(config, champion.champion(), predicted, str(flow_run.id), bench.cap.spent_usd)
        report_prediction(report, bench.workspace)
        return report
