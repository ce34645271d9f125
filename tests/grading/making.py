"""Judges on a loopback server; as a module, a grading run that can be killed:

python -m tests.grading.making URL HOME INPUT OUTPUT
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.config import BakeoffConfig
from tasks.grading.grade import check_request, choose_prompt, grade_file, run_folder
from tasks.grading.judge import Judge, build_judge
from tasks.grading.records import GradedRecord, GradingFile
from tasks.prompting.ask import AskContext, journal_path
from tasks.prompting.budget import Cap
from tasks.records import Example
from tasks.settings import Settings
from tasks.workspace import Workspace, digest
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Say, completion

QUESTION = "Who was the 35th president of the United States of America?"
KENNEDY = "John F. Kennedy"
COLUMNS = ["question", "correct_answer", "student_answer"]
SEED = (
    "You are a high school history teacher grading homework assignments. "
    "Based on the homework question indicated by “**Q:**” and the correct answer indicated by “**A:**”, "
    "your task is to determine whether the student's answer is correct. "
    "Grading is binary; therefore, student answers can be correct or wrong. Simple misspellings are okay."
)
REASON = "The student names the same person."


def make_config(*techniques: str, **prompt: Any) -> BakeoffConfig:
    """A grader with one prompt, `teacher`."""
    teacher = {"name": "teacher", "endpoint": "there", "template": "grader", "techniques": list(techniques) or ["zero_shot"]}
    dataset = {"source": "rows.csv", "inputs": COLUMNS, "label": "human", "labels": {"correct": "correct", "wrong": "wrong"}}
    task = {"instructions": SEED, "guidelines": "Nicknames are fine.", "definitions": {"correct": "the same", "wrong": "another"}}
    return BakeoffConfig.model_validate(
        {"name": "grading", "dataset": dataset, "task": task, "prompts": [teacher | prompt], "tuned": []}
    )


def make_judge(url: str, home: Path, config: BakeoffConfig, usd: float = 1.0, **endpoint: Any) -> Judge:
    """The config's first prompt as a judge, its workspace under `home`."""
    there, cap, workspace = make_endpoint(url, **endpoint), Cap(usd), Workspace(home / "workspace")
    places = NamedPlaces(Settings(home=home), {"there": there})
    prompt = choose_prompt(config, "", False, places.settings)
    assert prompt
    contender = build_judge(prompt, config, ["correct", "wrong"], places, cap, workspace)
    return Judge(contender, AskContext(there, cap, journal_path(workspace.root, "there")), places.settings, workspace)


def make_rows(answers: Sequence[str], labels: Sequence[str | None] = ()) -> list[Example]:
    rows = [dict(zip(COLUMNS, (QUESTION, KENNEDY, answer), strict=True)) for answer in answers]
    given = labels or [None] * len(rows)
    return [
        Example(example=digest(row), row=n, inputs=row, label=label)
        for n, (row, label) in enumerate(zip(rows, given, strict=True), 1)
    ]


def student_of(request: dict[str, Any]) -> str:
    """The student's answer that a request is about."""
    found = re.search(r"\*\*Student's Answer:\*\* (.*)", request["messages"][0]["content"])
    return found[1] if found else ""


def teacher(request: dict[str, Any], _number: int = 0) -> Say:
    """A model that knows the 35th president, and gives its reason where it is asked for one."""
    thinks = request["messages"][-1]["content"].find("step by step") >= 0
    grade = "correct" if "John" in student_of(request) or "Jack" in student_of(request) else "wrong"
    return Say(completion(REASON if thinks else json.dumps({"label": grade}) if "response_format" in request else grade))


def grade_all(url: str, home: Path, path: Path, to: Path) -> tuple[GradingFile, GradedRecord]:
    """Grade a file as a run does."""
    config = make_config("chain_of_thought")
    judge = make_judge(url, home, config)
    file = check_request(config, str(path), str(to), True, Settings(home=home, roots=[path.parent]))
    return file, grade_file(judge, file, run_folder(judge.workspace, "run"))


if __name__ == "__main__":
    grade_all(sys.argv[1], *map(Path, sys.argv[2:5]))
