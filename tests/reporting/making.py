"""Runs made by hand: rows and answers are given, products lie where stages would have left them, and the rest follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from tasks.config import BakeoffConfig, Gate
from tasks.data.examples import write_examples
from tasks.data.predictions import write_table
from tasks.evaluation.predictions import join
from tasks.evaluation.scores import Evaluation, score_rows
from tasks.manifest import ContenderManifest, write_manifest
from tasks.records import (
    Answer,
    Arm,
    AskedModel,
    ContenderRecord,
    CurvePoint,
    CurveRecord,
    DatasetRecord,
    Example,
    Failure,
    Finding,
    Prediction,
    PredictionsRecord,
    Repeats,
    ScoresRecord,
    SweepRecord,
    TokensRecord,
    TrainingFacts,
    Trial,
    Verdict,
)
from tasks.reporting.runs import keep_run, runs_folder
from tasks.verdict.contestants import contestant
from tasks.verdict.decision import decide
from tasks.verdict.report import verdict_of
from tasks.workspace import digest, write_durably

DAY = datetime(2026, 11, 25, 12, tzinfo=UTC)
SPEC = {
    "endpoint": "loopback",
    "model": "m",
    "techniques": ["few_shot"],
    "instructions": "Classify {{ labels }} <b>now</b>.",
    "template": "{{ instructions }} {{ text }}",
    "shots": [{"inputs": {"text": "</pre><script>shot()</script>\r<script>carriage()</script>"}, "label": "good"}],
}
ASKED = AskedModel(
    endpoint="loopback",
    model="m",
    usd_per_million_input=0.15,
    usd_per_million_cached=0.08,
    usd_per_million_output=0.6,
    priced_by="settings",
    priced_on=date(2026, 11, 20),
    shutdown_date=None,
)
FACTS = TrainingFacts(
    base="tiny",
    revision="1",
    method="lora",
    device="cpu",
    dtype="float32",
    parameters=1000,
    parameters_trained=10,
    epochs=[
        {"epoch": 1, "loss": 0.6, "dev_accuracy": 0.7, "seconds": 1},
        {"epoch": 2, "loss": 0.4, "dev_accuracy": 0.8, "seconds": 1},
    ],
    losses=[{"epoch": 0.5, "loss": 0.7}, {"epoch": 1.5, "loss": 0.5}],
    best_epoch=2,
    seconds=2,
    rows_per_second=10,
    peak_memory_bytes=10**8,
    batch_size=8,
)


@dataclass
class Made:
    """What a run is made of: texts with their labels, and by contender what it answers to each (None: no usable answer)."""

    rows: Sequence[tuple[str, str]]
    answers: Mapping[str, tuple[Arm, Sequence[str | None]]]
    labels: Sequence[str] = ("bad", "good")
    run_id: str = "0a1b2c3d-run"
    after: int = 0
    """Minutes."""
    raw: Mapping[int, str] = field(default_factory=dict)
    """What is said to a row without a usable answer, by place."""


def make_run(root: Path, made: Made) -> Verdict:
    """Leave a run and its products in a workspace."""
    dataset = _dataset(root, made)
    examples = [
        Example(example=digest(text), row=place, inputs={"text": text}, label=label)
        for place, (text, label) in enumerate(made.rows, 1)
    ]
    write_examples(dataset.folder / "test.parquet", examples)
    evaluated = [_contender(root, made, dataset, examples, *each) for each in made.answers.items()]
    judgement = decide(Gate(minimum_rows=2), [contestant(evaluation) for _, evaluation in evaluated], None)
    judgement = judgement.model_copy(update={"fingerprint": digest(judgement)})
    verdict = verdict_of(
        judgement,
        run_id=made.run_id,
        name="made",
        dataset=dataset,
        models=[ASKED],
        contenders=[contender for contender, _ in evaluated],
        champion=None,
        spent_usd=0.01,
        reused=[],
        created=DAY + timedelta(minutes=made.after),
    )
    folder = runs_folder(root) / made.run_id
    folder.mkdir(parents=True)
    write_durably(folder / "verdict.json", verdict.model_dump_json())
    cut = Finding(kind="truncated", count=3, message="test: 3 rows were cut <i>here</i>")
    tokens = {
        contender.name: TokensRecord(base="tiny", revision="1", rows={}, tokens={}, rows_cut={}, tokens_cut={}, findings=[cut])
        for contender, _ in evaluated
        if contender.arm is Arm.TUNED
    }
    config = BakeoffConfig.model_validate({"name": "made", "dataset": {"source": "rows.csv"}})
    keep_run(made.run_id, config, dataset, evaluated, tokens, judgement, root)
    return verdict


def _dataset(root: Path, made: Made) -> DatasetRecord:
    fingerprint = digest(list(made.rows))
    folder = root / "products" / "load" / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"train": 1, "dev": len(made.rows), "test": len(made.rows)}
    facts = {"source": "rows.csv", "revision": "1", "inputs": ["text"], "labels": list(made.labels), "rows": rows}
    return DatasetRecord(fingerprint=fingerprint, folder=folder, label_rows={}, **facts)


def _contender(
    root: Path, made: Made, dataset: DatasetRecord, examples: Sequence[Example], name: str, given: tuple[Arm, Sequence[str | None]]
) -> tuple[ContenderRecord, Evaluation]:
    arm, labels = given
    print_ = digest([name, arm, dataset.fingerprint, list(labels)])
    folder = root / "products" / "train" / print_
    folder.mkdir(parents=True, exist_ok=True)
    kind = {Arm.PROMPT: "prompt", Arm.TUNED: "tuned"}.get(arm, "majority")
    manifest = {"labels": list(made.labels), "inputs": ["text"], "fingerprint": print_, "dataset": dataset.fingerprint}
    spec = SPEC if arm is Arm.PROMPT else {}
    write_manifest(folder, ContenderManifest(name=name, arm=arm, kind=kind, occupies="device", spec=spec, **manifest))
    facts = FACTS if arm is Arm.TUNED else None
    contender = ContenderRecord(fingerprint=print_, name=name, arm=arm, kind=kind, occupies="device", training=facts)
    write_durably(folder / "record.json", contender.model_dump_json())
    answers = [_answer(made, place, label, arm) for place, label in enumerate(labels)]
    rows = [row for split in ("dev", "test") for row in join(name, split, examples, answers, made.labels)]
    developed = {}
    if arm is Arm.TUNED:  # known to the run alone, as in a real one
        developed = {"repeats": REPEATS, "curve": CURVE, "sweep": SWEEP}
    return contender.model_copy(update={"folder": folder, **developed}), _evaluation(root, contender, rows, len(examples))


REPEATS = Repeats(seeds=[42, 43], dev_accuracy=[0.78, 0.8], mean=0.79, spread=0.0141, chosen=43)
CURVE = CurveRecord(
    points=[CurvePoint(share=share, rows=rows, dev_accuracy=0.8, interval=(0.7, 0.9)) for share, rows in ((0.5, 20), (1, 40))],
    intercept=0.0,
    slope=-0.3,
    gain=0.01,
    gain_interval=(-0.01, 0.03),
    sentence="twice the labels would add 1.0 points",
)
TRIED = [(1e-3, "query,value", "complete", 0.7), (3e-3, "all-linear", "complete", 0.8), (1e-2, "query,value", "diverged", None)]
SWEEP = SweepRecord(
    trials=[
        Trial(number=number, learning_rate=rate, rank=4, targets=targets, outcome=outcome, dev_accuracy=dev, epochs=[], seconds=9)
        for number, (rate, targets, outcome, dev) in enumerate(TRIED)
    ],
    chosen=1,
    seconds=27,
)


def _answer(made: Made, place: int, label: str | None, arm: Arm) -> Answer:
    sure = 0.55 + 0.4 * (place % 5) / 5 if arm is not Arm.PROMPT and label else None
    failure = None if label else Failure.INVALID
    return Answer(answer=label or made.raw.get(place, ""), label=label, probability=sure, failure=failure, latency_ms=10.0 + place)


def _evaluation(root: Path, contender: ContenderRecord, rows: list[Prediction], count: int) -> Evaluation:
    folder = root / "products" / "predictions" / digest(["predictions", contender.fingerprint])
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "predictions.parquet", rows)
    failures = {"invalid": sum(row.failure is not None for row in rows)}
    failures = {kind: number for kind, number in failures.items() if number}
    asked = {"requests": 2 * count, "spent_usd": 0.01} if contender.arm is Arm.PROMPT else {"requests": 0, "spent_usd": 0.0}
    made = PredictionsRecord(
        fingerprint=folder.name,
        folder=folder,
        contender=contender.name,
        arm=contender.arm,
        rows={"dev": count, "test": count},
        failures=failures,
        rows_per_second=100.0,
        machine="cpu",
        **asked,
    )
    by_split = {
        split: score_rows(rows[start : start + count], 100.0, 0.1, 0.05, True) for split, start in (("dev", 0), ("test", count))
    }
    scores = ScoresRecord(contender=contender.name, arm=contender.arm, of=contender.fingerprint, failures=failures, **by_split)
    return Evaluation(made, scores)
