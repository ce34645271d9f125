"""`configs/imdb.yaml` runs unchanged: the Hub, OpenAI and AWS are stand-ins on loopback, asked over the wire by real clients."""

import json
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from tasks.config import load_config
from tasks.records import ContenderRecord, DatasetRecord, Decision, Record, TokensRecord, Verdict
from tasks.workspace import read_record
from tests.hub.conftest import KEY, MODEL, TOKEN, World, secrets_in
from tests.hub.making import ROWS
from tests.hub.standin import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
R = TypeVar("R", bound=Record)


class Ran(NamedTuple):
    """What a run left."""

    verdict: Verdict
    stdout: str
    stderr: str
    asked: int
    """Requests that OpenAI's stand-in got."""


def run(world: World, config: Path) -> Ran:
    before = len(world.openai.requests)
    done = world.bakeoff("run", config, "--output", "json")
    assert done.returncode == 0, done.stderr[-4000:]
    return Ran(Verdict.model_validate_json(done.stdout), done.stdout, done.stderr, len(world.openai.requests) - before)


@pytest.fixture(scope="module")
def config(root: Path) -> Path:
    return root / "configs" / "imdb.yaml"


@pytest.fixture(scope="module")
def first(world: World, config: Path) -> Ran:
    return run(world, config)


@pytest.fixture(scope="module")
def second(world: World, config: Path, first: Ran) -> Ran:
    return run(world, config)


def product(world: World, stage: str, record: type[R], name: str = "") -> R:
    """The one product of a stage (for contenders: of this name)."""
    found = [read_record(folder, record) for folder in (world.home / "workspace" / "products" / stage).iterdir()]
    (one,) = [each for each in found if not name or getattr(each, "name", "") == name]
    return one


def test_all_train_rows_teach_and_validation_is_halved_with_the_figure_on_the_whole_beside(world: World, first: Ran) -> None:
    data = product(world, "load", DatasetRecord)
    assert (data.labels, data.halved, data.findings) == (["Negative", "Positive"], True, [])
    assert data.rows["train"] == first.verdict.dataset.train == ROWS
    assert first.verdict.dataset.dev + first.verdict.dataset.test == ROWS
    assert min(first.verdict.dataset.dev, first.verdict.dataset.test) > ROWS / 3
    for contender in first.verdict.contenders:
        assert contender.whole
        assert (contender.whole.n, contender.test.n) == (ROWS, first.verdict.dataset.test)
        right = contender.dev.accuracy * contender.dev.n + contender.test.accuracy * contender.test.n
        assert contender.whole.accuracy * ROWS == pytest.approx(right)


def test_a_long_review_is_cut_on_the_left_at_512_tokens(world: World, first: Ran) -> None:
    from datasets import load_from_disk

    tokens = product(world, "tokenize", TokensRecord)
    assert tokens.rows_cut == {"train": 1, "dev": 0, "test": 0}
    (row,) = (row for row in load_from_disk(str(tokens.folder / "train")) if row["length"] == 512)
    whole = load_from_disk(str(tokens.folder / "train")).filter(lambda row: row["length"] < 512)
    assert row["input_ids"][0] == whole[0]["input_ids"][0]  # [CLS] stays in front of what is kept
    assert tokens.tokens_cut["train"] > 0


def test_the_tuned_contender_wins_and_shows_the_samples_before_and_after(world: World, config: Path, first: Ran) -> None:
    verdict = first.verdict
    assert (verdict.decision, verdict.winner) == (Decision.PUBLISH, "lora"), verdict.reason
    assert {each.name for each in verdict.contenders} == {"majority", "tfidf", "zero_shot", "few_shot", "lora"}
    lora = product(world, "train", ContenderRecord)
    assert [sample["text"] for sample in lora.samples] == load_config(config).samples
    assert {sample[when] for sample in lora.samples for when in ("before", "after")} <= {"Negative", "Positive"}
    assert lora.training
    assert (lora.training.base, len(lora.training.epochs), lora.training.batch_size) == ("distilbert-base-uncased", 10, 4)


def test_the_champion_lies_in_the_bucket_and_names_the_base_and_its_commit(world: World, first: Ran) -> None:
    champion = first.verdict.champion
    assert champion
    assert (champion.contender, champion.version) == ("lora", 1)
    stored = world.objects()
    pointer = json.loads(stored["champions/imdb/champion.json"])
    assert (pointer["sha256"], pointer["version"]) == (champion.sha256, 1)
    assert champion.uri.endswith(f"/contenders/{champion.sha256}")
    adapter = json.loads(stored[f"contenders/{champion.sha256}/adapter/adapter_config.json"])
    commit = Repository("models", "", world.hub.folders[MODEL]).commit
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("distilbert-base-uncased", commit)
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"], adapter["target_modules"]) == (4, 32, 0.01, ["q_lin"])


def test_openai_is_paid_for_every_row_of_each_prompt_and_its_cost_is_told(first: Ran) -> None:
    prompts = [each for each in first.verdict.contenders if each.arm == "prompt"]
    assert first.asked >= len(prompts) * ROWS
    assert first.verdict.spent_usd == pytest.approx(len(prompts) * ROWS * (40 * 0.15 + 8 * 0.60) / 1e6)
    assert all(each.test.failed == 0 and each.cost_usd_per_1000 for each in prompts)
    assert all(0.5 < each.whole.accuracy < 0.9 for each in prompts if each.whole)


def test_the_hub_is_asked_for_safetensors_alone_and_the_token_stays_with_it(world: World, first: Ran) -> None:
    asked = world.hub.requests
    assert any(each.path.startswith("/api/models/distilbert-base-uncased") for each in asked)  # the old name, redirected
    assert any(each.host == "localhost" and each.path.endswith("model.safetensors") for each in asked)
    assert not [str(each) for each in asked if each.method == "GET" and each.path.endswith((".bin", ".py"))]
    assert {each.token for each in asked if each.host == "localhost"} == {""}
    assert {each.token for each in asked if each.host != "localhost"} in ({f"Bearer {TOKEN}"}, {f"Bearer {TOKEN}", ""})
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in world.openai.headers)


def test_the_second_run_asks_openai_nothing_trains_nothing_and_keeps_the_winner(world: World, first: Ran, second: Ran) -> None:
    assert second.asked == 0
    assert second.verdict.spent_usd == 0
    assert (second.verdict.decision, second.verdict.winner) == (Decision.KEEP_CHAMPION, "lora")
    assert second.verdict.champion == first.verdict.champion
    assert second.verdict.dataset == first.verdict.dataset
    figures = [
        [(each.name, each.fingerprint, each.dev, each.test, each.whole) for each in ran.verdict.contenders]
        for ran in (first, second)
    ]
    assert figures[0] == figures[1]
    assert {"load", "tokenize lora", "train lora"} <= set(second.verdict.reused)
    assert {f"predictions {each.name}" for each in second.verdict.contenders} <= set(second.verdict.reused)


def test_no_secret_is_in_any_file_object_or_output(world: World, first: Ran, second: Ran) -> None:
    files = {str(path): path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    assert any(name.endswith("prefect.db") for name in files)
    outputs = {
        f"{name} of run {number}": text.encode()
        for number, ran in enumerate((first, second), 1)
        for name, text in (("stdout", ran.stdout), ("stderr", ran.stderr))
    }
    found = {name: secrets_in(content, world.s3) for name, content in {**files, **world.objects(), **outputs}.items()}
    assert {name: names for name, names in found.items() if names} == {}
    assert len(files) > 50
