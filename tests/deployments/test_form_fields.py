"""What a form in Prefect's UI can say, by the list of its fields: a new field of free text is to be looked at, and added here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.register import declare
from tasks.config import BakeoffConfig
from tasks.errors import Refused
from tasks.settings import Settings

CONFIG = BakeoffConfig.model_validate({"dataset": "owner/name"})
OPERATORS = {"url", "uri", "host", "port", "bucket", "region", "profile", "key", "secret", "password", "credential", "credentials"}
OPERATORS |= {"env", "environment", "variable", "variables", "command", "home", "roots", "root", "prefixes", "header", "headers"}
"""Words of fields that only the operator's settings may have."""
FILES = {
    "Dataset.source",
    "Prompt.template",
    "Tuned.base",
    "Tuned.corpus",
    "Tuned.preferences",
    "Drift.incoming",
    "Quality.fresh",
    "grade.input_file",
    "predict.input_path",
}
"""Files that a run reads: all through `Settings.readable`, which keeps to the operator's folders."""
RESULTS = {"grade.output_file", "predict.output_path"}
"""Files that a run writes: a plain name, in the worker's home."""
WORDS = {
    *(f"Dataset.{name}" for name in ("inputs", "label", "labels", "revision", "subset", "where", "cluster", "slices")),
    *(f"Splits.{name}" for name in ("train", "dev", "test")),
    *(f"Task.{name}" for name in ("instructions", "guidelines", "definitions", "persona", "answers")),
    *(f"Tuned.{name}" for name in ("revision", "targets", "targets_tried", "corpus_column")),
    *("Prompt.instructions", "Gate.slices", "Grader.right", "BakeoffConfig.samples", "contend.contenders"),
    *("grade.prompt", "predict.prefix", "rollback.reason", "rollback.by", "retrain.because"),
}
"""Columns, values, texts and names of parts: what they say is compared or shown, never opened."""


def forms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part of each deployment's form, by name."""
    for made in declare("cpu", CONFIG):
        schema = made._parameter_openapi_schema.model_dump()
        yield str(made.flow_name), schema
        yield from schema["definitions"].items()


def fields() -> dict[str, dict[str, Any]]:
    return {f"{part}.{name}": field for part, schema in forms() for name, field in schema.get("properties", {}).items()}


def is_free(field: Any) -> bool:
    """Whether it, or an item of it, can be any text: neither one of a list, nor a name."""
    if isinstance(field, list):
        return any(map(is_free, field))
    if not isinstance(field, dict):
        return False
    if field.get("type") == "string":
        return "enum" not in field and "a-z0-9" not in field.get("pattern", "")
    return any(is_free(field.get(inside)) for inside in ("items", "anyOf", "additionalProperties"))


def test_every_form_is_walked() -> None:
    found = {part for part, _ in forms()}
    assert {"bakeoff", "grade", "predict", "contend", "rollback", "retrain", "BakeoffConfig", "Tuned", "Quality"} <= found


def test_no_field_names_a_host_a_bucket_a_secret_or_a_variable() -> None:
    assert [name for name in fields() if OPERATORS & set(re.split(r"[._]", name.lower()))] == []


def test_what_can_be_any_text_is_on_the_list_that_was_looked_at() -> None:
    free = {name for name, field in fields().items() if is_free(field)}
    assert free - FILES - RESULTS - WORDS == set()
    assert (FILES | RESULTS | WORDS) - free == set(), "the list names nothing that is gone"


@pytest.mark.parametrize("path", ["/etc/passwd", "../elsewhere.csv", "~/.aws/credentials", "s3://bucket/rows.csv"])
def test_no_path_leads_out_of_the_operators_folders(path: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"lies outside the folders|there is no"):
        Settings(home=tmp_path / "home", roots=[tmp_path]).readable(path)


def test_every_field_has_its_help_and_its_own_title() -> None:
    parts = fields()
    assert [name for name, field in parts.items() if not field.get("description")] == []
    titles = {name: field.get("title", "") for name, field in parts.items() if name[0].isupper()}
    assert titles["Pools.tuned"] == "Tuned"
    assert titles["Dataset.on_bad_rows"] == "On bad rows"
    assert titles["Budget.usd"] == "USD"
