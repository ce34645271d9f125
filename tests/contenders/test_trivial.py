import math
from pathlib import Path

import numpy
import pytest

from tasks.config import Trivial
from tasks.contenders.loader import load_contender
from tasks.contenders.trivial import build_trivial, log_probabilities
from tasks.data.examples import read_examples, write_examples
from tasks.manifest import read_manifest
from tasks.records import ContenderRecord, DatasetRecord, Example
from tasks.workspace import Workspace


def test_the_majority_class_is_said_to_every_row(majority: ContenderRecord, dataset: DatasetRecord) -> None:
    test = read_examples(dataset, "test")
    answers = load_contender(majority.folder).predict(test)
    assert len(answers) == len(test)
    assert {answer.label for answer in answers} == {"negative"}  # a tie goes to the first by name
    assert answers[0].probability == 0.5


def test_tfidf_learns_and_its_probabilities_sum_to_one(tfidf: ContenderRecord, dataset: DatasetRecord) -> None:
    test = read_examples(dataset, "test")
    answers = load_contender(tfidf.folder).predict(test)
    assert sum(answer.label == row.label for answer, row in zip(answers, test, strict=True)) / len(test) > 0.9
    for answer in answers:
        assert answer.logits
        assert sum(map(math.exp, answer.logits)) == pytest.approx(1)
        assert answer.probability == pytest.approx(math.exp(max(answer.logits)))


def test_tfidf_is_stored_without_pickle_and_predicts_as_scikit_learn_does(tfidf: ContenderRecord, dataset: DatasetRecord) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    manifest = read_manifest(tfidf.folder)
    assert sorted(manifest.files) == ["vocabulary.json", "weights.safetensors"]
    train, test = (read_examples(dataset, split) for split in ("train", "test"))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    fit = LogisticRegression(C=manifest.spec["strength"], max_iter=1000)
    fit.fit(words.fit_transform([row.inputs["text"] for row in train]), [row.label for row in train])
    expected = fit.predict_log_proba(words.transform([row.inputs["text"] for row in test]))
    found = [answer.logits for answer in load_contender(tfidf.folder).predict(test)]
    numpy.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seen", [["a", "c"], ["a", "b", "c"]])
def test_labels_that_train_lacks_can_not_win(seen: list[str], tmp_path: Path) -> None:
    texts = {"a": "apple pie", "b": "blue sky", "c": "cold tea"}
    rows = [
        Example(example=f"{label}{index}", row=index + 1, inputs={"text": f"{texts[label]} {index}"}, label=label)
        for index in range(6)
        for label in seen
    ]
    for split in ("train", "dev", "test"):
        write_examples(tmp_path / f"{split}.parquet", rows)
    labels = ["a", "b", "c", "d"]
    counts = {split: len(rows) for split in ("train", "dev", "test")}
    dataset = DatasetRecord(
        fingerprint="x", folder=tmp_path, source="s", revision="1", inputs=["text"], labels=labels, rows=counts, label_rows={}
    )
    made = build_trivial(Trivial.TFIDF, dataset, Workspace(tmp_path / "home"))
    answers = load_contender(made.folder).predict(rows)
    assert [answer.label for answer in answers] == [row.label for row in rows]


def test_the_same_data_gives_the_same_contender_and_a_second_build_is_reused(
    tfidf: ContenderRecord, dataset: DatasetRecord, workspace: Workspace, tmp_path: Path
) -> None:
    assert build_trivial(Trivial.TFIDF, dataset, workspace).reused
    elsewhere = build_trivial(Trivial.TFIDF, dataset, Workspace(tmp_path))
    assert read_manifest(elsewhere.folder) == read_manifest(tfidf.folder)


def test_one_column_of_scores_means_two_labels() -> None:
    found = log_probabilities(numpy.array([[0.0], [2.0]]))
    numpy.testing.assert_allclose(numpy.exp(found), [[0.5, 0.5], [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]])
