"""What the rows of a run show, gathered once and kept: confusions, calibration, failures, and rows on which contenders differ."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.contenders.hybrid import PROMPT
from tasks.data.predictions import FILE
from tasks.manifest import read_manifest
from tasks.records import Arm, ContenderRecord, DatasetRecord, Example
from tasks.reporting.records import Bin, Confusion, Evidence, KeptContender, KeptRun, Reading, Said, ShownRow
from tasks.reporting.rows import NONE, Answers, examples_at, read_answers
from tasks.reporting.text import cut
from tasks.workspace import Building, Stage, Workspace, read_record

STAGE = Stage("evidence", 2, ("tasks.reporting.evidence", "tasks.reporting.rows", "tasks.reporting.text"), shared=False)
BINS = 10
ROWS_SHOWN, FAILED_SHOWN = 20, 5
RAW_AT = 300


def find_evidence(kept: KeptRun, workspace: Workspace) -> Evidence | None:
    """What the rows of a run show: found, or gathered from its products; None where these are no longer in the workspace."""
    dataset = kept.dataset.model_copy(update={"folder": workspace.root / kept.dataset_folder})
    inputs = [dataset.fingerprint, *(part for each in kept.contenders for part in (each.fingerprint, each.predictions))]
    config = {"developed": [_developed(each) for each in kept.contenders]}  # of this, a contender's fingerprint knows nothing
    found = workspace.find(STAGE, inputs, config, Evidence)
    needed = [dataset.folder / "test.parquet"]
    needed += [workspace.root / each.predictions_folder / FILE for each in kept.contenders]
    needed += [workspace.root / each.folder / "contender.json" for each in kept.contenders]
    if not found and not all(path.exists() for path in needed):
        return None

    def build(_: Building) -> Evidence:
        return gather(kept.contenders, dataset, workspace.root)

    return workspace.produce(STAGE, inputs, config, Evidence, build)


def _developed(contender: KeptContender) -> list[Any]:
    curve, sweep, repeats = contender.curve, contender.sweep, contender.repeats
    return [curve and curve.fingerprint, sweep and sweep.fingerprint, repeats and repeats.model_dump(mode="json")]


def gather(contenders: Sequence[KeptContender], dataset: DatasetRecord, root: Path) -> Evidence:
    """Read the predictions on test, and of the rows themselves those that are shown."""
    answers = [read_answers(each, root / each.predictions_folder) for each in contenders]
    labels = {label: place for place, label in enumerate(dataset.labels)}
    asked = voters(answers)
    differing, places = find_differing(asked, labels)
    failed = {each.contender.name: _failed(each) for each in answers}
    rows = examples_at(dataset, [*places, *(place for some in failed.values() for place in some)])
    raw = {each.contender.name: each.raw([*places, *failed[each.contender.name]]) for each in answers}
    free = not dataset.labels

    def shown(place: int, by: Sequence[Answers]) -> ShownRow:
        said = [_said(each, place, raw[each.contender.name][place], free) for each in by if place < len(each)]
        return _shown(rows[place], said)

    return Evidence(
        readings=[
            _reading(each, labels, [shown(place, [each]) for place in failed[each.contender.name]], root / each.contender.folder)
            for each in answers
        ],
        voters=[each.contender.name for each in asked],
        differing=differing,
        of=max(map(len, answers), default=0),
        shown=[shown(place, answers) for place in places],
    )


def voters(answers: Sequence[Answers]) -> list[Answers]:
    """Those whose disagreement is shown: the contenders that are not trivial, all of them where there are not two of these."""
    found = [each for each in answers if each.contender.arm is not Arm.TRIVIAL]
    return found if len(found) > 1 else list(answers)


def find_differing(answers: Sequence[Answers], labels: dict[str, int]) -> tuple[int, list[int]]:
    """How many test rows contenders answered differently, and the places of those to show: most evenly divided first, then in the
    data's order."""
    import numpy

    if len({tuple(each.columns["example"]) for each in answers}) != 1:  # the gate says which was scored on other rows
        return 0, []
    codes = numpy.stack([each.codes(labels) for each in answers])
    agreeing = numpy.max([(codes == codes[voter]).sum(axis=0) for voter in range(len(answers))], axis=0)
    places = numpy.flatnonzero(agreeing < len(answers))
    order = numpy.argsort(agreeing[places], kind="stable")
    return len(places), [int(place) for place in places[order][:ROWS_SHOWN]]


def confusion_of(answers: Answers, labels: dict[str, int]) -> Confusion | None:
    """None for free text."""
    if not labels:
        return None
    pairs = zip(answers.columns["reference"], answers.codes(labels).tolist(), strict=True)
    counts = Counter((labels[right], len(labels) if code == NONE else code) for right, code in pairs if right in labels)
    return Confusion(labels=list(labels), cells=[(*pair, count) for pair, count in sorted(counts.items())])


def bins_of(answers: Answers) -> list[Bin]:
    """Test rows by the probability of their answer, in ranges of equal width; empty where no answer has one."""
    pairs = [
        (probability, right)
        for probability, right in zip(answers.columns["probability"], answers.columns["correct"], strict=True)
        if probability is not None and math.isfinite(probability)
    ]
    groups: dict[int, list[tuple[float, bool]]] = {}
    for probability, right in pairs:
        groups.setdefault(min(int(probability * BINS), BINS - 1), []).append((probability, right))
    return [
        Bin(
            low=place / BINS,
            high=(place + 1) / BINS,
            rows=len(group),
            probability=sum(probability for probability, _ in group) / len(group),
            right=sum(right for _, right in group) / len(group),
        )
        for place, group in sorted(groups.items())
    ]


def _failed(answers: Answers) -> list[int]:
    return [place for place, failure in enumerate(answers.columns["failure"]) if failure][:FAILED_SHOWN]


def _reading(answers: Answers, labels: dict[str, int], failed: list[ShownRow], folder: Path) -> Reading:
    record = read_record(folder, ContenderRecord) if (folder / "record.json").exists() else None
    return Reading(
        contender=answers.contender.name,
        arm=answers.contender.arm,
        confusion=confusion_of(answers, labels),
        bins=bins_of(answers),
        failures=dict(Counter(failure for failure in answers.columns["failure"] if failure).most_common()),
        failed=failed,
        training=record.training if record else None,
        curve=answers.contender.curve,
        sweep=answers.contender.sweep,
        repeats=answers.contender.repeats,
        prompt=_prompt(folder),
    )


def _prompt(folder: Path) -> dict[str, Any] | None:
    manifest = read_manifest(folder, check_files=False)
    if manifest.kind == "hybrid":
        manifest = read_manifest(folder / PROMPT, check_files=False)
    return manifest.spec if manifest.kind == "prompt" else None


def _said(answers: Answers, place: int, raw: str, free: bool) -> Said:
    label, failure = answers.columns["label"][place], answers.columns["failure"][place]
    read = raw if free and not failure else label
    return Said(
        contender=answers.contender.name,
        label=None if read is None else cut(read, RAW_AT),
        probability=answers.columns["probability"][place],
        correct=bool(answers.columns["correct"][place]),
        failure=failure,
        raw=cut(raw, RAW_AT) if failure else None,
    )


def _shown(example: Example, said: list[Said]) -> ShownRow:
    inputs = {name: cut(text) for name, text in example.inputs.items()}
    return ShownRow(row=example.row, inputs=inputs, reference=cut(example.label or "", RAW_AT), said=said)
