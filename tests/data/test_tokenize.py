"""Texts become token ids, in the examples' order, with every cut counted."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks.bases import ResolvedBase
from tasks.config import TruncationSide, Tuned
from tasks.data.examples import input_text, read_examples
from tasks.data.tokenize import _features, _save, encode_texts, load_tokenizer, tokenize
from tasks.errors import BadConfig
from tasks.records import SPLITS, DatasetRecord, TokensRecord
from tasks.workspace import Workspace
from tests.data.made_rows import WORDS, make_rows

BERT = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}


def make_base(folder: Path, limit: int = 512, **special: str) -> ResolvedBase:
    """A base's folder with a word-level tokenizer that frames texts as BERT does, where it has the tokens for that."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*special.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token", WORDS[0])))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in special:
        ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=limit, **special).save_pretrained(folder)
    return ResolvedBase("tests/tiny", "r1", folder, "0" * 64)


@pytest.fixture
def base(tmp_path: Path) -> ResolvedBase:
    """A small base with BERT's special tokens."""
    return make_base(tmp_path / "base", **BERT)


@pytest.fixture
def dataset(tmp_path: Path, load_it: Callable[..., DatasetRecord]) -> DatasetRecord:
    """300 rows of twelve words."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(make_rows(300)), tmp_path / "rows.parquet")
    return load_it("rows.parquet")


def tuned(max_tokens: int = 64, side: TruncationSide = TruncationSide.RIGHT) -> Tuned:
    return Tuned(name="tiny", max_tokens=max_tokens, truncation_side=side)


def tokens_of(record: TokensRecord, split: str) -> list[dict[str, object]]:
    import datasets

    return datasets.load_from_disk(str(record.folder / split)).to_list()


def test_every_split_has_its_examples_token_ids_and_labels_in_order(
    dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace
) -> None:
    record = tokenize(tuned(), dataset, base, workspace)
    tokenizer = load_tokenizer(base.path).tokenizer

    for split in SPLITS:
        examples = read_examples(dataset, split)
        assert tokens_of(record, split) == [
            {
                "input_ids": tokenizer(input_text(row.inputs))["input_ids"],
                "label": dataset.labels.index(str(row.label)),
                "length": 14,
            }
            for row in examples
        ]
    assert record.rows == dataset.rows
    assert record.tokens == {split: 14 * count for split, count in dataset.rows.items()}
    assert set(record.rows_cut.values()) == {0}
    assert record.findings == []


@pytest.mark.parametrize("side", TruncationSide)
def test_what_is_cut_is_counted_and_said(
    side: TruncationSide, dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace
) -> None:
    record = tokenize(tuned(10, side), dataset, base, workspace)

    assert record.rows_cut == dataset.rows
    assert record.tokens_cut == {split: 4 * count for split, count in dataset.rows.items()}
    assert [found.kind for found in record.findings] == ["truncated"] * 3
    count = dataset.rows["train"]
    expected = f"train: {count} of {count} rows were cut on the {side} to 10 tokens; {4 * count} tokens (28.6%) were dropped"
    assert record.findings[0].message == expected


@pytest.mark.parametrize("side", TruncationSide)
def test_the_chosen_side_is_cut_and_the_frame_stays(side: TruncationSide, base: ResolvedBase) -> None:
    tokenizer = load_tokenizer(base.path).tokenizer
    words = WORDS[:20]

    encoded = encode_texts(tokenizer, [" ".join(words), WORDS[0]], 8, side)

    kept = words[:6] if side is TruncationSide.RIGHT else words[-6:]
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0]) == ["[CLS]", *kept, "[SEP]"]
    assert [len(ids) for ids in encoded.ids] == [8, 3]
    assert encoded.cut == [14, 0]


def test_no_texts_give_no_ids(base: ResolvedBase) -> None:
    assert encode_texts(load_tokenizer(base.path).tokenizer, [], 8, TruncationSide.LEFT).ids == []


def test_a_split_is_written_as_the_library_writes_it_and_counted(tmp_path: Path) -> None:
    import datasets

    columns = {"input_ids": [[1, 2], [3], [4, 5, 6]], "label": [0, 1, 0], "length": [2, 1, 3], "cut": [0, 2, 5]}
    encoded = datasets.Dataset.from_dict({name: rows * 700 for name, rows in columns.items()}, _features(datasets))
    assert _save(encoded, tmp_path / "ours") == {"rows": 2100, "tokens": 4200, "rows_cut": 1400, "tokens_cut": 4900}
    encoded.remove_columns("cut").save_to_disk(str(tmp_path / "theirs"))
    ours, theirs = (datasets.Dataset.load_from_disk(str(tmp_path / name)) for name in ("ours", "theirs"))
    assert ours.features == theirs.features
    assert ours.to_dict() == theirs.to_dict()
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {path.name for path in (tmp_path / "theirs").iterdir()}


def test_a_missing_pad_token_is_mended_by_one_that_the_model_has_and_said(
    tmp_path: Path, dataset: DatasetRecord, workspace: Workspace
) -> None:
    base = make_base(tmp_path / "no_pad", unk_token="<unk>", eos_token="</s>")

    loaded = load_tokenizer(base.path)

    assert loaded.tokenizer.pad_token == "</s>"
    assert len(loaded.tokenizer) == len(WORDS) + 2
    assert tokenize(tuned(), dataset, base, workspace).findings == loaded.findings
    assert loaded.findings[0].kind == "pad_token"


def test_a_pad_token_is_added_where_there_is_no_special_token_at_all(tmp_path: Path) -> None:
    loaded = load_tokenizer(make_base(tmp_path / "bare").path)

    assert loaded.tokenizer.pad_token_id == len(WORDS)
    assert "[PAD] was added" in loaded.findings[0].message


def test_a_base_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")

    with pytest.raises(BadConfig, match="no tokenizer that can be loaded"):
        load_tokenizer(tmp_path / "empty")


def test_a_tokenizer_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Mine", null]}, "tokenizer_class": "Mine"}')
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")

    with pytest.raises(BadConfig):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_more_tokens_than_the_base_takes_are_refused(tmp_path: Path, dataset: DatasetRecord, workspace: Workspace) -> None:
    with pytest.raises(BadConfig, match="max_tokens is 64, but tests/tiny takes at most 32"):
        tokenize(tuned(64), dataset, make_base(tmp_path / "short", 32, **BERT), workspace)


def test_tokens_are_reused_by_what_they_depend_on(dataset: DatasetRecord, base: ResolvedBase, workspace: Workspace) -> None:
    tokenize(tuned(), dataset, base, workspace)
    same = Tuned(name="other", max_tokens=64, rank=2)

    assert tokenize(same, dataset, base, workspace).reused
    assert not tokenize(tuned(32), dataset, base, workspace).reused
    assert not tokenize(tuned(side=TruncationSide.LEFT), dataset, base, workspace).reused
    assert not tokenize(tuned(), dataset, ResolvedBase("tests/tiny", "r2", base.path, "0" * 64), workspace).reused
    assert not tokenize(tuned(), dataset.model_copy(update={"fingerprint": "f" * 64}), base, workspace).reused


KILLED = """
import sys
from pathlib import Path
from tasks.bases import ResolvedBase
from tasks.config import Tuned
from tasks.data.tokenize import tokenize
from tasks.progress import listening
from tasks.records import DatasetRecord
from tasks.workspace import Workspace, read_record

def stop(bar):
    if bar.done >= 1000:
        print("half way", flush=True)
        sys.stdin.read()

dataset = read_record(Path(sys.argv[1]), DatasetRecord)
base = ResolvedBase("tests/tiny", "r1", Path(sys.argv[2]), "0" * 64)
with listening(stop):
    tokenize(Tuned(name="tiny", max_tokens=64), dataset, base, Workspace(Path(sys.argv[3])))
"""


@pytest.mark.slow
def test_no_half_product_is_reused_after_a_kill_in_the_middle(
    tmp_path: Path, load_it: Callable[..., DatasetRecord], base: ResolvedBase, workspace: Workspace
) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(make_rows(5000)), tmp_path / "many.parquet")
    dataset = load_it("many.parquet", near_duplicates=0)
    command = [sys.executable, "-c", KILLED, str(dataset.folder), str(base.path), str(workspace.root)]

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "half way\n"
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL

    left = [path for path in workspace.root.rglob("*") if path.is_file() and "inprogress/tokenize" in path.as_posix()]
    assert left, "the kill came before anything was written"
    assert not list(workspace.root.glob("products/tokenize/*"))
    record = tokenize(tuned(), dataset, base, workspace)
    unbroken = tokenize(tuned(), dataset, base, Workspace(tmp_path / "unbroken"))
    assert not record.reused
    assert [tokens_of(record, split) for split in SPLITS] == [tokens_of(unbroken, split) for split in SPLITS]
    assert sorted(path.name for path in record.folder.iterdir()) == ["dev", "record.json", "test", "train"]
