"""How it was made: learning, findings, money, lineage, prompts."""

from collections.abc import Mapping

import yaml

from tasks.records import Verdict
from tasks.reporting.charts.drawing import slug
from tasks.reporting.parts import Chart, Code, Section, Table
from tasks.reporting.records import Evidence, KeptRun, Reading
from tasks.verdict.money_report import MONEY, money_cells
from tasks.verdict.report import model_words
from tasks.verdict.text import in_dollars
from tasks.verdict.tuned_report import lift_words, size

VERSIONS = ("bakeoff", "prefect", "torch", "transformers", "peft", "datasets", "openai", "scikit-learn", "statsmodels")
"""Packages whose versions a reader looks for first."""


def learning_section(verdict: Verdict, evidence: Evidence | None, pictures: Mapping[str, str]) -> Section | None:
    """How tuned contenders learned; None where there are none."""
    readings = [each for each in evidence.readings if each.training] if evidence else []
    if not readings and not verdict.tuned:
        return None
    charts: list[Chart] = []
    more: list[Table] = []
    for each in readings:
        drawn, tried = _search(each, pictures)
        charts += [*_curves(each, pictures), *drawn]
        more += [*tried, *_seeds(each)]
    head = ("contender", "method", "objective", "parameters trained", "of", "seconds", "memory", "to publish")
    rows = [
        [
            line.contender,
            line.method,
            line.objective,
            f"{line.parameters_trained:,}",
            f"{line.parameters:,}",
            f"{line.seconds:,.0f}",
            size(line.peak_memory_bytes),
            size(line.publish_bytes),
        ]
        for line in verdict.tuned
    ]
    tables = [Table("What training took", head, rows, words=3)] if rows else []
    tables += more
    said = [each.curve.sentence for each in readings if each.curve]
    said += [f"{lift.contender}: {lift_words(lift)}" for lift in verdict.lifts]
    return Section("How the tuned ones learned", said, charts=charts, tables=tables)


def findings_section(kept: KeptRun | None) -> Section | None:
    """What was dropped, cut or mended; None for a run that did not keep it."""
    if kept is None:
        return None
    found = [("the data set", each) for each in kept.dataset.findings]
    found += [(contender.name, each) for contender in kept.contenders for each in contender.findings]
    title = "What was dropped, cut or mended"
    if not found:
        return Section(title, ["Nothing: every row was used as it is, and none was truncated."])
    cut = sum(each.kind == "truncated" for _, each in found)
    said = [] if cut else ["No row was truncated for a tuned contender."]
    rows = [[of, each.kind.replace("_", " "), f"{each.count:,}", each.message] for of, each in found]
    return Section(title, said, tables=[Table("Findings", ("of", "what", "count", "in words"), rows, words=4)])


def cost_section(verdict: Verdict, kept: KeptRun | None) -> Section:
    """What the run cost, and what predictions cost."""
    reused = len(verdict.reused)
    said = [
        f"This run paid ${verdict.spent_usd:.4f} to endpoints" + (f"; {reused} products were there already." if reused else ".")
    ]
    tables = []
    lines = [line for line in verdict.contenders if line.money]
    if lines:
        tables.append(Table("What 1,000 predictions cost", MONEY, [money_cells(line) for line in lines]))
    paid = [each for each in kept.contenders if each.requests] if kept else []
    if paid:
        rows = [[each.name, each.machine, f"{each.requests:,}", in_dollars(each.spent_usd)] for each in paid]
        head = ("contender", "asked", "requests", "paid")
        tables.append(Table("What asking about dev and test took, when it was done", head, rows, words=2))
    return Section("What it cost", said, tables=tables)


def lineage_section(verdict: Verdict, kept: KeptRun | None, evidence: Evidence | None) -> Section:
    """What it came from, so that it can be made again."""
    rows = verdict.dataset
    facts = [
        ("run", f"{verdict.run_id}, {verdict.created:%Y-%m-%d %H:%M:%S %Z}"),
        ("rows", f"{rows.train:,} train, {rows.dev:,} dev, {rows.test:,} test"),
        ("data set", rows.fingerprint),
    ]
    champion = verdict.champion
    facts += [("champion", f"{champion.contender}, version {champion.version}, {champion.uri}")] if champion else []
    facts += [("model", model_words(each)) for each in verdict.models]
    if kept is None:
        prints = [[line.name, line.fingerprint] for line in verdict.contenders]
        said = [
            "This run kept neither its config nor its versions beside the verdict: an earlier release made it, or it was ended "
            "before they were written."
        ]
        return Section("Lineage", said, facts, [Table("Fingerprints", ("contender", "made from"), prints, words=2)])
    there = kept.environment
    packages = ", ".join(f"{name} {there.packages[name]}" for name in VERSIONS if name in there.packages)
    facts += [
        ("source", kept.dataset.source),
        ("revision", kept.dataset.revision),
        *(("base", text) for text in _bases(kept, evidence)),
        ("code", f"{there.code}{f', commit {there.commit}' if there.commit else ''}"),
        ("lock", there.lock or "none"),
        ("python", f"{there.python} on {there.platform}"),
        ("packages", packages),
    ]
    prints = [[each.name, each.fingerprint, each.predictions] for each in kept.contenders]
    table = Table("Fingerprints", ("contender", "made from", "predictions"), prints, words=3)
    config = yaml.safe_dump(kept.config, sort_keys=False, allow_unicode=True)
    versions = "\n".join(f"{name}=={version}" for name, version in there.packages.items())
    codes = [Code("The config as it was, defaults filled in", config), Code("Every installed package", versions)]
    return Section("Lineage", facts=facts, tables=[table], codes=codes)


def _bases(kept: KeptRun, evidence: Evidence | None) -> list[str]:
    """What tuned contenders were trained from, and by whom; a run of an earlier release kept it with the contenders alone."""
    trained = {each.contender: each.training for each in evidence.readings if each.training} if evidence else {}
    found: dict[str, list[str]] = {}
    for each in kept.contenders:
        facts = each if each.base else trained.get(each.name)
        if facts:
            found.setdefault(f"{facts.base}{f' at revision {facts.revision}' if facts.revision else ''}", []).append(each.name)
    return [f"{base}, of {', '.join(names)}" for base, names in found.items()]


def prompts_section(evidence: Evidence | None) -> Section | None:
    """What prompted contenders are asked with; None where there are none."""
    readings = [each for each in evidence.readings if each.prompt] if evidence else []
    if not readings:
        return None
    said = ["In a template, text and inputs stand for the row; examples are shown as turns before it."]
    return Section("Prompts", said, codes=[code for each in readings for code in _prompt(each)])


def _prompt(reading: Reading) -> list[Code]:
    spec = reading.prompt or {}
    parts = ("instructions", "answer_form", "persona", "guidelines", "definitions", "think", "review")
    told = [f"{name.replace('_', ' ')}: {spec[name]}" for name in parts if spec.get(name)]
    shots = [f"{' | '.join(shot['inputs'].values())}\n  → {shot['label']}" for shot in spec.get("shots", [])]
    about = f"{reading.contender} ({spec['model']} at {spec['endpoint']}; {', '.join(spec['techniques'])})"
    codes = [Code(f"{about}: what it is told", "\n\n".join(told)), Code(f"{reading.contender}: the template", spec["template"])]
    return codes + ([Code(f"{reading.contender}: its {len(shots)} examples", "\n\n".join(shots))] if shots else [])


def _curves(reading: Reading, pictures: Mapping[str, str]) -> list[Chart]:
    name, facts, charts = reading.contender, reading.training, []
    assert facts
    epochs = Table(
        f"{name} by epoch",
        ("epoch", "loss on train", "accuracy on dev %"),
        [[f"{each['epoch']:g}", f"{each['loss']:.4f}", f"{100 * each['dev_accuracy']:.1f}"] for each in facts.epochs],
    )
    loss = Table(
        f"{name} by step", ("epoch", "loss on train"), [[f"{each['epoch']:.2f}", f"{each['loss']:.4f}"] for each in facts.losses]
    )
    for kind, title, table in (("loss", "loss", loss), ("epochs", "accuracy on dev", epochs)):
        picture = pictures.get(slug(kind, name))
        if picture:
            charts.append(Chart(f"{name}: {title}", picture, table))
    picture = pictures.get(slug("learning", name))
    if picture and reading.curve:
        points = [
            [f"{each.rows:,}", f"{100 * each.dev_accuracy:.1f}", f"{100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}"]
            for each in reading.curve.points
        ]
        table = Table(f"{name} by train rows", ("train rows", "accuracy on dev %", "interval"), points)
        charts.append(Chart(f"{name}: with more rows", picture, table))
    return charts


def _search(reading: Reading, pictures: Mapping[str, str]) -> tuple[list[Chart], list[Table]]:
    """What the search tried: its picture with the figures, or the figures alone."""
    if not reading.sweep:
        return [], []
    head = ("trial", "targets", "outcome", "learning rate", "rank", "accuracy on dev %")
    rows = [
        [
            f"{each.number}",
            each.targets,
            each.outcome,
            f"{each.learning_rate:.3g}",
            f"{each.rank}",
            "" if each.dev_accuracy is None else f"{100 * each.dev_accuracy:.1f}",
        ]
        for each in reading.sweep.trials
    ]
    chosen = next(place for place, each in enumerate(reading.sweep.trials) if each.number == reading.sweep.chosen)
    title = f"{reading.contender}: what the search tried"
    table = Table(title, head, rows, words=3, marked=chosen)
    picture = pictures.get(slug("search", reading.contender))
    return ([Chart(title, picture, table)], []) if picture else ([], [table])


def _seeds(reading: Reading) -> list[Table]:
    if not reading.repeats:
        return []
    found = zip(reading.repeats.seeds, reading.repeats.dev_accuracy, strict=True)
    rows = [[f"{seed}", f"{100 * accuracy:.1f}"] for seed, accuracy in found]
    return [Table(f"{reading.contender}: by seed", ("seed", "accuracy on dev %"), rows)]
