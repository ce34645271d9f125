"""Which contenders of a bake-off are there already, made and evaluated: a look that builds nothing."""

from typing import TYPE_CHECKING

from tasks.bases import resolve_base
from tasks.config import BakeoffConfig, Prompt, Tuned
from tasks.data.tokenize import tokenize
from tasks.evaluation.scores import evaluate
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import Places
from tasks.tuning.develop import develop
from tasks.tuning.further import OBJECTIVES, further
from tasks.workspace import NotMade, Workspace

if TYPE_CHECKING:
    from tasks.prompting.budget import Cap


def is_made(
    contender: Tuned | Prompt, config: BakeoffConfig, dataset: DatasetRecord, places: Places, cap: "Cap", workspace: Workspace
) -> bool:
    """Whether a tuned or prompted contender and its evaluation are in the workspace; in a shared one, they are here afterwards."""
    finding = workspace.only_finding()
    try:
        if isinstance(contender, Tuned):
            made = _tuned(contender, config, dataset, places, finding)
        else:
            made = build_prompt(contender, config.task, dataset, places, cap, finding)
        evaluate(made, dataset, places, cap, config, finding)
    except NotMade:
        return False
    return True


def _tuned(tuned: Tuned, config: BakeoffConfig, dataset: DatasetRecord, places: Places, finding: Workspace) -> ContenderRecord:
    base = resolve_base(tuned.base, tuned.revision, places.settings)
    tokens = tokenize(tuned, dataset, base, finding)
    if tuned.objective in OBJECTIVES:
        return further(tuned, dataset, tokens, base, finding, places.settings)
    return develop(tuned, dataset, tokens, base, finding, config.samples, places.settings)
