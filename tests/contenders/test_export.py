"""A contender leaves for other programs: as it is, or merged into one model that answers as it does."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main
from services.bench import opened
from tasks.bases import ResolvedBase
from tasks.config import BakeoffConfig, Method, TruncationSide, Tuned
from tasks.contenders import export
from tasks.contenders.export import export_contender, export_merged
from tasks.contenders.loader import load_contender
from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import ContenderManifest, read_manifest, write_manifest
from tasks.records import Arm, ContenderRecord, DatasetRecord
from tasks.settings import Settings
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.champions import crown
from tests.tiny_model import examples, make_tokens

ROWS = examples("test", 40)
TEXTS = [row.inputs["text"] for row in ROWS]


@pytest.fixture(scope="module")
def contenders(
    base: ResolvedBase, dataset: DatasetRecord, workspace: Workspace, lora: ContenderRecord
) -> dict[str, ContenderRecord]:
    tokens = make_tokens(workspace.root, base, dataset)
    made = {"lora": lora}
    for method, more in (("head", {}), ("dora", {"dora": True, "truncation_side": TruncationSide.LEFT})):
        recipe = Tuned(name=method, base="tiny", learning_rate=0.01, epochs=1, batch_size=8, max_tokens=8)
        recipe = recipe.model_copy(update={"method": Method.LORA if more else Method(method)} | more)
        made[method] = tune(recipe, dataset, tokens, base, workspace)
    return made


@pytest.mark.parametrize("name", ["lora", "dora", "head"])
def test_a_merged_model_is_loaded_by_transformers_alone_and_answers_as_the_contender(
    name: str, contenders: dict[str, ContenderRecord], settings: Settings, tmp_path: Path
) -> None:
    folder = contenders[name].folder
    found = export_merged(folder, tmp_path / "out", TEXTS, settings)
    assert (found.checked_rows, found.merged) == (len(TEXTS), True)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".py")]
    from transformers import pipeline

    said = pipeline("text-classification", model=str(tmp_path / "out"))(TEXTS, truncation=True)
    assert [each["label"] for each in said] == [each.label for each in load_contender(folder, settings=settings).predict(ROWS)]


def test_a_contender_of_any_kind_is_exported_as_it_is_and_predicts_from_there(
    lora: ContenderRecord, tfidf: ContenderRecord, settings: Settings, tmp_path: Path
) -> None:
    for contender in (lora, tfidf):
        to = tmp_path / "deep" / contender.name
        found = export_contender(contender.folder, to)
        assert found.bytes == sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
        assert not (to / "record.json").exists()
        said, meant = (load_contender(folder, settings=settings).predict(ROWS) for folder in (to, contender.folder))
        assert said == meant


def test_where_merged_and_unmerged_differ_nothing_is_left(
    lora: ContenderRecord, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export.write_merged

    def damaged(folder: Path, manifest: Any, spec: Any, aside: Path, settings: Settings) -> None:
        from safetensors.torch import load_file, save_file

        real(folder, manifest, spec, aside, settings)
        weights = load_file(aside / "model.safetensors")
        weights["classifier.bias"] += 100 * (weights["classifier.bias"] == weights["classifier.bias"].max())
        save_file(weights, aside / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(export, "write_merged", damaged)
    with pytest.raises(IntegrityError, match=r"differ, in the answer to \d+ of 40 rows and by up to 1e\+02"):
        export_merged(lora.folder, tmp_path / "out", TEXTS, settings)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_merged_is_named(tfidf: ContenderRecord, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"'tfidf' \(a tfidf\) has no weights to merge"):
        export_merged(tfidf.folder, tmp_path / "out", TEXTS, settings)
    prompt = {"name": "ask", "arm": Arm.PROMPT, "kind": "prompt", "labels": ["a"], "inputs": ["text"], "occupies": "endpoint:x"}
    folder = tmp_path / "made"
    folder.mkdir()
    write_manifest(folder, ContenderManifest.model_validate({"fingerprint": "0", "dataset": "0"} | prompt))
    with pytest.raises(BadConfig, match=r"'ask' \(a prompt\) has no weights to merge: leave out --merged"):
        export_merged(folder, tmp_path / "out", TEXTS, settings)
    assert not (tmp_path / "out").exists()


def test_a_full_folder_and_no_rows_are_refused_and_an_empty_folder_is_taken(
    lora: ContenderRecord, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig, match="no rows to compare"):
        export_merged(lora.folder, tmp_path / "out", [], settings)
    (tmp_path / "out").mkdir()
    export_contender(lora.folder, tmp_path / "out")
    with pytest.raises(BadConfig, match="not an empty folder"):
        export_contender(lora.folder, tmp_path / "out")


def test_the_command_exports_a_folder_of_the_workspace_and_refuses_one_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    rows = "".join(f"{row.inputs['text']} {number},{row.label}\n" for number, row in enumerate(examples("any", 80)))
    (work / "rows.csv").write_text("text,label\n" + rows)
    (work / "task.yaml").write_text(
        "name: tiny\ndataset: {source: rows.csv, splits: {train_rows: 40, dev_rows: 20, test_rows: 20}}\n"
    )
    from tasks.config import Trivial, load_config
    from tasks.contenders.trivial import build_trivial
    from tasks.data.load import load
    from tasks.settings import load_settings

    workspace = Workspace(tmp_path / "home" / "workspace")
    config = load_config(work / "task.yaml", [])
    contender = build_trivial(Trivial.TFIDF, load(config.dataset, load_settings(work), workspace), workspace)
    words = ["export", "task.yaml", "--contender", str(contender.folder), "--output", "json"]
    for more, message in (
        (["--to", "rows.csv"], "not an empty folder"),
        (["--to", "out", "--version", "1"], "not both"),
        (["--to", "out", "--merged"], "no weights to merge"),
        (["--to", "out", "--contender", "/etc"], "outside the folders"),
    ):
        refused = CliRunner().invoke(main, [*words, *more])
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
        assert not (work / "out").exists()
    done = CliRunner().invoke(main, [*words, "--to", "out"])  # last, since a command that fails ends what its process would start
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(work / "out")
    assert (work / "out" / "contender.json").exists()


@pytest.mark.slow
def test_the_command_exports_the_champion_and_an_older_version_from_the_store_merged_too(
    tmp_path: Path, lora: ContenderRecord, tfidf: ContenderRecord, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKEOFF_ROOTS", str(settings.roots[0]))
    rows = "".join(f"{row.inputs['text']} {number},{row.label}\n" for number, row in enumerate(examples("any", 80)))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    (tmp_path / "task.yaml").write_text("name: tiny\ndataset: rows.csv\n")
    with opened(BakeoffConfig(name="tiny", dataset="rows.csv")) as bench:
        for contender in (lora, tfidf):
            crown(bench.places, "local", "tiny", contender)
    refused = CliRunner().invoke(main, ["export", "task.yaml", "--to", "none", "--version", "7"])
    assert (refused.exit_code, "has no version 7; there are 1, 2" in refused.stderr) == (2, True), refused.stderr
    for more, name in ([], "tfidf"), (["--version", "1"], "lora"):
        done = CliRunner().invoke(main, ["export", "task.yaml", "--to", name, "--output", "json", *more])
        assert done.exit_code == 0, done.stderr
        assert read_manifest(tmp_path / name).name == json.loads(done.stdout)["contender"] == name
    done = CliRunner().invoke(main, ["export", "task.yaml", "--to", "merged", "--version", "1", "--merged"])
    assert done.exit_code == 0, done.stderr
    assert "one model merged with its base" in done.stdout
    assert (tmp_path / "merged" / "model.safetensors").exists()
