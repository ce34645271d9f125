from pathlib import Path

import pytest

from tasks.config import BakeoffConfig, load_config, parse_config
from tasks.errors import BadConfig
from tasks.settings import load_settings


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_only_the_data_set_is_required() -> None:
    config = parse_config({"dataset": "owner/reviews"})
    assert config.dataset.source == "owner/reviews"
    assert config.name == "reviews"
    assert [prompt.name for prompt in config.prompts] == ["zero_shot", "few_shot"]


def test_a_config_is_named_after_its_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "My Task.yaml", "dataset: a/b")).name == "my-task"


def test_every_wrong_key_is_named_with_its_value() -> None:
    with pytest.raises(BadConfig) as refused:
        parse_config({"dataset": "a/b", "budget": {"usd": -1}, "colour": "red", "tuned": [{"name": "Not A Name"}]})
    for expected in ("budget.usd", "-1", "colour", "tuned.0.name", "Not A Name"):
        assert expected in str(refused.value)


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=r"dataset\.api_key") as refused:
        parse_config({"dataset": {"source": "a/b", "api_key": "sk-canary"}})
    assert "sk-canary" not in str(refused.value)
    monkeypatch.setenv("BAKEOFF_ENDPOINTS__OURS__MODEL", "m")
    for name in ("KEY", "KEY_ENV"):
        monkeypatch.setenv(f"BAKEOFF_ENDPOINTS__OURS__{name}", "sk-canary")
        with pytest.raises(BadConfig, match=rf"endpoints\.ours\.{name.lower()}") as refused:
            load_settings()
        assert "sk-canary" not in str(refused.value)
        monkeypatch.delenv(f"BAKEOFF_ENDPOINTS__OURS__{name}")


def test_a_label_that_yaml_reads_as_a_truth_value_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for labels in ("{yes: good, no: bad}", "{0: no, 1: yes}"):
        with pytest.raises(BadConfig, match="quote it"):
            load_config(write(tmp_path / "c.yaml", f"dataset: {{source: a/b, labels: {labels}}}"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trivial": []}, "baseline"),
        ({"prompts": [], "tuned": []}, "nothing to compare"),
        ({"tuned": [{"name": "tfidf"}]}, "tfidf"),
        ({"samples": ["x"], "dataset": {"source": "a/b", "inputs": ["q", "a"]}}, "samples"),
        ({"dataset": {"source": "a/b", "inputs": ["label"]}}, "twice"),
        ({"dataset": {"source": "a/b", "splits": {"dev_share": 0.6, "test_share": 0.5}}}, "nothing for train"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        parse_config({"dataset": "a/b", **values})


def test_overrides_reach_into_lists_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "dataset: a/b\ntuned:\n  - {name: lora}\n")
    config = load_config(path, ["tuned.0.epochs=7", "dataset.where.source=imdb", "budget.usd=0.5", "prompts=[]"])
    assert config.tuned[0].epochs == 7
    assert config.dataset.source == "a/b"
    assert config.dataset.where == {"source": "imdb"}
    assert config.budget.usd == 0.5
    assert config.prompts == []


def test_an_override_of_a_contender_that_the_file_leaves_out_changes_the_default_one(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", "dataset: a/b"), ["tuned.0.epochs=7", "prompts.1.examples=2"])
    assert (config.tuned[0].name, config.tuned[0].epochs) == ("lora", 7)
    assert [prompt.name for prompt in config.prompts] == ["zero_shot", "few_shot"]
    assert config.prompts[1].examples == 2


@pytest.mark.parametrize("override", ["epochs", "=3", "tuned.9.epochs=1", "name.deep=1", "budget.usd=[", "tuned.x=1"])
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str) -> None:
    path = write(tmp_path / "c.yaml", "dataset: a/b\nname: n\ntuned: [{name: lora}]\n")
    with pytest.raises(BadConfig, match="override"):
        load_config(path, [override])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "dataset: [", "dataset: \x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig, match=r"c\.yaml"):
        load_config(write(tmp_path / "c.yaml", text))


def test_a_missing_or_binary_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"dataset: caf\xe9")
    with pytest.raises(BadConfig, match="UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_the_form_has_a_help_text_for_every_field() -> None:
    schema = BakeoffConfig.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    without = [
        f"{part['title']}.{name}"
        for part in parts
        for name, field in part.get("properties", {}).items()
        if "description" not in field
    ]
    assert without == []


def test_the_form_has_no_unions_but_optional_values() -> None:
    schema = BakeoffConfig.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part.get("properties", {}).items():
            kinds = [kind.get("type") for kind in field.get("anyOf", [])]
            assert kinds in ([], [kinds[0], "null"] if kinds else []), f"{part['title']}.{name}"


def test_every_shipped_config_loads(root: Path) -> None:
    paths = sorted((root / "configs").glob("*.yaml"))
    assert {"quickstart", "imdb", "grader"} <= {load_config(path).name for path in paths}
