"""The table of tuned contenders for people: what each trained, what that took, what publishing takes, and what it adds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.records import ContenderRecord, Judgement, Lift, Searched, SweepRecord, TrainingFacts, TunedLine, Verdict
from tasks.verdict.text import DASH, escape, markdown_table, plain
from tasks.verdict.wording import p_value, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("tuned", "method", "test %", "adds, points", "trained", "s", "memory", "publish")
MARKDOWN_COLUMNS = (
    "tuned",
    "base",
    "method",
    "objective",
    "test %",
    "adds, points",
    "trained",
    "seconds",
    "peak memory",
    "to publish",
)
LEGEND = (
    "adds: over the contender named, on the same test rows, p by Holm; trained: the updates + the head; publish: without the base"
)
PARTS = {"lora": "", "head": " head", "encoder": " encoder"}


def tuned_lines(contenders: Sequence[ContenderRecord], judgement: Judgement) -> list[TunedLine]:
    """A line for each tuned contender, in the contenders' order."""
    accuracy = {line.name: line.test.accuracy for line in judgement.contenders}
    return [_line(each, each.training, accuracy[each.name]) for each in contenders if each.training and each.name in accuracy]


def tuned_table(verdict: Verdict) -> "list[RenderableType]":
    """The tuned contenders for a terminal of 80 columns or more, a table where there are two or more; and what search, seeds and
    learning curves said."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    said = [Text(note) for line in verdict.tuned for note in tuned_notes(line)]
    if len(verdict.tuned) < 2:
        return [*said]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        table.add_column(
            Text(column), justify="left" if place in (0, 1, 3) else "right", no_wrap=place not in (0, 3), overflow="fold"
        )
    for line in verdict.tuned:
        cells = _cells(line, verdict)
        table.add_row(*(Text(cells[column]) for column in COLUMNS))
    return [table, Text(LEGEND, style="dim"), *said]


def markdown_tuned(verdict: Verdict) -> list[str]:
    """The tuned contenders as paragraphs of Markdown; empty where there are none."""
    if not verdict.tuned:
        return []
    rows = [[escape(_cells(line, verdict)[column]) for column in MARKDOWN_COLUMNS] for line in verdict.tuned]
    said = [f"- {escape(note)}" for line in verdict.tuned for note in tuned_notes(line)]
    return ["## What was trained", markdown_table(MARKDOWN_COLUMNS, rows), escape(LEGEND), *(["\n".join(said)] if said else [])]


def tuned_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The tuned contenders as rows for an artifact, numbers as numbers."""
    return [_row(line, verdict) for line in verdict.tuned]


def tuned_notes(line: TunedLine) -> list[str]:
    """What search, several seeds and the learning curve of a tuned contender came to, a sentence each."""
    name, said = plain(line.contender), []
    if line.searched:
        best, given = line.searched.chosen, line.searched.as_given
        own = "the config's own was stopped early" if given is None else f"the config's own {percent(given)}"
        said.append(
            f"{name}: of {line.searched.trials} recipes ({line.searched.stopped_early} stopped early) dev chose learning rate "
            f"{best.learning_rate:.2g}, rank {best.rank}, targets {plain(best.targets)}: {percent(best.dev_accuracy or 0)}; {own}"
        )
    if line.repeats:
        several = line.repeats
        said.append(
            f"{name}: {percent(several.mean)} on dev, standard deviation {100 * several.spread:.1f} points over "
            f"{len(several.seeds)} seeds; seed {several.chosen} was taken"
        )
    return said + ([f"{name}: {plain(line.more_labels)}"] if line.more_labels else [])


def lift_words(lift: Lift) -> str:
    """Such as `+3.5 [+0.6, +6.5] over head, p = 0.02`, in points."""
    low, high = lift.comparison.interval
    gap = f"{100 * lift.comparison.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{gap} over {lift.against}, {p_value(lift.p_holm)}"


def size(count: float) -> str:
    """Bytes as `0.9 MB`."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _line(contender: ContenderRecord, facts: TrainingFacts, accuracy: float) -> TunedLine:
    curve = contender.curve
    return TunedLine(
        contender=contender.name,
        base=facts.base,
        method=f"{facts.method} ({', '.join(facts.switches)})" if facts.switches else facts.method,
        objective=facts.objective,
        accuracy=accuracy,
        parameters=facts.parameters,
        parameters_trained=facts.parameters_trained,
        trained_by_part=facts.trained_by_part,
        seconds=facts.seconds,
        peak_memory_bytes=facts.peak_memory_bytes,
        publish_bytes=facts.publish_bytes,
        searched=_searched(contender.sweep) if contender.sweep else None,
        repeats=contender.repeats,
        curve=curve.points if curve else [],
        more_labels=curve.sentence if curve else "",
    )


def _searched(sweep: SweepRecord) -> Searched:
    given = next((trial for trial in sweep.trials if trial.number == 0 and trial.outcome == "complete"), None)
    return Searched(
        trials=len(sweep.trials),
        stopped_early=sum(trial.outcome != "complete" for trial in sweep.trials),
        chosen=next(trial for trial in sweep.trials if trial.number == sweep.chosen),
        as_given=given.dev_accuracy if given else None,
        seconds=sweep.seconds,
    )


def _cells(line: TunedLine, verdict: Verdict) -> dict[str, str]:
    trained = " + ".join(f"{count:,}{PARTS[part]}" for part, count in line.trained_by_part.items())
    return {
        "tuned": plain(line.contender),
        "base": plain(line.base),
        "method": line.method,
        "objective": line.objective,
        "test %": f"{100 * line.accuracy:.1f}",
        "adds, points": "; ".join(plain(lift_words(lift)) for lift in _lifts(line, verdict)) or DASH,
        "trained": trained or f"{line.parameters_trained:,}",
        "s": f"{line.seconds:.0f}",
        "seconds": f"{line.seconds:.1f}",
        "memory": size(line.peak_memory_bytes),
        "peak memory": size(line.peak_memory_bytes),
        "publish": size(line.publish_bytes),
        "to publish": size(line.publish_bytes),
    }


def _row(line: TunedLine, verdict: Verdict) -> dict[str, Any]:
    parts = {f"{part} parameters": line.trained_by_part.get(part, 0) for part in PARTS}
    return {
        **line.model_dump(exclude={"trained_by_part", "searched", "repeats", "curve", "more_labels"}),
        "notes": "; ".join(tuned_notes(line)),
        **parts,
        "adds": "; ".join(plain(lift_words(lift)) for lift in _lifts(line, verdict)),
    }


def _lifts(line: TunedLine, verdict: Verdict) -> list[Lift]:
    return [lift for lift in verdict.lifts if lift.contender == line.contender]
