import math
from collections import Counter
from pathlib import Path

import pytest

from tasks.config import Format, Prompt, Task, Technique
from tasks.data.examples import write_examples
from tasks.errors import BadConfig, BadData, EndpointError, OutsideRoots
from tasks.manifest import read_manifest
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.messages import build_request
from tasks.prompting.techniques.registry import TECHNIQUES
from tasks.prompting.techniques.registry import build_prompt as build_with
from tasks.prompting.techniques.scoring import fit_calibration
from tasks.records import ContenderRecord, DatasetRecord, Example
from tasks.settings import Endpoint, Settings, load_settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion, error

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


def build_prompt(
    prompt: Prompt, dataset: DatasetRecord, endpoint: Endpoint, workspace: Workspace, task: Task | None = None
) -> ContenderRecord:
    """Build with an endpoint that does not listen: these techniques send nothing."""
    places = NamedPlaces(load_settings(workspace.root.parent), {"local": endpoint})
    return build_with(prompt, task or Task(), dataset, places, Cap(0), workspace)


FEW = Prompt(name="few", techniques=[Technique.FEW_SHOT], examples=7)


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
@pytest.mark.parametrize("technique", [Technique.ZERO_SHOT, Technique.FEW_SHOT, Technique.PERSONA, Technique.STRUCTURED])
@pytest.mark.parametrize("own", ["", "What is it?"])
def test_messages_say_what_may_be_answered(
    dataset: DatasetRecord, workspace: Workspace, own: str, technique: Technique, structured: bool
) -> None:
    endpoint = ENDPOINT.model_copy(update={"json_schema": structured})
    prompt = Prompt(name="p", techniques=[technique], instructions=own)
    spec = read_prompt(build_prompt(prompt, dataset, endpoint, workspace).folder)
    said = build_request(spec, {"text": "a new row"})["messages"][0]["content"]
    assert own in said
    assert own or all(label in said for label in LABELS)
    assert ('"label"' in said) == structured


TOLD = Task(guidelines="Sarcasm counts as bad.", definitions={"good": "praise", "bad": "blame"}, persona="a tired critic")


@pytest.mark.parametrize("form", list(Format))
def test_techniques_compose_in_every_format(dataset: DatasetRecord, workspace: Workspace, form: Format) -> None:
    names = [Technique.DESCRIPTIVE, Technique.PERSONA, Technique.FEW_SHOT, Technique.STRUCTURED]
    prompt = Prompt(name="all", techniques=names, format=form)
    spec = read_prompt(build_prompt(prompt, dataset, ENDPOINT, workspace, TOLD).folder)
    messages = build_request(spec, {"text": "a <b>new</b> row {{ labels }}"})["messages"]
    head = messages[0]["content"]
    assert all(text in head for text in ("Sarcasm counts as bad.", "praise", "blame", "a tired critic"))
    assert len(messages) == 2 * 4 + 1
    assert "Sarcasm" not in messages[-1]["content"]
    assert {"markdown": "# Text", "xml": "&lt;b&gt;new", "json": '{"inputs": {"text": "a <b>new'}[form] in messages[-1]["content"]
    assert "{{ labels }}" in messages[-1]["content"]


def test_a_definition_of_an_unknown_label_is_refused(dataset: DatasetRecord, workspace: Workspace) -> None:
    told = Task(definitions={"superb": "praise"})
    with pytest.raises(BadConfig, match="'superb', which is no label"):
        build_prompt(Prompt(name="p", techniques=[Technique.DESCRIPTIVE]), dataset, ENDPOINT, workspace, told)


def test_a_template_of_ones_own_is_read_once_and_published_with_the_prompt(dataset: DatasetRecord, workspace: Workspace) -> None:
    file = workspace.root.parent / "mine.jinja"
    file.write_text("{% if first %}{{ instructions }}\n{% endif %}<<{{ inputs.text }}>>\n")
    mine = Prompt(name="mine", template="mine.jinja", instructions="Judge.")
    first = build_prompt(mine, dataset, ENDPOINT, workspace)
    file.write_text("{{ text }}!")
    assert build_prompt(mine, dataset, ENDPOINT, workspace).fingerprint != first.fingerprint
    assert build_request(read_prompt(first.folder), {"text": "a row"})["messages"][0]["content"] == "Judge.\n<<a row>>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ instructions }}", "does not show the row"),
        ("{{ text", "cannot be rendered"),
        ("{{ text.__class__.__mro__ }}", "cannot be rendered"),
        ("{% include '/etc/passwd' %}{{ text }}", "cannot be rendered"),
    ],
)
def test_a_template_that_is_broken_hostile_or_hides_the_row_is_refused(
    dataset: DatasetRecord, workspace: Workspace, text: str, message: str
) -> None:
    (workspace.root.parent / "mine.jinja").write_text(text)
    with pytest.raises(BadConfig, match=message):
        build_prompt(Prompt(name="mine", template="mine.jinja"), dataset, ENDPOINT, workspace)


def test_a_template_outside_of_the_allowed_roots_is_refused(dataset: DatasetRecord, workspace: Workspace) -> None:
    with pytest.raises(OutsideRoots):
        build_prompt(Prompt(name="mine", template="../../../etc/hostname"), dataset, ENDPOINT, workspace)


def test_labels_that_begin_alike_cannot_be_scored(dataset: DatasetRecord, workspace: Workspace) -> None:
    alike = dataset.model_copy(update={"labels": ["very bad", "very good"]})
    with pytest.raises(BadConfig, match="begin alike"):
        build_prompt(Prompt(name="p", techniques=[Technique.LOG_PROBABILITY]), alike, ENDPOINT, workspace)


def test_a_prompt_whose_endpoint_is_out_of_reach_on_dev_is_not_kept_uncalibrated(
    dataset: DatasetRecord, workspace: Workspace
) -> None:
    with Loopback(lambda request, number: error(500) if "row 1" in request["messages"][-1]["content"] else scored()) as server:
        asked = Prompt(name="scored", endpoint="there", techniques=[Technique.LOG_PROBABILITY])
        there = {"there": make_endpoint(server.url, attempts=1)}
        places = NamedPlaces(Settings(home=workspace.root.parent, endpoints=there), there)
        for _ in range(2):
            with pytest.raises(EndpointError, match="no reply to 11 of 90 dev rows, so scored cannot be calibrated"):
                build_with(asked, Task(), dataset, places, Cap(1), workspace)


def scored() -> Say:
    """An answer with the probabilities of its alternatives."""
    top = [
        {"token": name, "logprob": math.log(share), "bytes": None} for name, share in (("good", 0.7), ("bad", 0.2), ("fine", 0.1))
    ]
    reply = completion("good")
    reply["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return Say(reply)


def test_calibration_finds_the_bias_that_makes_dev_right() -> None:
    rows = [([-0.2, -1.7], "b"), ([-0.1, -2.3], "a"), ([-0.25, -1.5], "b"), ([-0.05, -3.0], "a")] * 20
    scale, bias = fit_calibration([logits for logits, _ in rows], [label for _, label in rows], ["a", "b"])
    shifted = [(scale * first + bias["a"], scale * second + bias["b"]) for (first, second), _ in rows]
    assert ["a" if first > second else "b" for first, second in shifted] == [label for _, label in rows]
    assert sum(bias.values()) == pytest.approx(0, abs=1e-4)
