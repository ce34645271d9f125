"""The model card (`README.md`) that is published with a contender.

It holds nothing that differs between two tries of one publication (no run, no time, no champion before it): the manifest hashes it,
and the hash names what is published.
"""

import json
import re
from typing import Any

from tasks.manifest import ContenderManifest
from tasks.records import ContenderRecord, ContenderVerdict, DatasetRecord, TrainingFacts, Verdict
from tasks.settings import Endpoint

CARD = "README.md"
COMMIT = re.compile(r"^[0-9a-f]{40}$")
"""Revisions of the Hub look like this; those of files are SHA-256."""
ANY_KIND = """With Bakeoff, from a copy of this folder:

```python
from pathlib import Path

from tasks.contenders.loader import load_contender

predictor = load_contender(Path("this-folder"))
```"""
ASKING = """With Bakeoff, from a copy of this folder:

```python
from pathlib import Path

from tasks.contenders.loader import load_contender
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap
from tasks.settings import load_settings

settings = load_settings()  # names the endpoint {name}
predictor = load_contender(Path("this-folder"), AskContext(settings.endpoint({name}), Cap(1.0)), settings)
```

What the prompted part is asked:"""
TOGETHER = {
    "routing": "The tuned part (`tuned/`) answers where it is sure enough; the prompted part (`prompt/`) is asked about the rest.",
    "in_prompt": "The prompted part (`prompt/`) answers; it is shown what the tuned part (`tuned/`) says, and how sure that is.",
}


def card_text(
    manifest: ContenderManifest,
    winner: ContenderRecord,
    verdict: Verdict,
    dataset: DatasetRecord,
    endpoint: Endpoint | None = None,
    request: dict[str, Any] | None = None,
) -> str:
    """The card as Markdown under a YAML head.

    Args:
        endpoint: for prompts and hybrids: which model answers, and where.
        request: for prompts and hybrids: the body that is sent, with the inputs' names in place of their values.
    """
    from huggingface_hub import ModelCard

    line = next(line for line in verdict.contenders if line.name == winner.name)
    head = _head(manifest, winner, line, verdict, dataset).to_yaml()
    parts = [
        f"# {literal(verdict.name)}: {literal(winner.name)}",
        _summary(manifest, winner, dataset),
        _results(line, verdict),
        _together(manifest, winner) if manifest.kind == "hybrid" else "",
        _training(winner.training) if winner.training else "",
        _data(dataset),
        _loading(manifest, winner, endpoint, request),
    ]
    body = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{head}\n---\n\n{body}\n").content)


def literal(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", line)


def _head(
    manifest: ContenderManifest, winner: ContenderRecord, line: ContenderVerdict, verdict: Verdict, dataset: DatasetRecord
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    about: dict[str, Any] = {
        "task_type": "text-classification" if manifest.labels else "text-generation",
        "dataset_type": dataset.source,
        "dataset_name": dataset.source,
        "dataset_split": "test",
        "dataset_revision": dataset.revision,
    }
    figures = {"accuracy": line.test.accuracy, "f1": line.test.macro_f1}
    results = [
        EvalResult(**about, metric_type=metric, metric_name="Macro F1" if metric == "f1" else "Accuracy", metric_value=value)
        for metric, value in figures.items()
        if value is not None
    ]
    base = winner.training.base if winner.training and COMMIT.match(winner.training.revision) else None
    return ModelCardData(
        model_name=f"{verdict.name}/{winner.name}",
        base_model=base,
        datasets=[dataset.source] if COMMIT.match(dataset.revision) else None,
        eval_results=results,
        metrics=[result.metric_type for result in results],
        library_name="peft" if _adapter(winner) else None,
        pipeline_tag=about["task_type"],
        tags=["bakeoff", manifest.kind],
    )


def _summary(manifest: ContenderManifest, winner: ContenderRecord, dataset: DatasetRecord) -> str:
    rows = [
        f"Published by Bakeoff: of all contenders on the same held-out rows of {literal(dataset.source)}, this one won.",
        "",
        f"- Arm: {winner.arm} ({literal(manifest.kind)})",
        f"- Inputs: {', '.join(map(literal, manifest.inputs))}",
        f"- Labels, in the order of the logits: {', '.join(map(literal, manifest.labels)) or 'none (free text)'}",
        f"- Fingerprint: `{manifest.fingerprint}`",
        "- Licence: that of the base model and of the data; this card adds none.",
    ]
    return "\n".join(rows)


def _results(winner: ContenderVerdict, verdict: Verdict) -> str:
    rows = ["## Results on the test rows", "", "| contender | arm | accuracy | interval | macro-F1 | rows | failed |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for line in verdict.contenders:
        scores, mark = line.test, "**" if line.name == winner.name else ""
        f1 = "" if scores.macro_f1 is None else f"{scores.macro_f1:.3f}"
        low, high = scores.interval
        name = f"{mark}{literal(line.name)}{mark}"
        figures = f"{scores.accuracy:.3f} | {low:.3f} to {high:.3f} | {f1} | {scores.n} | {scores.failed}"
        rows.append(f"| {name} | {line.arm} | {figures} |")
    return "\n".join(rows)


def _training(facts: TrainingFacts) -> str:
    rows = [
        "## Training",
        "",
        f"- Base: {literal(facts.base)}, revision `{literal(facts.revision)}`",
        f"- Objective: {literal(facts.objective)}",
        f"- Method: {literal(facts.method)}; {facts.parameters_trained:,} of {facts.parameters:,} parameters trained",
        f"- Best epoch on dev: {facts.best_epoch} of {len(facts.epochs)}",
        f"- On {literal(facts.device)}, {literal(facts.dtype)}, {facts.batch_size} rows a step on the device",
    ]
    return "\n".join(rows + [f"- {literal(finding.message)}" for finding in facts.findings])


def _together(manifest: ContenderManifest, winner: ContenderRecord) -> str:
    rows = ["## How the parts work together", "", TOGETHER[manifest.spec["combination"]]]
    rows += [f"\n{literal(finding.message)}." for finding in winner.findings]
    rows += [f"\n![Accuracy against cost on dev]({name})" for name in manifest.files if name.endswith(".svg")]
    return "\n".join(rows)


def _adapter(winner: ContenderRecord) -> bool:
    """Whether the folder itself is one that PEFT reads."""
    return bool(winner.kind == "tuned" and winner.training and winner.training.method == "lora")


def _writes(manifest: ContenderManifest) -> bool:
    """Whether it answers in text, as a causal model."""
    return bool(manifest.spec.get("frame"))


def _data(dataset: DatasetRecord) -> str:
    rows = [
        "## Data",
        "",
        f"- Source: {literal(dataset.source)}, revision `{literal(dataset.revision)}`",
        f"- Fingerprint of the splits: `{dataset.fingerprint}`",
        "- Rows: " + ", ".join(f"{split} {count}" for split, count in dataset.rows.items()),
    ]
    return "\n".join(rows + [f"- {literal(finding.message)}" for finding in dataset.findings])


def _loading(
    manifest: ContenderManifest, winner: ContenderRecord, endpoint: Endpoint | None, request: dict[str, Any] | None
) -> str:
    heading = "## How to load it"
    if endpoint:
        loader = ASKING.format(name=json.dumps(manifest.occupies.removeprefix("endpoint:"))) if manifest.kind == "hybrid" else ""
        return "\n\n".join(filter(None, [heading, loader, _curl(endpoint, request)]))
    peft = _peft(winner.training, 0 if _writes(manifest) else len(manifest.labels)) if winner.training and _adapter(winner) else ""
    return "\n\n".join(filter(None, [heading, peft, ANY_KIND]))


def _peft(facts: TrainingFacts, labels: int) -> str:
    adapted = facts.objective == "self_supervised"
    base = json.dumps("this-folder/adapted" if adapted else facts.base)
    revision = "" if adapted else f"revision={json.dumps(facts.revision)}"
    auto, head = ("AutoModelForSequenceClassification", f"num_labels={labels}") if labels else ("AutoModelForCausalLM", "")
    given = ", ".join(filter(None, [base, revision, head]))
    return (
        f"```python\nfrom peft import PeftModel\nfrom transformers import {auto}, AutoTokenizer\n\n"
        f"base = {auto}.from_pretrained({given})\n"
        'model = PeftModel.from_pretrained(base, "this-folder/adapter").eval()\n'
        'tokenizer = AutoTokenizer.from_pretrained("this-folder/tokenizer")\n```'
    )


def _curl(endpoint: Endpoint, request: dict[str, Any] | None) -> str:
    """A request that anyone can send; JSON on one line cannot end the here-document early."""
    where = "$BASE_URL" if endpoint.service or not endpoint.base_url else endpoint.base_url
    key = f' -H "Authorization: Bearer ${endpoint.key_env}"' if endpoint.key_env else ""
    body = json.dumps(request, ensure_ascii=False)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", body)), 3)
    command = f"curl {where}/chat/completions -H 'Content-Type: application/json'{key} -d @- <<'REQUEST'"
    return f"{fence}sh\n{command}\n{body}\nREQUEST\n{fence}"
