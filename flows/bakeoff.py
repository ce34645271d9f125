"""The main job: a labelled data set in, a verdict out, the champion in S3."""

from prefect import flow
from prefect.runtime import flow_run

from services.bench import Bench, opened
from tasks.config import BakeoffConfig
from tasks.contenders.stage import trivial
from tasks.data.stage import load, tokens
from tasks.evaluation.stage import evaluate, scores
from tasks.orchestration import Lanes, progress_on_page
from tasks.prompting.stage import prompted
from tasks.records import ContenderRecord, DatasetRecord, PredictionsRecord, Verdict
from tasks.registry.stage import champion, publish_winner
from tasks.tuning.stage import base_model, train
from tasks.verdict.stage import gate


@flow(name="bakeoff", flow_run_name="{config.name}", validate_parameters=True)
def bakeoff(config: BakeoffConfig) -> Verdict:
    """Prompt a large model, or fine-tune a small one? Both are tried on the same held-out rows; the better is published.

    Args:
        config: the bake-off; only its data set is required.

    Raises:
        Refused: the config or the data cannot be used; nothing was spent.
        BakeoffError: a stage failed; a rerun goes on where this one was.
    """
    with opened(config) as bench, progress_on_page():
        dataset = load(config.dataset, bench.settings, bench.workspace)
        fielded = field(config, dataset, bench)
