from collections import Counter
from pathlib import Path

import pytest

from tasks.config import Prompt, Technique
from tasks.data.examples import write_examples
from tasks.errors import BadConfig, BadData
from tasks.manifest import read_manifest
from tasks.prompting.ask import read_prompt
from tasks.prompting.messages import build_request
from tasks.prompting.techniques import TECHNIQUES, build_prompt
from tasks.records import DatasetRecord, Example
from tasks.workspace import Workspace
from tests.prompting.conftest import make_endpoint

LABELS = ["bad", "fine", "good"]
ENDPOINT = make_endpoint("", model="m")


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetRecord:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            Example(
                example=f"{split}{n}", row=n + 1, inputs={"text": f"{split} row {n} " + "word " * (n % 40)}, label=LABELS[n % 3]
            )
            for n in range(90)
        ]
        write_examples(folder / f"{split}.parquet", rows)
    return DatasetRecord(
        fingerprint="d" * 64,
        folder=folder,
        source="s",
        revision="r",
        inputs=["text"],
        labels=LABELS,
        rows={"train": 90, "dev": 90, "test": 90},
        label_rows={},
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


FEW = Prompt(name="few", technique=Technique.FEW_SHOT, examples=7)


def test_every_technique_has_its_function() -> None:
    assert set(TECHNIQUES) == set(Technique)


def test_the_folder_alone_renders_the_messages(dataset: DatasetRecord, workspace: Workspace) -> None:
    record = build_prompt(FEW, dataset, ENDPOINT, workspace)
    manifest = read_manifest(record.folder)
    assert (manifest.kind, manifest.occupies, record.occupies) == ("prompt", "endpoint:local", "endpoint:local")
    request = build_request(read_prompt(record.folder), {"text": "a new row"})
    assert request["messages"][-1]["content"].endswith("a new row")
    assert '{"label": "bad"} or {"label": "fine"} or {"label": "good"}' in request["messages"][0]["content"]


def test_examples_come_from_train_alone_and_are_balanced(dataset: DatasetRecord, workspace: Workspace) -> None:
    spec = read_prompt(build_prompt(FEW, dataset, ENDPOINT, workspace).folder)
    assert all(shot.inputs["text"].startswith("train row") for shot in spec.shots)
    assert sorted(Counter(shot.label for shot in spec.shots).values()) == [2, 2, 3]
    assert len({shot.inputs["text"] for shot in spec.shots}) == 7


def test_the_seed_alone_chooses_the_examples(dataset: DatasetRecord, workspace: Workspace) -> None:
    def shots(prompt: Prompt) -> list[object]:
        return list(read_prompt(build_prompt(prompt, dataset, ENDPOINT, workspace).folder).shots)

    assert shots(FEW) == shots(FEW.model_copy(update={"name": "other"}))
    assert shots(FEW) != shots(FEW.model_copy(update={"seed": 1}))


def test_rows_too_long_for_the_context_are_not_shown(dataset: DatasetRecord, workspace: Workspace) -> None:
    small = ENDPOINT.model_copy(update={"context_tokens": 512})
    spec = read_prompt(build_prompt(FEW, dataset, small, workspace).folder)
    assert len(spec.shots) == 7
    assert all(len(shot.inputs["text"].split()) < 40 for shot in spec.shots)


def test_examples_that_can_never_fit_are_refused(dataset: DatasetRecord, workspace: Workspace) -> None:
    tiny = ENDPOINT.model_copy(update={"context_tokens": 130})
    with pytest.raises(BadData, match="lower `examples`"):
        build_prompt(FEW, dataset, tiny, workspace)


def test_instructions_that_leave_no_room_are_refused(dataset: DatasetRecord, workspace: Workspace) -> None:
    with pytest.raises(BadConfig, match="shorten"):
        build_prompt(
            Prompt(name="long", instructions="word " * 3900),
            dataset,
            ENDPOINT.model_copy(update={"context_tokens": 1024}),
            workspace,
        )


def test_the_same_prompt_is_reused_and_another_model_is_not(dataset: DatasetRecord, workspace: Workspace) -> None:
    first = build_prompt(FEW, dataset, ENDPOINT, workspace)
    assert build_prompt(FEW, dataset, ENDPOINT, workspace).reused
    other = build_prompt(FEW, dataset, ENDPOINT.model_copy(update={"model": "n"}), workspace)
    assert not other.reused
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("technique", list(Technique))
@pytest.mark.parametrize("own", ["", "What is it?"])
def test_instructions_say_what_may_be_answered(
    dataset: DatasetRecord, workspace: Workspace, own: str, technique: Technique, structured: bool
) -> None:
    endpoint = ENDPOINT.model_copy(update={"json_schema": structured})
    prompt = Prompt(name="p", technique=technique, instructions=own)
    said = read_prompt(build_prompt(prompt, dataset, endpoint, workspace).folder).instructions
    assert said.startswith(own)
    assert own or all(label in said for label in LABELS)
    assert ('"label"' in said) == structured
