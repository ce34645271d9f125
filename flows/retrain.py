"""Is a new bake-off due, and why? Nothing happens, cheaply, where nothing changed; else the bake-off runs, and says why."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.bakeoff import judged
from services.bench import check_names, opened
from tasks.announcing import budget_watched
from tasks.config import BakeoffConfig
from tasks.orchestration.limits import limits_of_server
from tasks.orchestration.page import progress_on_page
from tasks.orchestration.pauses import check_page
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.retraining.records import Retraining
from tasks.retraining.stage import look


@flow(name="retrain", flow_run_name="{config.name}", persist_result=False)
def retrain(config: BakeoffConfig, because: Annotated[str, Field(max_length=2_000)] = "") -> Retraining:
    """Run the bake-off again if there is a reason, and say which.

    Args:
        config: the bake-off; `triggers` says what is looked at.
        because: why it is asked for, in words: then it runs whatever changed.

    Raises:
        Refused: the config, the data, or a file that `triggers` names cannot be used.
        BakeoffError: something could not be asked, or a stage failed; a rerun goes on where this one was.
    """
    arrange_end()
    with (
        opened(config, *roots_of_run(), run=str(flow_run.id), limiter=limits_of_server) as bench,
        progress_on_page(),
        budget_watched(config.name),
    ):
        check_names(config, bench.settings)
        check_page(config.gate.approval)
        found = look(config, because, bench.places, bench.workspace, bench.asking)
        verdict = judged(config, bench, found.why) if found.why else None
        return found.retraining(str(flow_run.id), verdict)
