"""Grading: a file of free-text answers in, the same file with grades and reasons out, and how far the judge can be trusted."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from services.bench import Bench, opened
from tasks.announcing import budget_watched
from tasks.config import BakeoffConfig, Prompt
from tasks.errors import BadConfig
from tasks.grading.grade import choose_prompt, report_of, run_folder
from tasks.grading.judge import Judge
from tasks.grading.records import GradingFile, GradingReport
from tasks.grading.stage import build_judge, check_judge, grade_file, read_file, report_grading
from tasks.grading.validation import WORDINGS
from tasks.orchestration.limits import limits_of_server
from tasks.orchestration.page import progress_on_page
from tasks.orchestration.process import arrange_end, roots_of_run
from tasks.records import ContenderRecord
from tasks.registry.champion import champion_contender


@flow(name="grade", flow_run_name="{config.name}", persist_result=False)
def grade(
    config: BakeoffConfig,
    input_file: str,
    output_file: str,
    prompt: str = "",
    champion: bool = False,
    wordings: Annotated[int, Field(ge=0, le=10)] = WORDINGS,
) -> GradingReport:
    """Grade free-text answers.

    Args:
        config: names the columns (`dataset.inputs`, the answer last), the grades (`dataset.labels`), and the prompts.
        input_file: CSV, TSV, JSON lines or parquet, in a folder that the run may read. Where it has the column `dataset.label`, the
            judge's grades are compared with people's.
        output_file: the same rows with their grades. For a run of a deployment a plain name: it is written to `<home>/graded/`.
        prompt: which of the config's prompts grades; the first if empty.
        champion: let the champion of the config's bake-off grade.
        wordings: in how many other wordings rows are asked again, to see whether grades stay; 0 asks none.

    Raises:
        Refused: the config, the file or the prompt cannot be used; nothing was spent.
        BakeoffError: a stage failed; a rerun asks only what is missing.
    """
    arrange_end()
    roots = roots_of_run()
    with (
        opened(config, *roots, run=str(flow_run.id), limiter=limits_of_server) as bench,
        progress_on_page(),
        budget_watched(config.name),
    ):
        chosen = choose_prompt(config, prompt, champion, bench.settings)
        holder = None if chosen else find_champion(config, bench)
        file = read_file(config, input_file, output_file, bool(roots), bench.settings, holder)
        judge = seat_judge(config, chosen, holder, file, bench)
        graded = grade_file(judge, file, run_folder(bench.workspace, str(flow_run.id)))
        found = check_judge(judge, file, graded, wordings)
        report = report_of(config, file, graded, found, str(flow_run.id), bench.cap.spent_usd)
        report_grading(report, bench.workspace)
        return report


def seat_judge(
    config: BakeoffConfig, prompt: Prompt | None, champion: ContenderRecord | None, file: GradingFile, bench: Bench
) -> Judge:
    """The contender that grades, the champion or one made of the prompt, with what it asks."""
    contender = champion
    if prompt:
        contender = build_judge(prompt, config, file.grades, bench.places, bench.cap, bench.workspace)
    assert contender
    return Judge(contender, bench.asking(contender), bench.settings, bench.workspace)


def find_champion(config: BakeoffConfig, bench: Bench) -> ContenderRecord:
    """The champion's folder. Raises BadConfig where there is none yet."""
    found = champion_contender(bench.places, config.store, config.name, bench.workspace)
    if found is None:
        raise BadConfig(f"{config.name} has no champion yet: `bakeoff run` publishes one when the evidence is there")
    return found
