"""Contenders that any other must beat: the majority class, and TF-IDF with logistic regression.

The latter is stored as plain numbers (`vocabulary.json`, `weights.safetensors`), so that loading it runs no code.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.config import Trivial
from tasks.data.examples import input_text, read_examples
from tasks.manifest import ContenderManifest, write_manifest
from tasks.records import Answer, Arm, ContenderRecord, DatasetRecord, Example
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
TRIVIAL = Stage("trivial", 1, ("tasks.contenders.trivial",))
VOCABULARY, WEIGHTS = "vocabulary.json", "weights.safetensors"
WORDS = {"ngram_range": (1, 2), "sublinear_tf": True, "strip_accents": "unicode"}
LARGEST_VOCABULARY = 50_000
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Of the regression's fit (scikit-learn's C); dev chooses."""


def build_trivial(kind: Trivial, dataset: DatasetRecord, workspace: Workspace) -> ContenderRecord:
    """The trivial contender of this kind, made from train (and dev, which chooses its strength), or found."""

    def build(building: Building) -> ContenderRecord:
        train = read_examples(dataset, "train")
        if kind is Trivial.MAJORITY:
            spec = _majority(train)
        else:
            spec = _fit(train, read_examples(dataset, "dev"), dataset.labels, building.folder)
        manifest = ContenderManifest(
            name=kind.value,
            arm=Arm.TRIVIAL,
            kind=kind.value,
            task="classification" if dataset.labels else "generation",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies="device",
            spec=spec,
        )
        write_manifest(building.folder, manifest)
        return ContenderRecord(name=kind.value, arm=Arm.TRIVIAL, kind=kind.value, occupies="device")

    return workspace.produce(TRIVIAL, [dataset.fingerprint], kind.value, ContenderRecord, build, f"trivial {kind.value}")


class MajorityPredictor:
    """Says the most frequent label of train, whatever it is asked."""

    def __init__(self, folder: Path, manifest: ContenderManifest) -> None:
        label = str(manifest.spec["label"])
        self.answer = Answer(answer=label, label=label, probability=float(manifest.spec["share"]))

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in order."""
        return [self.answer] * len(examples)


class TfidfPredictor:
    """Word and word-pair weights, and a logistic regression over them. Its logits are log-probabilities."""

    def __init__(self, folder: Path, manifest: ContenderManifest) -> None:
        from safetensors.numpy import load_file

        weights = load_file(folder / WEIGHTS)
        words = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        self.vectorizer = _vectorizer(vocabulary={word: index for index, word in enumerate(words)})
        self.vectorizer.idf_ = weights["idf"]
        self.coef, self.intercept = weights["coef"], weights["intercept"]
        self.labels = manifest.labels

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in order."""
        if not examples:
            return []
        rows = self.vectorizer.transform([input_text(example.inputs) for example in examples])
        logits = log_probabilities(rows @ self.coef.T + self.intercept)
        return [_answer(row, self.labels) for row in logits]


def log_probabilities(scores: Any) -> Any:
    """Logistic regression's scores [rows, labels, or 1 for two labels] as log-probabilities [rows, labels]."""
    import numpy
    from scipy.special import log_softmax

    if scores.shape[1] == 1:
        scores = numpy.hstack([numpy.zeros_like(scores), scores])
    return log_softmax(scores, axis=1)


def _answer(logits: Any, labels: Sequence[str]) -> Answer:
    import numpy

    best = int(logits.argmax())
    return Answer(answer=labels[best], label=labels[best], probability=float(numpy.exp(logits[best])), logits=logits.tolist())


def _majority(train: Sequence[Example]) -> dict[str, Any]:
    counts = Counter(example.label for example in train)
    label, rows = min(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return {"label": label, "share": rows / len(train)}


def _fit(train: Sequence[Example], dev: Sequence[Example], labels: Sequence[str], folder: Path) -> dict[str, Any]:
    import numpy
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression

    vectorizer = _vectorizer(max_features=LARGEST_VOCABULARY)
    rows, right = vectorizer.fit_transform(_texts(train)), _indices(train, labels)
    dev_rows, dev_right = vectorizer.transform(_texts(dev)), _indices(dev, labels)
    fits = {strength: LogisticRegression(C=strength, max_iter=1000).fit(rows, right) for strength in STRENGTHS}
    scores = {strength: float(fit.score(dev_rows, dev_right)) for strength, fit in fits.items()}
    strength = max(STRENGTHS, key=lambda each: (scores[each], -each))
    logger.info(
        "tfidf: %d words and pairs, strength %s of %s by dev accuracy %.3f", rows.shape[1], strength, STRENGTHS, scores[strength]
    )
    coef, intercept = _for_all_labels(fits[strength], len(labels))
    save_file({"idf": vectorizer.idf_, "coef": coef, "intercept": intercept}, folder / WEIGHTS)
    words = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    (folder / VOCABULARY).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    return {
        "strength": strength,
        "words": len(words),
        "dev_accuracy": round(scores[strength], 6),
        "dtype": str(numpy.dtype(coef.dtype)),
    }


def _for_all_labels(fit: Any, labels: int) -> tuple[Any, Any]:
    """Weights [labels, words] and intercepts [labels] also where train lacks a label; two labels keep their single row."""
    import numpy

    if len(fit.classes_) == labels:
        return numpy.ascontiguousarray(fit.coef_), fit.intercept_
    if len(fit.classes_) == 2:
        coef_rows, intercepts = numpy.vstack([-fit.coef_, fit.coef_]) / 2, numpy.hstack([-fit.intercept_, fit.intercept_]) / 2
    else:
        coef_rows, intercepts = fit.coef_, fit.intercept_
    coef, intercept = numpy.zeros((labels, coef_rows.shape[1])), numpy.full(labels, -1e9)
    coef[fit.classes_], intercept[fit.classes_] = coef_rows, intercepts
    return coef, intercept


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**WORDS, **options)


def _texts(examples: Sequence[Example]) -> list[str]:
    return [input_text(example.inputs) for example in examples]


def _indices(examples: Sequence[Example], labels: Sequence[str]) -> list[int]:
    return [labels.index(str(example.label)) for example in examples]
