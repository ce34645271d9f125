"""Hybrids: a tuned model and a prompt that answer together, as one contender.

    tuned/  prompt/     the two parts, whole contender folders with manifests of their own: so a hybrid can be used alone
    routing.svg         routing: what every threshold would have given on dev (`tasks/contenders/chart.py`)

The tuned part speaks first, about every row. `in_prompt` shows what it said, and how sure it is, to the prompted part, which
answers. `routing` keeps its answer where it is sure enough and asks the prompted part about the rest; if that fails, so does the
row: there is no silent way back.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import Field, ValidationError

from tasks.config import BakeoffConfig, Combination, Hybrid
from tasks.contenders.loader import load_contender
from tasks.data.predictions import read_predictions
from tasks.errors import BadConfig, IntegrityError
from tasks.manifest import FILE, ContenderManifest, read_manifest, write_manifest
from tasks.records import Answer, Arm, ContenderRecord, DatasetRecord, Example, Finding, Model, Prediction, PredictionsRecord
from tasks.settings import Places, Settings
from tasks.workspace import Building, Stage, Workspace, link

if TYPE_CHECKING:
    from tasks.prompting.ask import AskContext, Question
    from tasks.prompting.budget import Cap
    from tasks.prompting.messages import PromptSpec

logger = logging.getLogger(__name__)
HYBRID = Stage("hybrid", 2, ("tasks.contenders.hybrid", "tasks.contenders.chart"))
TUNED, PROMPT, CHART = "tuned", "prompt", "routing.svg"
NEVER, ALWAYS = 0.0, 1.1
"""Thresholds that no confidence is below, and that every one is."""
NO_HINT = (
    "hybrid {hybrid!r} tells its prompt what the tuned model says, but the template of {template!r} leaves it out: put "
    "{{{{ hint }}}} into it"
)
MOST_POINTS = 200
"""Thresholds that dev chooses among, at most; more would fit its noise and fill the manifest."""


class Point(Model):
    """What one threshold gives on dev."""

    threshold: float
    """The tuned part answers where it is at least this sure."""
    share_asked: float
    """Of the rows, the share that the prompted part is asked."""
    accuracy: float
    usd_per_1000: float | None
    """Tokens and the time of both machines, at the prices of the day; null where a price is not known."""


class HybridSpec(Model):
    """`spec` in the manifest of a hybrid."""

    combination: Combination
    hint: str = ""
    """in_prompt: the template of what the prompted part is told; it sees `label` and `percent`."""
    scale: float | None = None
    bias: dict[str, float] = {}
    """in_prompt, where the prompted part scores labels: its calibration with hints, fitted on dev; null keeps its own."""
    threshold: float = Field(NEVER, ge=0)
    """routing: the tuned part answers where it is at least this sure."""
    curve: list[Point] = []
    """routing: what dev chose among, from never asking to always asking."""


class Predicted(Protocol):
    """What of a part's evaluation is needed."""

    @property
    def predictions(self) -> PredictionsRecord: ...


def build_hybrid(
    hybrid: Hybrid,
    tuned: ContenderRecord,
    of_tuned: PredictionsRecord,
    prompt: ContenderRecord,
    of_prompt: PredictionsRecord,
    dataset: DatasetRecord,
    places: Places,
    cap: "Cap",
    workspace: Workspace,
) -> ContenderRecord:
    """The hybrid's folder, its parts inside. Routing's threshold comes from what the parts answered on dev, and asks nobody; a
    prompt that scores labels is asked about dev with hints, and calibrated anew.

    Args:
        of_tuned, of_prompt: the parts' predictions; only dev rows are read.
        places: their settings say what an hour of the machines costs, for the curve.
        cap: of what asking may cost.

    Raises:
        BadConfig: the prompt's own template does not show the hint.
        IntegrityError: the parts were not asked about the same dev rows.
        BudgetReached, EndpointError: as asking raises them.
    """
    routing, settings = hybrid.combination is Combination.ROUTING, places.settings
    prices = [settings.hourly_price(each.machine) for each in (of_tuned, of_prompt)]
    inputs = [tuned.fingerprint, prompt.fingerprint, dataset.fingerprint]
    inputs += [of_tuned.fingerprint, of_prompt.fingerprint] if routing else [of_tuned.fingerprint]
    config = {"hybrid": hybrid, "usd_per_hour": prices if routing else []}

    def asking(endpoint: str) -> "AskContext":
        from tasks.prompting.ask import AskContext

        return AskContext.of(endpoint, places, cap, workspace)

    def build(building: Building) -> ContenderRecord:
        for part, name in ((tuned, TUNED), (prompt, PROMPT)):
            for file in (*read_manifest(part.folder).files, FILE):
                link(part.folder / file, building.folder / name / file)
        if routing:
            spec = route(of_tuned, of_prompt, settings)
        else:
            spec = _calibrated(building.folder, _hinting(building.folder, hybrid), of_tuned, dataset, asking, hybrid.name)
        if routing:
            from tasks.contenders.chart import draw_routing

            draw_routing(spec.curve, spec.threshold, building.folder / CHART)
        manifest = ContenderManifest(
            name=hybrid.name,
            arm=Arm.HYBRID,
            kind="hybrid",
            labels=dataset.labels,
            inputs=dataset.inputs,
            fingerprint=building.fingerprint,
            dataset=dataset.fingerprint,
            occupies=prompt.occupies,
            spec=spec.model_dump(mode="json"),
        )
        write_manifest(building.folder, manifest)
        return ContenderRecord(
            name=hybrid.name,
            arm=Arm.HYBRID,
            kind="hybrid",
            occupies=prompt.occupies,
            training=tuned.training,
            findings=[_finding(hybrid, spec, dataset)] if routing else [],
        )

    return workspace.produce(HYBRID, inputs, config, ContenderRecord, build, f"hybrid {hybrid.name}")


def check_hints(config: BakeoffConfig, settings: Settings) -> None:
    """Raises BadConfig when a prompt is to show a hint, and its own template leaves it out: known before anybody is paid."""
    from tasks.prompting.messages import names_in
    from tasks.prompting.techniques.registry import read_template

    prompts = {prompt.name: prompt for prompt in config.prompts}
    for hybrid in config.hybrids:
        prompt = prompts[hybrid.prompt]
        if (
            hybrid.combination is Combination.IN_PROMPT
            and prompt.template
            and "hint" not in names_in(read_template(prompt, settings))
        ):
            raise BadConfig(NO_HINT.format(hybrid=hybrid.name, template=hybrid.prompt))


class HybridPredictor:
    """A hybrid's folder, loaded: both parts at hand. Raises as its parts do."""

    def __init__(self, folder: Path, manifest: ContenderManifest, ask: "AskContext", settings: Settings) -> None:
        self.folder, self.spec, self.ask = folder, read_spec(manifest), ask
        self.tuned = load_contender(folder / TUNED, settings=settings)

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in order; the prompted part is asked within the cap."""
        from tasks.prompting.ask import answer_questions

        first = self.tuned.predict(examples)
        asked = questions(self.folder, self.spec, examples, first)
        second = answer_questions(prompt_part(self.folder, self.spec), list(asked.values()), self.ask) if asked else []
        return merge(first, dict(zip(asked, second, strict=True)))


def read_spec(manifest: ContenderManifest) -> HybridSpec:
    """How a hybrid's parts work together. Raises IntegrityError when the manifest is not a hybrid's."""
    try:
        return HybridSpec.model_validate(manifest.spec)
    except ValidationError as error:
        fault = error.errors()[0]
        raise IntegrityError(f"hybrid {manifest.name!r}: {FILE}: spec.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None


def tuned_part(hybrid: ContenderRecord) -> ContenderRecord:
    """The tuned part of a hybrid as a contender by itself: the very one that it was made from, as far as its fingerprint tells."""
    folder = hybrid.folder / TUNED
    manifest = read_manifest(folder)
    return ContenderRecord(
        fingerprint=manifest.fingerprint,
        folder=folder,
        name=manifest.name,
        arm=manifest.arm,
        kind=manifest.kind,
        occupies=manifest.occupies,
    )


def prompt_part(folder: Path, spec: HybridSpec) -> "PromptSpec":
    """The prompted part of a hybrid, calibrated for what it is told there."""
    from tasks.prompting.ask import read_prompt

    prompt = read_prompt(folder / PROMPT)
    return prompt if spec.scale is None else prompt.model_copy(update={"scale": spec.scale, "bias": spec.bias})


def questions(
    folder: Path, spec: HybridSpec, examples: Sequence[Example], first: Sequence[Answer | Prediction]
) -> "dict[int, Question]":
    """What the prompted part is asked, by the row's place: every row with a hint, or those that the tuned part is not sure of.

    Args:
        first: what the tuned part said of each example.
    """
    from tasks.prompting.ask import questions_of, read_prompt

    hinted = spec.combination is Combination.IN_PROMPT
    rows = [row for row, answer in enumerate(first) if hinted or confidence(answer) < spec.threshold]
    if not rows:
        return {}
    hints = [hint(spec, first[row]) for row in rows] if hinted else ()
    prompt = folder / PROMPT
    asked = questions_of(prompt, read_prompt(prompt), [examples[row] for row in rows], hints)
    return dict(zip(rows, asked, strict=True))


def merge(first: Sequence[Answer | Prediction], second: Mapping[int, Answer]) -> list[Answer]:
    """One answer a row: the prompted part's where it was asked (the tuned part's label is its draft), else the tuned part's.

    The latency of a row that was asked is that of both parts, known where both are. Logits are left out: those of two models do
    not compare.
    """
    return [_both(answer, second[row]) if row in second else answer_of(answer) for row, answer in enumerate(first)]


def confidence(answer: Answer | Prediction) -> float:
    """How sure the tuned part is of its label, 0 to 1; 0 where it gave no usable answer."""
    usable = answer.failure is None and answer.label is not None and answer.probability is not None
    return answer.probability if usable and answer.probability and math.isfinite(answer.probability) else 0.0


def hint(spec: HybridSpec, answer: Answer | Prediction) -> str:
    """What the prompted part is told of the tuned part's answer; nothing where that is not usable."""
    sure = confidence(answer)
    return render_hint(spec, str(answer.label), f"{100 * sure:.0f}") if sure else ""


def render_hint(spec: HybridSpec, label: str, percent: str) -> str:
    """The hint's template with its two values."""
    from tasks.prompting.messages import render_text

    return render_text(spec.hint, label=label, percent=percent)


def answer_of(row: Answer | Prediction) -> Answer:
    """A row of a predictions product as the answer that it was, without logits and draft."""
    values = row.model_dump(include=set(Answer.model_fields) - {"logits", "draft"})
    return Answer.model_validate(values)


def route(of_tuned: PredictionsRecord, of_prompt: PredictionsRecord, settings: Settings) -> HybridSpec:
    """The threshold that is best on dev, and the curve that it was chosen from; of equally good ones that which asks least.

    Raises:
        IntegrityError: the parts were not asked about the same dev rows.
    """
    first, second = read_predictions(of_tuned, "dev"), read_predictions(of_prompt, "dev")
    if not first or [row.example for row in first] != [row.example for row in second]:
        raise IntegrityError(
            f"{of_tuned.contender} has {len(first)} dev rows and {of_prompt.contender} {len(second)}, not the same ones: "
            "evaluate both on this data set"
        )
    curve = routing_curve(first, second, _usd_a_row(of_tuned, settings), _usd_a_row(of_prompt, settings))
    best = max(curve, key=lambda point: (point.accuracy, -point.share_asked))
    return HybridSpec(combination=Combination.ROUTING, threshold=best.threshold, curve=curve)


def routing_curve(
    first: Sequence[Prediction], second: Sequence[Prediction], usd_first: float | None, usd_second: float | None
) -> list[Point]:
    """What each threshold would give, from never asking to always asking; thresholds lie half-way between two confidences, so that
    another machine's last digits move no row across.

    Args:
        first, second: the tuned and the prompted part's answers to the same rows.
        usd_first, usd_second: what the parts' machines cost for a row, beside tokens; None where not known.
    """
    rows = sorted(zip(map(confidence, first), first, second, strict=True), key=lambda row: row[0])
    sure = [row[0] for row in rows]
    cuts = [0, *(asked for asked in range(1, len(rows)) if sure[asked - 1] < sure[asked]), len(rows)]
    right, paid = sum(row.correct for row in first), 0.0
    points = []
    for asked in range(len(rows) + 1):
        if asked:
            _, tuned, prompted = rows[asked - 1]
            right, paid = right + prompted.correct - tuned.correct, paid + prompted.cost_usd
        usd = None
        if usd_first is not None and usd_second is not None:
            usd = 1000 * (usd_first + (paid + asked * usd_second) / len(rows))
        points.append(
            Point(threshold=_between(sure, asked), share_asked=asked / len(rows), accuracy=right / len(rows), usd_per_1000=usd)
        )
    return [points[cut] for cut in _thinned(cuts)]


def _between(sure: Sequence[float], asked: int) -> float:
    """A threshold that has the `asked` least sure rows below it and no other, `sure` being in rising order."""
    if asked in (0, len(sure)):
        return ALWAYS if asked else NEVER
    middle = (sure[asked - 1] + sure[asked]) / 2
    return middle if middle > sure[asked - 1] else sure[asked]


def _thinned(cuts: Sequence[int]) -> list[int]:
    """At most MOST_POINTS of them, evenly, the first and the last among them."""
    last, kept = len(cuts) - 1, min(len(cuts), MOST_POINTS)
    return [cuts[round(place * last / (kept - 1))] for place in range(kept)]


def _both(first: Answer | Prediction, second: Answer) -> Answer:
    times = (first.latency_ms, second.latency_ms)
    latency = None if None in times else sum(time for time in times if time is not None)
    return second.model_copy(update={"draft": first.label, "latency_ms": latency, "logits": None})


def _usd_a_row(predictions: PredictionsRecord, settings: Settings) -> float | None:
    speed = predictions.rows_per_second
    return settings.time_usd(predictions.machine, 1 / speed if speed else None)


def _hinting(folder: Path, hybrid: Hybrid) -> HybridSpec:
    """The hint's template, once the prompt was seen to show it."""
    from tasks.prompting.ask import read_prompt
    from tasks.prompting.messages import render, template_of

    spec, prompt = HybridSpec(combination=Combination.IN_PROMPT, hint=template_of("hint")), read_prompt(folder / PROMPT)
    row = dict.fromkeys(prompt.inputs, "a row")
    if render(prompt, row, hint="a hint") == render(prompt, row):
        raise BadConfig(NO_HINT.format(hybrid=hybrid.name, template=hybrid.prompt))
    return spec


def _calibrated(
    folder: Path,
    spec: HybridSpec,
    of_tuned: PredictionsRecord,
    dataset: DatasetRecord,
    asking: "Callable[[str], AskContext]",
    name: str,
) -> HybridSpec:
    """The spec with a calibration of its own where the prompted part scores labels: without hints it leans otherwise."""
    from tasks.data.examples import read_examples
    from tasks.prompting.ask import answer_questions
    from tasks.prompting.techniques.scoring import fit_to

    prompt = prompt_part(folder, spec)
    if not prompt.scored:
        return spec
    first = {row.example: row for row in read_predictions(of_tuned, "dev")}
    rows = [row for row in read_examples(dataset, "dev") if row.label is not None and row.example in first]
    plain = prompt.model_copy(update={"scale": 1.0, "bias": {}})
    asked = questions(folder, spec, rows, [first[row.example] for row in rows])
    fitted = fit_to(plain, rows, answer_questions(plain, list(asked.values()), asking(prompt.endpoint)), name)
    return spec if fitted is plain else spec.model_copy(update={"scale": fitted.scale, "bias": fitted.bias})


def _finding(hybrid: Hybrid, spec: HybridSpec, dataset: DatasetRecord) -> Finding:
    chosen = next(point for point in spec.curve if point.threshold == spec.threshold)
    asked = round(chosen.share_asked * dataset.rows["dev"])
    message = (
        f"{hybrid.tuned} answers where it is at least {spec.threshold:.4g} sure; {hybrid.prompt} is asked about "
        f"{chosen.share_asked:.1%} of the dev rows: accuracy {chosen.accuracy:.3f} on dev, against {spec.curve[0].accuracy:.3f} "
        f"without asking and {spec.curve[-1].accuracy:.3f} when always asking"
    )
    logger.info("hybrid %s: %s", hybrid.name, message)
    return Finding(kind="routing", count=asked, message=message)
