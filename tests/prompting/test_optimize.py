"""A search for a better prompt, with a model on loopback whose answers depend on what the prompt says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.config import Prompt, Task, Technique
from tasks.data.examples import read_examples
from tasks.errors import BudgetReached
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord, DatasetRecord
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.live import environment
from tests.places import NamedPlaces
from tests.prompting.asking import small_dataset
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion

PLANTED = "Listen for the applause {{ labels }}."
A_CALL_USD = (40 + 2 * 8) / 1e6
CHILD = """
import sys
from pathlib import Path
from tests.prompting.test_optimize import build
build(sys.argv[1], Path(sys.argv[2]))
"""


def rewrites(request: dict[str, Any]) -> bool:
    return "Write better instructions" in request["messages"][-1]["content"]


def planted(request: dict[str, Any], number: int) -> Say | None:
    """Says `negative` to all, unless its instructions speak of applause; proposes that after some worse tries."""
    if rewrites(request):
        return Say(completion(f"Here:\n```\n{PLANTED if number > 45 else f'Try {number}.'}\n```"))
    return None if "applause" in request["messages"][0]["content"] else Say(completion('{"label": "negative"}'))


def build(url: str, folder: Path, cap: Cap | None = None, **fields: Any) -> ContenderRecord:
    values = {"name": "best", "techniques": [Technique.OPTIMIZED], "optimize_calls": 130, "examples": 2}
    places = NamedPlaces(load_settings(folder), {"local": make_endpoint(url)})
    prompt = Prompt.model_validate(values | fields)
    return build_prompt(prompt, Task(), small_dataset(folder / "dataset"), places, cap or Cap(1), Workspace(folder / "workspace"))


def texts(dataset: DatasetRecord, split: Any) -> set[str]:
    return {row.inputs["text"] for row in read_examples(dataset, split)}


def test_a_better_instruction_is_found_kept_as_data_and_still_names_the_labels(tmp_path: Path) -> None:
    with Loopback(planted) as server:
        made = build(server.url, tmp_path)
    spec = read_prompt(made.folder)
    assert spec.instructions.startswith(PLANTED)
    assert "negative, positive" in f"{spec.instructions}\n{spec.answer_form}"
    [finding] = made.findings
    assert "before, 1.000 after; kept: rewritten instructions" in finding.message
    sent = " ".join(message["content"] for request in server.requests for message in request["messages"])
    assert "test row" not in sent


def test_rows_that_teach_never_select(tmp_path: Path) -> None:
    with Loopback(planted) as server:
        build(server.url, tmp_path)
    shown = " ".join(request["messages"][-1]["content"] for request in server.requests if rewrites(request))
    dev = texts(small_dataset(tmp_path / "dataset"), "dev")
    taught = {text for text in dev if text in shown}
    first = {text for request in server.requests[:20] for text in dev if text in request["messages"][-1]["content"]}
    assert len(first) == 20, "the half that selects is asked before anything else"
    assert taught
    assert not taught & first


def test_examples_that_the_model_gets_right_are_kept_where_the_selecting_half_says_so(tmp_path: Path) -> None:
    def with_examples(request: dict[str, Any], _number: int) -> Say | None:
        turns = request["messages"]
        last = turns[-1]["content"]
        if rewrites(request):
            return Say(completion("I cannot help with that."))
        return None if len(turns) > 1 or any(f"row {n}:" in last for n in range(20)) else Say(completion('{"label": "negative"}'))

    with Loopback(with_examples) as server:
        made = build(server.url, tmp_path)
    spec = read_prompt(made.folder)
    assert {shot.inputs["text"] for shot in spec.shots} <= texts(small_dataset(tmp_path / "dataset"), "train")
    assert all(shot.label == ("positive" if "good" in shot.inputs["text"] else "negative") for shot in spec.shots)
    assert "kept: 2 bootstrapped examples" in made.findings[0].message
    assert '{"label": "negative"} or {"label": "positive"}' in spec.answer_form


def test_where_nothing_is_better_the_prompt_stays_as_it_was(tmp_path: Path) -> None:
    def stubborn(request: dict[str, Any], number: int) -> Say:
        return Say(completion(f"Try {number}." if rewrites(request) else '{"label": "negative"}'))

    with Loopback(stubborn) as server:
        made = build(server.url, tmp_path)
        plain = build(server.url, tmp_path, techniques=[Technique.ZERO_SHOT])
    kept, was = read_prompt(made.folder), read_prompt(plain.folder)
    assert kept == was.model_copy(update={"techniques": kept.techniques})
    assert "kept: the prompt as it was" in made.findings[0].message


@pytest.mark.parametrize(("fields", "calls"), [({"optimize_calls": 45}, 45), ({"optimize_usd": 60 * A_CALL_USD}, 60)])
def test_the_searchs_own_budget_ends_it_and_is_never_passed(tmp_path: Path, fields: dict[str, Any], calls: int) -> None:
    cap = Cap(1)
    with Loopback(planted) as server:
        made = build(server.url, tmp_path, cap, **fields)
    assert 5 < len(server.requests) <= calls
    assert cap.spent_usd == pytest.approx(len(server.requests) * A_CALL_USD)
    assert "ended the search" in made.findings[0].message


def test_the_runs_cap_stops_the_search_with_an_error(tmp_path: Path) -> None:
    with Loopback(planted) as server, pytest.raises(BudgetReached, match=r"raise budget\.usd"):
        build(server.url, tmp_path, Cap(30 * A_CALL_USD))
    assert len(server.requests) <= 30


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_prompt_and_repeats_at_most_what_was_under_way(root: Path, tmp_path: Path) -> None:
    def deliberate(request: dict[str, Any], _number: int) -> Say | None:
        """What is said depends on the request alone, as a replay needs it."""
        if rewrites(request):
            told = "applause" if "Try" in request["messages"][-1]["content"].partition("Here are texts")[0] else "Try"
            return Say(completion(f"```\n{told}\n```"), after_s=0.01)
        right = "applause" in request["messages"][0]["content"]
        half = "Try" in request["messages"][0]["content"] and "7: a good" in request["messages"][0]["content"]
        return None if right or half else Say(completion('{"label": "negative"}'), after_s=0.01)

    with Loopback(deliberate) as server:
        unbroken = build(server.url, tmp_path / "unbroken")
        asked = len(server.requests)
        command = [sys.executable, "-c", CHILD, server.url, str(tmp_path / "killed")]
        process = subprocess.Popen(command, env=environment(), cwd=root)
        while len(server.requests) < 1.5 * asked:
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        resumed = build(server.url, tmp_path / "killed")
        again = len(server.requests) - asked
    assert read_prompt(resumed.folder) == read_prompt(unbroken.folder)
    assert [finding.message for finding in resumed.findings] == [finding.message for finding in unbroken.findings]
    assert asked <= again <= asked + 4, "four requests were under way at most"


@pytest.mark.parametrize("misled", [False, True])
def test_examples_by_row_give_way_to_better_ones_alone_and_the_folder_keeps_what_is_shown(tmp_path: Path, misled: bool) -> None:
    def misled_by_the_nearest(request: dict[str, Any], _number: int) -> Say | None:
        *shown, last = [turn["content"] for turn in request["messages"]]
        number = last.rpartition("row ")[2]
        return Say(completion('{"label": "negative"}')) if misled and any(number in turn for turn in shown) else None

    with Loopback(misled_by_the_nearest) as server:
        made = build(server.url, tmp_path, techniques=[Technique.FEW_SHOT, Technique.OPTIMIZED], selection="bm25")
    spec = read_prompt(made.folder)
    assert (spec.pool is None, bool(spec.shots)) == (misled, misled)
    assert (made.folder / "pool.json").exists() != misled
