"""A published contender, made again from what its version records."""

from prefect import flow

from flows.bakeoff import compete
from services.bench import check_names, opened
from tasks.config import BakeoffConfig
from tasks.data.stage import load
from tasks.evaluation.scores import Evaluation
from tasks.orchestration import end_server_with_process, limits_of_server, progress_on_page, roots_of_run
from tasks.records import ContenderRecord, DatasetRecord


@flow(name="reproduce", flow_run_name="{contender} of {config.name}", persist_result=False)
def reproduce(config: BakeoffConfig, contender: str) -> tuple[DatasetRecord, ContenderRecord, Evaluation]:
    """Make one contender of a bake-off again and evaluate it. Nothing is decided and nothing is published.

    Args:
        config: as it is recorded, with the contender and its parts alone.
        contender: its name.

    Raises:
        BakeoffError: a stage failed; a rerun goes on where this one was.
    """
    end_server_with_process()
    with opened(config, *roots_of_run(), limiter=limits_of_server) as bench, progress_on_page():
        check_names(config, bench.settings)
        dataset = load(config.dataset, bench.settings, bench.workspace)
        evaluated, _ = compete(config, dataset, bench)
        return dataset, *next(each for each in evaluated if each[0].name == contender)
