from pathlib import Path

import pytest

from tasks.errors import BadConfig, OutsideRoots
from tasks.settings import Settings, load_settings


def test_a_file_and_the_environment_change_single_keys_of_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.yaml").write_text("endpoints: {local: {concurrency: 3}}\nstores: {aws: {bucket: from-file}}\n")
    monkeypatch.setenv("BAKEOFF_SETTINGS", str(tmp_path / "settings.yaml"))
    monkeypatch.setenv("BAKEOFF_STORES__AWS__BUCKET", "from-environment")
    settings = load_settings()
    assert settings.endpoint("local").concurrency == 3
    assert settings.endpoint("local").service == "llm"
    assert settings.store("aws").bucket == "from-environment"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(BadConfig, match="local, openai"):
        load_settings().endpoint("nowhere")
    with pytest.raises(BadConfig, match="aws, local"):
        load_settings().store("nowhere")


def test_a_store_without_a_bucket_says_which_variable_to_set() -> None:
    with pytest.raises(BadConfig, match="BAKEOFF_STORES__AWS__BUCKET"):
        load_settings().store("aws")


@pytest.mark.parametrize("text", ["endpoints: [", "usd_per_hour: {cpu: much}", "colour: red", "- a"])
def test_a_wrong_settings_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    monkeypatch.setenv("BAKEOFF_SETTINGS", str(tmp_path / "settings.yaml"))
    with pytest.raises(BadConfig, match=r"settings\.yaml"):
        load_settings()


def test_a_settings_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_SETTINGS", "/nowhere/settings.yaml")
    with pytest.raises(BadConfig, match="nowhere"):
        load_settings()


@pytest.mark.parametrize("path", ["../secret.csv", "/etc/passwd", "a\0b", "x" * 301, "link/secret.csv", "inside/../../secret.csv"])
def test_a_path_outside_the_roots_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.csv").write_text("text,label\n")
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(OutsideRoots):
        Settings(roots=[tmp_path / "root"]).readable(path)


def test_a_path_is_sought_in_every_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rows.csv").write_text("text,label\n")
    settings = Settings(roots=[tmp_path / "a", tmp_path / "b"])
    assert settings.readable("rows.csv") == (tmp_path / "b" / "rows.csv").resolve()
    with pytest.raises(BadConfig, match=r"no 'none\.csv'"):
        settings.readable("none.csv")
