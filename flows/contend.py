"""Some contenders of a bake-off, made and evaluated: on another machine for a bake-off that fans out, or again from what a version
records."""

from prefect import flow
from prefect.runtime import flow_run

from flows.bakeoff import Evaluated, compete
from services.bench import check_names, opened
from tasks.announcing import budget_watched
from tasks.config import BakeoffConfig
from tasks.data.stage import load
from tasks.orchestration.limits import limits_of_server
from tasks.orchestration.page import progress_on_page
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.records import DatasetRecord


@flow(name="contend", flow_run_name="{config.name}: {contenders}", persist_result=False)
def contend(config: BakeoffConfig, contenders: list[str]) -> tuple[DatasetRecord, Evaluated]:
    """Make some contenders of a bake-off and evaluate them. Nothing is decided and nothing is published.

    Args:
        config: the bake-off.
        contenders: their names.

    Raises:
        BakeoffError: a stage failed; a rerun goes on where this one was.
    """
    arrange_end()
    config = config.alone(contenders)
    with (
        opened(config, *roots_of_run(), run=str(flow_run.id), limiter=limits_of_server) as bench,
        progress_on_page(),
        budget_watched(config.name),
    ):
        check_names(config, bench.settings)
        dataset = load(config.dataset, bench.settings, bench.workspace)
        evaluated, _ = compete(config, dataset, bench)
        return dataset, [each for each in evaluated if each[0].name in contenders]
