"""A row is found in the messages that any of the bake-off's prompts makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.config import Prompt, Task
from tasks.errors import BadConfig
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.messages import render
from tasks.prompting.reverse import reader_of
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import DatasetRecord
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.tiny_model import LABELS, make_dataset

TEXT = 'It\'s "so" <good> & bright,\nCafé \\ {{ text }} # Text\n\n🙂'
TASK = {"guidelines": "Be fair.", "definitions": {"negative": "bad", "positive": "good"}, "persona": "a critic"}


def config(prompt: dict[str, Any], inputs: list[str]) -> dict[str, Any]:
    return {"name": "a", "dataset": {"source": "a.csv", "inputs": inputs}, "task": TASK, "prompts": [{"name": "p", **prompt}]}


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("form", ["", "markdown", "xml", "json"])
@pytest.mark.parametrize("techniques", [[], ["persona", "descriptive"], ["chain_of_thought"], ["reflect"], ["few_shot"]])
def test_the_row_comes_back_out_of_every_prompt(structured: bool, form: str, techniques: list[str], tmp_path: Path) -> None:
    names = [*techniques, *(["structured"] if form else [])] or ["zero_shot"]
    prompt = {"endpoint": "there", "techniques": names} | ({"format": form} if form else {})
    places = NamedPlaces(Settings(home=tmp_path), {"there": make_endpoint("http://127.0.0.1:9/v1", json_schema=structured)})
    dataset: DatasetRecord = make_dataset(tmp_path / "data")
    made = build_prompt(
        Prompt.model_validate({"name": "p", **prompt}), Task.model_validate(TASK), dataset, places, Cap(0), Workspace(tmp_path)
    )
    spec = read_prompt(made.folder)
    messages = [each["content"] for each in render(spec, {"text": TEXT}) if each["role"] == "user"]
    reader = reader_of(config(prompt, ["text"]), LABELS, ["text"], places.settings)
    assert reader.inputs_of(messages) == {"text": TEXT}
    later = [text for text in (spec.answer_form, spec.review) if text]
    if spec.think or spec.review:
        assert reader.inputs_of(messages + later) == {"text": TEXT}, "the turns that follow ask about the same row"


def test_another_clients_last_message_is_the_row() -> None:
    reader = reader_of({}, LABELS, ["text"], Settings())
    assert reader.inputs_of(["an example", TEXT]) == {"text": TEXT}
    with pytest.raises(BadConfig, match="no message"):
        reader.inputs_of([])


def test_several_columns_are_read_from_json_and_from_lines_and_nothing_else() -> None:
    columns = ["subject", "body"]
    reader = reader_of({}, LABELS, columns, Settings())
    row = {"subject": "a: b", "body": "two\nlines"}
    assert reader.inputs_of([json.dumps(row)]) == row
    assert reader.inputs_of(["subject: a: b\nbody: two\nlines"]) == row
    with pytest.raises(BadConfig, match="subject, body"):
        reader.inputs_of(["neither"])
    worded = reader_of(config({"techniques": ["structured"], "format": "markdown"}, columns), LABELS, columns, Settings())
    assert worded.inputs_of(["# Subject\n\na: b\n\n# Body\n\ntwo\nlines"]) == row


def test_a_config_of_another_release_leaves_the_general_rule() -> None:
    assert reader_of({"unheard": 1}, LABELS, ["text"], Settings()).inputs_of([TEXT]) == {"text": TEXT}
