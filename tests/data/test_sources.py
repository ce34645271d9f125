"""What a run may read, and how it is found."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import Dataset
from tasks.data.sources import find_source
from tasks.errors import BadConfig, BadData, MissingPart, OutsideRoots, Refused
from tasks.settings import Settings


@pytest.mark.parametrize("source", ["../rows.csv", "/etc/passwd", "d/../../rows.csv", "rows\0.csv", "x" * 301 + ".csv", "x" * 280])
def test_paths_out_of_the_roots_are_refused(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "rows.csv").write_text("text,label\n")

    with pytest.raises(Refused):
        find_source(Dataset(source=source), Settings(roots=[root]))


def test_a_link_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("text,label\n")
    (tmp_path / "root" / "d" / "train.csv").symlink_to(tmp_path / "secret.csv")
    (tmp_path / "root" / "rows.csv").symlink_to(tmp_path / "secret.csv")

    for source in ("d", "rows.csv"):
        with pytest.raises(OutsideRoots):
            find_source(Dataset(source=source), Settings(roots=[tmp_path / "root"]))


def test_a_folder_of_the_working_folder_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OutsideRoots, match="not a data set on the Hub"):
        find_source(Dataset(source="owner/name", revision="0" * 40), Settings(roots=[tmp_path / "root"]))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("package:json/../../x.csv", OutsideRoots),
        ("package:json//etc/x.csv", OutsideRoots),
        ("package:json/decoder.py", BadConfig),
        ("package:json/nothing.csv", BadConfig),
        ("package:no_such_package/rows.csv", MissingPart),
    ],
)
def test_only_data_files_inside_a_package_are_read(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        find_source(Dataset(source=source), Settings())


def test_a_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "noisy_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "rows.csv").write_text("text,label\n")
    monkeypatch.syspath_prepend(tmp_path)

    found = find_source(Dataset(source="package:noisy_package/data/rows.csv"), Settings())

    assert found.files == ((package / "data" / "rows.csv").resolve(),)


def test_an_unknown_ending_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("")
    (tmp_path / "empty").mkdir()

    with pytest.raises(BadConfig, match=r"\.csv, \.json, \.jsonl"):
        find_source(Dataset(source="rows.xlsx"), Settings(roots=[tmp_path]))
    with pytest.raises(BadData, match="holds no data file"):
        find_source(Dataset(source="empty"), Settings(roots=[tmp_path]))


def test_a_commit_on_the_hub_is_known_without_asking(tmp_path: Path) -> None:
    found = find_source(Dataset(source="owner/name", revision="a" * 40, subset="en"), Settings(roots=[tmp_path]))

    assert (found.revision, found.subset, found.files) == ("a" * 40, "en", ())


def test_finding_a_source_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    script = f"""
import sys
from pathlib import Path
from tasks.config import Dataset
from tasks.data import load, tokenize
from tasks.data.sources import find_source
from tasks.settings import Settings
find_source(Dataset(source="rows.csv"), Settings(roots=[Path({str(tmp_path)!r})]))
heavy = "datasets", "torch", "transformers", "pyarrow", "pandas", "numpy", "scipy", "huggingface_hub"
print([name for name in heavy if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "[]\n"
