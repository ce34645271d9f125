"""Looks at test are counted by contender, over runs and over data that grow."""

import json
from pathlib import Path

import pytest

from services.s3 import LocalS3
from tasks.config import BakeoffConfig, Gate
from tasks.data.examples import read_examples, write_examples
from tasks.evaluation.scores import Evaluation
from tasks.records import Approval, Arm, Champion, DatasetRecord, Decision
from tasks.settings import Places, Settings, Store
from tasks.store import StoreClient, connect
from tasks.verdict import stage
from tasks.verdict.looks import count_looks
from tasks.verdict.report import approved, withheld
from tasks.workspace import Workspace, digest
from tests.evaluation.conftest import examples
from tests.live import credentials
from tests.places import NamedPlaces
from tests.verdict.builders import contestant
from tests.verdict.test_report import verdict

ANY_KEYS = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "us-east-1"}


def evaluation(name: str, arm: Arm = Arm.TUNED) -> Evaluation:
    return Evaluation(None, contestant(name, arm, [True] * 60).scores)  # type: ignore[arg-type]


def test_a_contender_is_one_look_however_often_it_is_compared_and_a_trivial_one_none(dataset, workspace: Workspace):
    field = [evaluation("lora"), evaluation("few_shot", Arm.PROMPT), evaluation("tfidf", Arm.TRIVIAL)]
    first = count_looks(Gate(), dataset, field, None, workspace)
    assert (first.contenders, first.worn) == (2, False)
    assert count_looks(Gate(), dataset, field, field[0], workspace) == first
    assert count_looks(Gate(), dataset, field, evaluation("old"), workspace).contenders == 3


def test_data_that_grow_keep_their_looks_and_other_rows_have_none(dataset: DatasetRecord, workspace: Workspace, tmp_path: Path):
    count_looks(Gate(), dataset, [evaluation("lora")], None, workspace)
    rows = read_examples(dataset, "test")
    for name, kept, looks in (("grown", [*rows, *examples("dev")[:20]], 2), ("other", examples("train"), 1)):
        (tmp_path / name).mkdir()
        write_examples(tmp_path / name / "test.parquet", kept)
        other = dataset.model_copy(update={"folder": tmp_path / name})
        assert count_looks(Gate(), other, [evaluation(f"for {name}")], None, workspace).contenders == looks


@pytest.fixture
def store(s3_server: LocalS3, bucket: str) -> StoreClient:
    return connect("ours", Store(bucket=bucket, prefix="of/team", endpoint_url=s3_server.endpoint_url), credentials(s3_server))


def test_homes_that_publish_to_one_store_count_together(dataset, tmp_path: Path, store: StoreClient):
    mine, yours, apart = (Workspace(tmp_path / name) for name in ("mine", "yours", "apart"))
    before = [evaluation("lora"), evaluation("tfidf", Arm.TRIVIAL)]
    assert count_looks(Gate(), dataset, before, None, mine).contenders == 1  # as an earlier release counted: here alone
    assert count_looks(Gate(), dataset, [evaluation("head")], None, mine, store).contenders == 2
    assert (
        count_looks(Gate(), dataset, [evaluation("lora"), evaluation("few_shot", Arm.PROMPT)], None, yours, store).contenders == 3
    )
    assert count_looks(Gate(), dataset, [evaluation("head")], None, mine, store).contenders == 3
    assert count_looks(Gate(), dataset, [evaluation("head")], None, apart).contenders == 1
    keys = {stored.key.removeprefix("of/team/looks/").split("/")[1] for stored in store.listed("looks")}
    assert keys == {"rows.json", *(f"{evaluation(name).scores.of}.json" for name in ("lora", "head", "few_shot"))}


def test_a_fresh_home_knows_the_looks_at_the_rows_that_data_grew_from(dataset: DatasetRecord, tmp_path: Path, store: StoreClient):
    count_looks(Gate(), dataset, [evaluation("lora"), evaluation("head")], None, Workspace(tmp_path / "mine"), store)
    for name, kept, looks in (("grown", [*examples("test"), *examples("dev")[:20]], 3), ("other", examples("train"), 1)):
        (tmp_path / name).mkdir()
        write_examples(tmp_path / name / "test.parquet", kept)
        other = dataset.model_copy(update={"folder": tmp_path / name})
        fresh = Workspace(tmp_path / f"fresh-{name}")
        assert count_looks(Gate(), other, [evaluation(f"for {name}")], None, fresh, store).contenders == looks


def test_a_store_that_fails_fails_no_run_and_hears_of_the_looks_the_next_time(
    dataset, workspace: Workspace, store: StoreClient, caplog: pytest.LogCaptureFixture
):
    gone = connect("ours", store.store.model_copy(update={"bucket": "no-such-bucket"}), ANY_KEYS)
    assert count_looks(Gate(), dataset, [evaluation("lora")], None, workspace, gone).contenders == 1
    assert "counted in this workspace alone, until the next run sends them" in caplog.text
    assert count_looks(Gate(), dataset, [evaluation("head")], None, workspace, store).contenders == 2
    assert len(store.listed("looks")) == 3


def test_the_step_asks_the_store_that_the_bake_off_publishes_to_and_starts_no_embedded_one(
    dataset, workspace: Workspace, store: StoreClient, monkeypatch: pytest.MonkeyPatch
):
    opened = []

    def note(_: Places, name: str) -> StoreClient:
        opened.append(name)
        return store

    monkeypatch.setattr(stage, "open_store", note)
    settings = Settings(stores={"ours": store.store, "local": Store(bucket="bucket", service="s3")})
    for name, asked in (("local", []), ("ours", ["ours"])):
        config = BakeoffConfig.model_validate({"name": "b", "dataset": {"source": "rows.csv"}, "store": name})
        counted = stage.looks.fn(config, dataset, [evaluation("lora")], None, NamedPlaces(settings), workspace)
        assert (counted.contenders, opened) == (1, asked)


ROWS = [b"not JSON", b"[NaN]", b'["other rows"]', b"[" * 100_000, b"5", b'[["a"]]']


@pytest.mark.parametrize("body", ROWS)
def test_rows_in_the_store_that_are_not_what_their_name_says_are_left_out(
    body: bytes, dataset: DatasetRecord, workspace: Workspace, store: StoreClient, caplog: pytest.LogCaptureFixture
):
    name = digest(json.loads(body)) if body in ROWS[-2:] else "e" * 64  # its own, and no list of rows all the same
    store.write(store.key("looks", name, "rows.json"), body)
    store.write(store.key("looks", name, "f.json"), b"{}")
    store.write(store.key("looks", "no hash", "rows.json"), body)
    assert count_looks(Gate(), dataset, [evaluation("lora")], None, workspace, store).contenders == 1
    assert "is not the list of rows that its name says" in caplog.text
    [only] = (workspace.root / "looks").iterdir()
    assert only.name == digest(sorted(f"{row.example} {row.label}" for row in examples("test")))


def test_test_is_worn_after_many_contenders(dataset, workspace: Workspace):
    looks = count_looks(Gate(), dataset, [evaluation(f"lora-{number}") for number in range(28)], None, workspace)
    assert looks.worn
    assert looks.chance_of_luck > 0.5


def test_without_a_yes_nothing_is_published_whatever_the_evidence():
    made = verdict(champion=None)
    assert approved(made, Approval(approved=True, hours=24)).decision is Decision.PUBLISH
    silent = approved(made, Approval(approved=None, hours=24))
    assert (silent.decision, silent.winner, silent.route) == (Decision.NOT_ENOUGH_EVIDENCE, None, None)
    assert "nobody approved it within 24 hours" in silent.reason
    champion = Champion(uri="s3://b/c/", version=1, sha256="a" * 64, contender="old")
    refused = approved(made.model_copy(update={"champion": champion}), Approval(approved=False, by="Ann", note="too odd", hours=24))
    assert refused.decision is Decision.KEEP_CHAMPION
    assert "Ann did not approve it (too odd)" in refused.reason


def test_on_the_word_of_a_grader_that_was_not_validated_nothing_is_published_whatever_the_evidence():
    made = verdict(champion=None, grader="teacher")
    assert withheld(made, []) == made
    without = withheld(made, ["8 graded rows, 30 are needed"])
    assert (without.decision, without.winner, without.route) == (Decision.NOT_ENOUGH_EVIDENCE, None, None)
    assert "graded by teacher, which has not been validated: 8 graded rows, 30 are needed" in without.reason
    champion = Champion(uri="s3://b/c/", version=1, sha256="a" * 64, contender="old")
    assert withheld(made.model_copy(update={"champion": champion}), without.doubts).decision is Decision.KEEP_CHAMPION
