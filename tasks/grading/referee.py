"""The grader of a bake-off over free text: says whether an answer that is not its reference's text is right all the same."""

from typing import TYPE_CHECKING

from tasks.config import BakeoffConfig, Dataset, Grader, Prompt, Trivial
from tasks.grading.judge import build_judge, pick_prompt
from tasks.records import ContenderRecord
from tasks.settings import Places, Settings
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap

COLUMNS = ["question", "correct_answer", "student_answer"]
"""What a grader sees of an answer; the template `grader` titles them."""
GRADES = ["correct", "wrong"]
INSTRUCTIONS = (
    "You grade answers. Based on the task indicated by “**Q:**” and the correct answer indicated by “**A:**”, determine whether "
    "the student's answer means the same. Grading is binary: correct or wrong. Misspellings and other wordings are okay."
)


def check_referee(config: BakeoffConfig, settings: Settings) -> None:
    """Raises BadConfig, before anything is spent, where the grader is a prompt that cannot grade."""
    if config.grader and config.grader.prompt:
        pick_prompt(_asking(config.grader.prompt), "", settings)


def build_referee(grader: Grader, places: Places, cap: "Cap", workspace: Workspace) -> ContenderRecord:
    """The contender that grades, where the config gives its prompt. Raises as `build_prompt` does."""
    assert grader.prompt
    config = _asking(grader.prompt)
    return build_judge(config.prompts[0], config, GRADES, places, cap, workspace)


def _asking(prompt: Prompt) -> BakeoffConfig:
    """The prompt as a config of its own, in the words of grading where it brings none."""
    told = prompt.model_copy(update={"template": prompt.template or "grader", "instructions": prompt.instructions or INSTRUCTIONS})
    dataset = Dataset(source="answers", inputs=COLUMNS, label="grade", labels={grade: grade for grade in GRADES})
    return BakeoffConfig(name="grader", dataset=dataset, trivial=[Trivial.MAJORITY], prompts=[told], tuned=[])
