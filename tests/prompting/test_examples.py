import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.child import run_child
from tasks.config import Order, Prompt, Selection, Task, Technique
from tasks.data.examples import input_text, split_path, write_examples
from tasks.errors import BadConfig, BadData, EndpointError, IntegrityError
from tasks.prompting.ask import read_prompt
from tasks.prompting.budget import Cap
from tasks.prompting.techniques import pool as pools
from tasks.prompting.techniques.examples import candidates
from tasks.prompting.techniques.pool import read_pool, shot_tokens, shots_by_row
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import ContenderRecord, DatasetRecord, Example
from tasks.registry.verify import messages_sha256
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.places import NamedPlaces
from tests.prompting.conftest import make_endpoint
from tests.prompting.loopback import Loopback, Say, completion, error

LABELS = ["negative", "positive"]
TOPICS = ("submarine", "wedding", "vampire", "racing", "opera", "desert")
Build = Callable[..., ContenderRecord]


def make_row(split: str, n: int, text: str = "") -> Example:
    label = LABELS[n % 2]
    told = text or f"a {'good' if n % 2 else 'bad'} {TOPICS[n % len(TOPICS)]} film, {split} {n}"
    return Example(example=f"{split}{n:03}", row=n + 1, inputs={"text": told}, label=label)


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetRecord:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split, rows in (("train", 48), ("dev", 24), ("test", 6)):
        write_examples(folder / f"{split}.parquet", [make_row(split, n) for n in range(rows)])
    common = {"fingerprint": "d" * 64, "source": "s", "revision": "r", "inputs": ["text"], "labels": LABELS}
    return DatasetRecord(folder=folder, rows={"train": 48, "dev": 24, "test": 6}, label_rows={}, **common)


@pytest.fixture
def build(dataset: DatasetRecord, tmp_path: Path) -> Build:
    """Build a few-shot prompt; without a URL the endpoint does not listen, so that it must not be asked."""

    def with_config(url: str = "", context: int = 8192, **config: Any) -> ContenderRecord:
        endpoint = make_endpoint(url, context_tokens=context, attempts=1)
        places = NamedPlaces(load_settings(), {"local": endpoint})
        prompt = Prompt(name="few", techniques=[Technique.FEW_SHOT], **config)
        return build_prompt(prompt, Task(), dataset, places, Cap(1), Workspace(tmp_path / "workspace"))

    return with_config


def asked(text: str) -> Example:
    return Example(example="asked", row=1, inputs={"text": text}, label=None)


def shown(record: ContenderRecord, text: str) -> list[str]:
    """The examples that are shown with a row, by text."""
    spec = read_prompt(record.folder)
    return [shot.inputs["text"] for shot in shots_by_row(record.folder, spec, [asked(text)])[0]]


@pytest.mark.parametrize("selection", [Selection.BALANCED, Selection.RANDOM])
def test_fixed_examples_are_train_rows_and_grouping_only_reorders_them(build: Build, selection: Selection) -> None:
    plain = read_prompt(build(selection=selection, examples=6).folder)
    grouped = read_prompt(build(selection=selection, examples=6, order=Order.GROUPED).folder)
    assert all(", train " in shot.inputs["text"] for shot in plain.shots)
    assert Counter(map(str, plain.shots)) == Counter(map(str, grouped.shots))
    assert [shot.label for shot in grouped.shots] == sorted(shot.label for shot in plain.shots)
    assert plain.pool is None
    assert (selection is Selection.RANDOM) or Counter(shot.label for shot in plain.shots) == {"negative": 3, "positive": 3}


def test_bm25_shows_rows_that_share_the_rare_words_the_most_similar_last(build: Build) -> None:
    record = build(selection=Selection.BM25, order=Order.NEAREST_LAST, examples=3)
    texts = shown(record, "An OPERA about a bad desert, train 22")
    assert texts[-1] == "a bad opera film, train 22"
    assert all("opera" in text or "desert" in text for text in texts)
    assert texts == shown(record, "An OPERA about a bad desert, train 22")
    assert len(shown(record, "!!")) == 3  # nothing in common: still examples, the same each time


def test_the_order_of_examples_by_row_can_be_by_label_or_shuffled(build: Build) -> None:
    text = "a good wedding and a bad vampire film"
    rising, grouped, shuffled = (
        shown(build(selection=Selection.BM25, order=order, examples=8), text)
        for order in (Order.NEAREST_LAST, Order.GROUPED, Order.SHUFFLED)
    )
    assert set(rising) == set(grouped) == set(shuffled)
    assert grouped == sorted(rising, key=lambda shot: " good " in shot)  # negative first, rising within a label
    assert shuffled not in (rising, grouped)


def test_a_row_never_sees_itself(build: Build) -> None:
    record = build(selection=Selection.BM25, examples=5)
    assert all("train 7" not in text.split(", ") for text in shown(record, "A GOOD  wedding film; train 7!"))


def test_the_published_folder_alone_gives_the_same_messages_in_a_new_process(
    build: Build, dataset: DatasetRecord, tmp_path: Path
) -> None:
    record = build(selection=Selection.BM25, order=Order.NEAREST_LAST)
    published = tmp_path / "published"
    shutil.copytree(record.folder, published)
    ours = messages_sha256({"contender": str(record.folder), "examples": str(split_path(dataset, "test"))})
    shutil.rmtree(record.folder)
    request = {"contender": str(published), "examples": str(split_path(dataset, "test"))}
    assert run_child("tasks.registry.verify", request) == ours


def test_examples_that_do_not_fit_the_room_leave_from_the_least_similar(build: Build, dataset: DatasetRecord) -> None:
    rows = [make_row("train", n, f"opera {'word ' * (20 * n)}{n}") for n in range(12)]
    write_examples(split_path(dataset, "train"), rows)
    record = build(selection=Selection.BM25, order=Order.NEAREST_LAST, examples=12, context=700)
    spec = read_prompt(record.folder)
    assert spec.pool
    assert spec.pool.room == (700 - 32) // 2
    by_text = {input_text(row.inputs): row for row in rows}
    texts = shown(record, "opera 3")
    assert 0 < len(texts) < len(read_pool(record.folder).rows)
    assert sum(shot_tokens(by_text[text]) for text in texts) <= spec.pool.room
    assert texts[-1].endswith(" 3")


def test_train_rows_that_no_room_holds_are_counted_and_refused_when_none_fits(build: Build, dataset: DatasetRecord) -> None:
    long = [make_row("train", n, f"opera {n} " + "word " * 2000) for n in range(3)]
    write_examples(split_path(dataset, "train"), [*long, *(make_row("train", n) for n in range(3, 9))])
    record = build(selection=Selection.BM25, examples=2, context=1024)
    assert [(finding.kind, finding.count) for finding in record.findings] == [("too_long", 3)]
    assert len(read_pool(record.folder).rows) == 6
    write_examples(split_path(dataset, "train"), long)
    with pytest.raises(BadData, match="lower `examples`"):
        build(selection=Selection.BM25, examples=3, context=1024)


def test_a_large_pool_is_cut_by_hash_and_says_so(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MOST_ROWS", 10)
    record = build(selection=Selection.BM25)
    assert len(read_pool(record.folder).rows) == 10
    assert [(finding.kind, finding.count) for finding in record.findings] == [("pool", 38)]


def test_examples_by_row_count_in_the_room_for_a_row(build: Build) -> None:
    with pytest.raises(BadConfig, match="before any row"):
        build(selection=Selection.BM25, context=1024, instructions="word " * 800)


def few_then_right(request: dict[str, Any], number: int) -> Say:
    """Right from eight examples on, else always negative; it bills by the number of messages."""
    messages = request["messages"]
    right = "positive" if " good " in messages[-1]["content"] else "negative"
    body = completion(json.dumps({"label": right if len(messages) >= 17 else "negative"}))
    body["usage"]["prompt_tokens"] = 10 * len(messages)
    return Say(body)


def test_dev_chooses_the_number_that_does_best_and_the_cheaper_among_equals(build: Build) -> None:
    with Loopback(few_then_right) as server:
        record = build(
            server.url,
            examples=2,
            examples_tried=[16, 8],
            selections_tried=[Selection.BM25],
            orders_tried=[Order.GROUPED],
            tried_rows=10,
        )
        spec = read_prompt(record.folder)
        assert (len(spec.shots), spec.pool) == (8, None)
        assert not (record.folder / pools.FILE).exists()
        tried = [finding for finding in record.findings if finding.kind == "tried"]
        assert len(tried) == 12
        assert [finding.message.endswith("(kept)") for finding in tried].count(True) == 1
        assert "few: 8 examples, balanced, shuffled: accuracy 1.000 on 10 dev rows" in next(
            finding.message for finding in tried if finding.message.endswith("(kept)")
        )
        last = {request["messages"][-1]["content"].split(", ")[-1] for request in server.requests}
        assert len(last) == 10  # the same rows for all, and
        assert all(text.startswith("dev ") for text in last)  # no test row


def test_dev_can_choose_examples_by_row(build: Build) -> None:
    def likes_neighbours(request: dict[str, Any], number: int) -> Say:
        *examples, row = [message["content"] for message in request["messages"]]
        topic = next(topic for topic in TOPICS if topic in row)
        right = "positive" if " good " in row else "negative"
        return Say(completion(json.dumps({"label": right if len(examples) > 1 and topic in examples[-2] else "negative"})))

    with Loopback(likes_neighbours) as server:
        record = build(server.url, selections_tried=[Selection.BM25], tried_rows=12)
    spec = read_prompt(record.folder)
    assert spec.pool
    assert (spec.pool.selection, spec.shots) == (Selection.BM25, [])
    assert len(shown(record, "an opera film")) == 4


def test_nothing_is_chosen_while_the_endpoint_is_out_of_reach(build: Build) -> None:
    with Loopback(lambda request, number: error(500)) as server, pytest.raises(EndpointError, match="cannot be compared"):
        build(server.url, examples_tried=[2], tried_rows=10)


def test_candidates_differ_and_fixed_examples_have_no_nearest() -> None:
    tried = candidates(Prompt(name="p", selection="balanced", selections_tried=["bm25"], orders_tried=["nearest_last"]))
    assert [str(each) for each in tried] == [
        "4 examples, balanced, shuffled",
        "4 examples, bm25, shuffled",
        "4 examples, bm25, nearest_last",
    ]
    with pytest.raises(ValueError, match="nearest_last is for examples chosen by row"):
        Prompt(name="p", order=Order.NEAREST_LAST)


def test_nearest_is_nearest_in_meaning_wherever_the_folder_lies(build: Build, dataset: DatasetRecord, tmp_path: Path) -> None:
    """Real MiniLM: no word is shared with what is near, and the neighbours are the same alone, among others, and elsewhere."""
    texts = [
        "the soundtrack moved me to tears",
        "the engine of my car broke down",
        "pasta with tomatoes and basil",
        "the dog barked",
    ]
    write_examples(split_path(dataset, "train"), [make_row("train", n, text) for n, text in enumerate(texts)])
    record = build(selection=Selection.NEAREST, order=Order.NEAREST_LAST, examples=2)
    rows = [asked(text) for text in ("a vehicle repair", "an italian recipe", "A PUPPY made noise", "beautiful music", texts[3])]
    published = tmp_path / "published"
    shutil.copytree(record.folder, published)
    nearest = [shots[-1].inputs["text"] for shots in shots_by_row(published, read_prompt(published), rows)]
    assert nearest[:4] == [texts[1], texts[2], texts[3], texts[0]]
    assert nearest[4] != texts[3]
    pool = json.loads((published / pools.FILE).read_text())
    pool["embedder"]["weights_sha256"] = "0" * 64
    (published / pools.FILE).write_text(json.dumps(pool))
    with pytest.raises(IntegrityError, match="embedded with sentence-transformers/all-MiniLM-L6-v2"):
        shots_by_row(published, read_prompt(record.folder), rows)


def test_a_spoilt_pool_is_refused(build: Build) -> None:
    record = build(selection=Selection.BM25)
    spec = read_prompt(record.folder)
    (record.folder / pools.FILE).write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        shots_by_row(record.folder, spec, [asked("an opera")])
