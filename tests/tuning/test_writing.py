"""Contenders that answer in text: only completions are learned, labels are named, preferences and rewards teach more."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from statsmodels.stats.proportion import proportion_confint
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.follower import check_answers
from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Algorithm, BakeoffConfig, Kind, Method, Objective, Tuned
from tasks.contenders import export, merging
from tasks.contenders.export import export_merged
from tasks.contenders.loader import load_contender
from tasks.contenders.writing import WritingPredictor
from tasks.data.answers import same_text
from tasks.data.completions import encode_completions, encode_prompts, frame_of
from tasks.data.examples import read_examples, write_examples
from tasks.data.tokenize import load_tokenizer, tokenize
from tasks.errors import BadConfig, BadData, IntegrityError
from tasks.manifest import read_manifest
from tasks.records import SPLITS, DatasetRecord, Failure, TokensRecord
from tasks.settings import Settings
from tasks.tuning.develop import develop
from tasks.tuning.further import further
from tasks.tuning.language import complete
from tasks.tuning.language import further as further_child
from tasks.tuning.language.causal import load_causal
from tasks.tuning.language.further import FALL, ROWS_LOOKED_AT, Desk, Job, alarm
from tasks.tuning.language.pairs import Pair, find_preferences, pairs_of_grades, read_pairs, split_pairs
from tasks.tuning.tune import tune
from tasks.workspace import Workspace, digest
from tests.tiny_model import LABELS, make_base

SAID = {"positive": "bright film", "negative": "flat film"}
RECIPE = Tuned(name="t", base="tiny", learning_rate=1e-2, epochs=8, rank=16, max_tokens=32, max_answer_tokens=4)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    root = tmp_path_factory.mktemp("root")
    make_base(root / "tiny", "gpt2")
    return resolve_base("tiny", "", Settings(roots=[root]))


@pytest.fixture(scope="module")
def free(dataset: DatasetRecord, tmp_path_factory: pytest.TempPathFactory) -> DatasetRecord:
    """The tiny data set with a text of two words as its answer."""
    folder = tmp_path_factory.mktemp("free")
    for split in SPLITS:
        rows = [row.model_copy(update={"label": SAID[str(row.label)]}) for row in read_examples(dataset, split)]
        write_examples(folder / f"{split}.parquet", rows)
    return dataset.model_copy(update={"folder": folder, "labels": [], "label_rows": {}, "fingerprint": "free"})


@pytest.fixture(scope="module")
def tokens(free: DatasetRecord, causal: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> TokensRecord:
    return tokenize(RECIPE, free, causal, Workspace(tmp_path_factory.mktemp("tokens")))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The children's work in this process: what is learned is the same, and libraries are loaded once."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def run_here(module: str, request: dict[str, Any], *_: Any, **__: Any) -> Any:
        return {"complete": complete.train, "further": further_child.run}[module.rpartition(".")[2]](request)

    monkeypatch.setattr("tasks.tuning.tune.run_child", run_here)
    monkeypatch.setattr("tasks.tuning.further.run_child", run_here)


def test_the_loss_is_on_the_completion_and_its_end_alone(tokens: TokensRecord, causal: ResolvedBase) -> None:
    from datasets import Dataset

    from tasks.tuning.language.complete import collate

    rows = Dataset.load_from_disk(str(tokens.folder / "train")).select(range(2))
    batch = collate(0)(list(rows))
    for row, labels in zip(rows, batch["labels"].tolist(), strict=True):
        kept = [label for label in labels if label != -100]
        assert kept == row["input_ids"][row["label"] :]
        assert kept[-1] == load_tokenizer(causal.path).tokenizer.eos_token_id
        assert len(kept) == 3


def test_a_row_cannot_end_its_turn_and_speak_as_somebody_else(causal: ResolvedBase) -> None:
    tokenizer = load_tokenizer(causal.path).tokenizer
    frame = frame_of(tokenizer)
    [ids], _ = encode_prompts(tokenizer, frame, ["a film [SEP] superb"], 32, RECIPE.truncation_side)
    assert frame.end not in ids
    assert encode_completions(tokenizer, frame, ["flat"])[0][-1] == frame.end


def test_free_texts_are_the_same_but_for_case_punctuation_and_space() -> None:
    assert same_text(" Bright,  FILM. ", "bright film")
    assert not same_text("", "bright film")
    assert not same_text("bright", "bright film")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_a_causal_model_learns_to_write_and_its_folder_writes_the_same_again(
    method: Method,
    free: DatasetRecord,
    tokens: TokensRecord,
    causal: ResolvedBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = RECIPE.model_copy(update={"method": method, "learning_rate": 5e-3, "epochs": 12})
    made = tune(recipe, free, tokens, causal, Workspace(tmp_path))
    assert made.training
    assert made.training.epochs[-1]["dev_loss"] < made.training.epochs[0]["dev_loss"]
    settings = Settings(roots=[causal.path.parent])
    rows = read_examples(free, "test")
    answers = load_contender(made.folder, settings=_at(settings, causal)).predict(rows)
    again = load_contender(made.folder, settings=_at(settings, causal)).predict(rows[:5])
    assert [answer.answer for answer in again] == [answer.answer for answer in answers[:5]]
    right = sum(same_text(answer.answer, str(row.label)) for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) > (0.6 if method is Method.FULL else 0.1)  # LoRA on random weights learns little
    assert {answer.label for answer in answers} == {None}
    short = load_contender(made.folder, settings=_at(settings, causal))
    assert isinstance(short, WritingPredictor)
    short.spec = short.spec.model_copy(update={"max_answer_tokens": 1})
    assert short.predict(rows[:1])[0].failure == Failure.CUT
    check_answers(short, read_manifest(made.folder))  # it can be served all the same
    out, texts = tmp_path / "out", [row.inputs["text"] for row in rows]
    found = export_merged(made.folder, out, texts, _at(settings, causal))
    assert (found.checked_rows, found.prompts_alike) == (len(rows), len(rows))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    for text, answer in zip(texts[:5], answers, strict=False):
        shown = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_tensors="pt")
        said = model.generate(**shown)[0, shown["input_ids"].shape[1] :]
        assert tokenizer.decode(said, skip_special_tokens=True).strip() == answer.answer

    def damaged(*args: Any) -> None:
        merging.write_merged(*args)
        weights = load_file(args[3] / "model.safetensors")
        save_file({name: each.flip(0) for name, each in weights.items()}, args[3] / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(export, "write_merged", damaged)
    with pytest.raises(IntegrityError, match=f"in the answer to \\d+ of {len(rows)} rows"):
        export_merged(made.folder, tmp_path / "other", texts, _at(settings, causal))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_learning_curve_of_free_text_is_of_parts_and_of_the_weights_that_were_kept(
    free: DatasetRecord, tokens: TokensRecord, causal: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, trainer, most = [], complete._trainer, 10

    def seen(job: Any, model: Any, train: Any, *others: Any) -> Any:
        taught.append(len(train))
        return trainer(job, model, train, *others)

    monkeypatch.setattr(complete, "_trainer", seen)
    monkeypatch.setattr(complete, "ANSWERED_EACH_EPOCH", most)
    recipe = RECIPE.model_copy(update={"epochs": 2, "learning_curve": True})
    made = develop(recipe, free, tokens, causal, Workspace(tmp_path))
    assert made.curve
    assert made.training
    assert taught == [96, 12, 24, 48]
    assert [point.rows for point in made.curve.points] == [12, 24, 48, 96]
    kept = min(made.training.epochs, key=lambda epoch: epoch["dev_loss"])
    last = made.curve.points[-1]
    assert last.dev_accuracy == made.training.dev_accuracy == kept["dev_accuracy"]
    assert made.training.dev_rows == most
    assert last.interval == pytest.approx(proportion_confint(round(last.dev_accuracy * most), most, method="wilson"))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_causal_model_names_labels_with_logits_for_each(dataset: DatasetRecord, causal: ResolvedBase, tmp_path: Path) -> None:
    named = dataset.model_copy(update={"labels": ["flat", "bright"], "folder": tmp_path / "data", "fingerprint": "named"})
    for split in SPLITS:
        rows = [
            row.model_copy(update={"label": {"positive": "bright", "negative": "flat"}[str(row.label)]})
            for row in read_examples(dataset, split)
        ]
        named.folder.mkdir(exist_ok=True)
        write_examples(named.folder / f"{split}.parquet", rows)
    update = {"as_text": True, "method": Method.FULL, "learning_rate": 5e-3, "epochs": 12}
    tuned, space = RECIPE.model_copy(update=update), Workspace(tmp_path / "home")
    made = tune(tuned, named, tokenize(tuned, named, causal, space), causal, space)
    rows = read_examples(named, "test")
    answers = load_contender(made.folder, settings=_at(Settings(), causal)).predict(rows)
    assert all(answer.label in named.labels and len(answer.logits or []) == 2 for answer in answers)
    assert made.training
    assert made.training.calibration
    spread = [np.array(answer.logits) / made.training.calibration.temperature for answer in answers]
    assert [answer.probability for answer in answers] == pytest.approx([1 / np.exp(each - each.max()).sum() for each in spread])
    assert sum(answer.label == row.label for answer, row in zip(answers, rows, strict=True)) / len(rows) > 0.6
    found = export_merged(made.folder, tmp_path / "out", [row.inputs["text"] for row in rows], _at(Settings(), causal))
    assert (found.checked_rows, found.prompts_alike, found.largest_difference) == (len(rows), len(rows), pytest.approx(0, abs=1e-3))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("objective", "more"),
    [
        (Objective.PREFERENCES, {}),
        (Objective.PREFERENCES, {"preferences": "pairs.csv"}),
        (Objective.REINFORCEMENT, {"reinforce_steps": 3, "algorithm": Algorithm.RLOO}),
        (Objective.REINFORCEMENT, {"reinforce_steps": 3, "algorithm": Algorithm.GRPO}),
    ],
    ids=["preferences", "pairs of a file", "rloo", "grpo"],
)
def test_what_comes_after_the_supervised_step_ends_in_a_contender_without_pickled_weights(
    objective: Objective,
    more: dict[str, Any],
    free: DatasetRecord,
    tokens: TokensRecord,
    causal: ResolvedBase,
    tmp_path: Path,
) -> None:
    few = {"epochs": 1, "learning_rate": 1e-3, "most_pairs": 24}
    tuned = RECIPE.model_copy(update={"objective": objective, **few, **more})
    pairs = "".join(f"film {number},bright film,flat film\n" for number in range(10))
    (tmp_path / "pairs.csv").write_text(f"prompt,chosen,rejected\n{pairs}")
    settings = Settings(roots=[causal.path.parent, tmp_path])
    made = further(tuned, free, tokens, causal, Workspace(tmp_path / "home"), settings)
    assert made.training
    assert made.training.objective == objective
    kinds = {finding.kind for finding in made.training.findings}
    assert kinds >= ({"preferences"} if objective is Objective.PREFERENCES else {"reward_model", "reinforcement"})
    learned = next(finding for finding in made.training.findings if finding.kind in ("preferences", "reward_model"))
    assert (learned.count == 8) is ("preferences" in more)  # of ten in the file two are held out
    assert made.training.peak_memory_bytes > 0
    assert made.training.watched
    assert {path.suffix for path in made.folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".svg"}
    assert len(json.loads((made.folder / "curves.json").read_text())) > 1
    answers = load_contender(made.folder, settings=_at(Settings(), causal)).predict(read_examples(free, "test")[:4])
    assert len(answers) == 4


def test_pairs_and_the_rows_looked_at_are_of_every_class_though_the_source_is_sorted_by_label(
    dataset: DatasetRecord, causal: ResolvedBase, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        rows = read_examples(dataset, split)
        many = [row.model_copy(update={"example": digest([row.example, again])}) for again in range(3) for row in rows]
        write_examples(tmp_path / f"{split}.parquet", sorted(many, key=lambda row: str(row.label)))
    desk = desk_of(causal, tmp_path)
    assert len(desk.dev) == ROWS_LOOKED_AT
    looked_at = Counter(row.label for row in desk.dev)
    assert min(looked_at[label] for label in LABELS) > ROWS_LOOKED_AT / 4
    preferred = Counter(pair.chosen for pair in further_child.sample_pairs(desk))
    assert min(preferred[label] for label in LABELS) >= 2


def test_a_contender_that_names_labels_is_looked_at_as_it_will_answer(
    dataset: DatasetRecord, causal: ResolvedBase, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        write_examples(tmp_path / f"{split}.parquet", read_examples(dataset, split))
    desk = desk_of(causal, tmp_path)
    untrained = desk.policy().to(desk.device.name)
    assert not set(desk.say(untrained, desk.dev)) & set(LABELS)
    desk.job = desk.job.model_copy(update={"labels": LABELS})
    assert set(desk.say(untrained, desk.dev)) <= set(LABELS)
    assert further_child._score(desk, untrained) > 0


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.4, 0.5])
def test_preferences_that_make_dev_worse_leave_the_supervised_weights_and_say_so(
    after: float, dataset: DatasetRecord, causal: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.tuning.methods import trained_weights

    for split in ("train", "dev"):
        write_examples(tmp_path / f"{split}.parquet", read_examples(dataset, split)[:8])
    desk = desk_of(causal, tmp_path, preference_learning_rate=1e-2)
    policy = desk.policy().to(desk.device.name)
    supervised = {name: weight.clone() for name, weight in trained_weights(policy).items()}
    scores = iter([0.5, after])
    monkeypatch.setattr(further_child, "_score", lambda *_: next(scores))
    pairs = [Pair(f"the film {number}", "bright film", "flat film") for number in range(8)]
    findings, _ = further_child._prefer(desk, policy, pairs[2:], pairs[:2], 8)
    kept = all(weight.equal(supervised[name]) for name, weight in trained_weights(policy).items())
    assert kept is (after < 0.5)
    assert any("the supervised step's weights were kept" in finding.message for finding in findings) is kept


def test_the_alarm_hears_a_reward_that_rises_while_dev_falls_and_a_kl_beyond_its_limit() -> None:
    start = {"step": 0, "reward": 0.0, "kl": 0.0, "score": 0.5}
    good = {"step": 5, "reward": 0.1, "kl": 0.01, "score": 0.5}
    hacked = {"step": 10, "reward": 0.9, "kl": 0.02, "score": 0.5 - FALL - 0.01}
    assert alarm([start, good], 0.5) == ""
    assert "the reward rose from 0.100 to 0.900" in alarm([start, good, hacked], 0.5)
    assert alarm([start, good, hacked | {"reward": 0.05}], 0.5) == ""
    assert "over its limit of 0.01" in alarm([start, good | {"kl": 0.2}], 0.01)


def test_pairs_come_from_a_file_of_pairs_or_of_grades(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\na,good,bad\nb,good,bad\nb,same,SAME.\n")
    (tmp_path / "graded.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": p, "answer": a, "grade": g})
            for p, a, g in (("a", "x", "correct"), ("a", "y", "wrong"), ("b", "z", "0.9"), ("b", "w", "0.2"), ("c", "u", "1"))
        )
    )
    settings = Settings(roots=[tmp_path])
    for name, expected in (
        ("pairs.csv", {("a", "good", "bad"), ("b", "good", "bad")}),
        ("graded.jsonl", {("a", "x", "y"), ("b", "z", "w")}),
    ):
        tuned = RECIPE.model_copy(update={"preferences": name})
        source = find_preferences(tuned, settings)
        assert source
        assert set(read_pairs(tuned, source, tmp_path / f"cache-{name}")) == {Pair(*each) for each in expected}
    learned, held = split_pairs([Pair(str(number), "good", "bad") for number in range(10)])
    assert (len(learned), len(held)) == (8, 2)
    assert pairs_of_grades([("a", "x", 1.0), ("a", "y", 1.0)]) == []


def test_preferences_without_their_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt,good,bad\na,x,y\n")
    tuned = RECIPE.model_copy(update={"preferences": "pairs.csv"})
    source = find_preferences(tuned, Settings(roots=[tmp_path]))
    assert source
    with pytest.raises(
        BadData, match="need columns prompt, chosen, rejected or prompt, answer, grade; there are prompt, good, bad"
    ):
        read_pairs(tuned, source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuned": [{"name": "t", "method": "head"}]}, "answers in text, where there is no head to train"),
        ({"tuned": [{"name": "t", "class_weights": "balanced"}]}, "answers in text, where class_weights has no meaning"),
        (
            {"dataset": {"source": "a.csv"}, "tuned": [{"name": "t", "as_text": True, "early_stopping": 2}]},
            "where early_stopping has",
        ),
        ({"trivial": ["tfidf"]}, "trivial tfidf names labels"),
        ({"prompts": [{"name": "p", "technique": "log_probability"}]}, "technique log_probability needs labels"),
        ({"dataset": {"source": "a.csv"}, "tuned": [{"name": "t", "objective": "reinforcement"}]}, "set as_text: true"),
        ({"tuned": [{"name": "t", "objective": "preferences", "method": "full"}]}, "goes on from an adapter"),
        ({"tuned": [{"name": "t", "beta": 0.2}]}, "beta is for objective preferences, but the objective is supervised"),
        (
            {"tuned": [{"name": "t", "corpus": "texts.csv"}]},
            "corpus is for objective self_supervised, but the objective is supervised: set objective, or remove corpus",
        ),
    ],
)
def test_what_free_text_does_not_allow_is_refused_at_the_door(changes: dict, said: str) -> None:  # type: ignore[type-arg]
    given = {"dataset": {"source": "a.csv", "kind": "generation"}, "prompts": [], "tuned": [{"name": "t"}]} | changes
    with pytest.raises(ValueError, match=said):
        BakeoffConfig.model_validate(given)


def test_free_text_has_the_most_frequent_answer_as_its_trivial_contender() -> None:
    config = BakeoffConfig.model_validate({"dataset": {"source": "a.csv", "kind": "generation"}, "prompts": []})
    assert config.dataset.kind is Kind.GENERATION
    assert [str(each) for each in config.trivial] == ["majority"]
    assert len(LABELS) == 2


def desk_of(base: ResolvedBase, folder: Path, **changes: Any) -> Desk:
    """At the rows in a folder; the supervised step is an adapter that changes nothing."""
    from tasks.tuning.language.causal import choose_weights, load_causal, store

    tuned = RECIPE.model_copy(update={"objective": Objective.PREFERENCES, "most_pairs": 48} | changes)
    tokenizer = load_tokenizer(base.path).tokenizer
    vocabulary = len(tokenizer)
    model = choose_weights(load_causal(base.path, vocabulary, tokenizer.pad_token_id), tuned, base)
    store(model, tuned, base, folder / "supervised")
    return Desk(
        Job(
            tuned=tuned,
            labels=[],
            base=base,
            supervised=folder / "supervised",
            vocabulary=vocabulary,
            train=folder / "train.parquet",
            dev=folder / "dev.parquet",
            folder=folder / "made",
            work=folder / "work",
        )
    )


def _at(settings: Settings, base: ResolvedBase) -> Settings:
    return settings.model_copy(update={"roots": [base.path.parent]})


def test_a_base_without_its_last_layer_is_refused_since_it_would_be_drawn_anew_at_each_load(tmp_path: Path) -> None:
    make_base(tmp_path, "llama")  # its output layer is not its embedding, and was not stored
    with pytest.raises(BadConfig, match=r"lacks weights of a causal model \(lm_head\.weight\)"):
        load_causal(tmp_path, 20, 0)
