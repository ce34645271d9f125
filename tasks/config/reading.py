"""Reads a config from a file, overrides or a mapping, and says what is wrong with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.config.bakeoff import BakeoffConfig
from tasks.config.part import slug_of
from tasks.errors import BadConfig


def load_config(path: Path, overrides: Sequence[str] = ()) -> BakeoffConfig:
    """Read a YAML config and apply `key.inner=value` overrides, their values read as YAML.

    Raises:
        BadConfig: the file is missing or not YAML, or a key or value is wrong; every wrong key is named.
    """
    values = _read_yaml(path)
    values.setdefault("name", slug_of(path.stem))
    for override in overrides:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: BakeoffConfig | Mapping[str, Any], where: str = "config") -> BakeoffConfig:
    """Validate a config given as a mapping.

    Raises:
        BadConfig: naming every wrong key, its value and what is expected.
    """
    if isinstance(values, BakeoffConfig):
        return values
    try:
        return BakeoffConfig.model_validate(values)
    except ValidationError as error:
        raise BadConfig(explain(error, where)) from None


def explain(error: ValidationError, where: str) -> str:
    """A validation error as one line a fault: key, what is wrong, the value. The value of an unknown key, or of one that names a
    variable, may be a secret in the wrong place, and is not shown."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(step) for step in fault["loc"]) or "(whole)"
        value, kind = fault["input"], fault["type"]
        hidden = isinstance(value, Mapping) or kind in {"missing", "extra_forbidden"} or key.endswith("key_env")
        shown = "" if hidden else f" (got {str(value)[:80]!r})"
        bare = kind == "string_type" and isinstance(value, bool)
        hint = "; quote it, since YAML reads a bare yes, no, on, off, true or false as true or false" if bare else ""
        lines.append(f"  {key}: {fault['msg'].removeprefix('Value error, ')}{shown}{hint}")
    return f"{where} is refused:\n" + "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadConfig(f"cannot read config {path}: {error.strerror}; give the path of a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(f"config {path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise BadConfig(f"config {path} must hold keys and values, at least `dataset:`; it holds {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. Numbers index lists, so `tuned.0.epochs=1` works."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise BadConfig(f"override {override!r} is not of the form key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadConfig(f"override {override!r}: the value is not YAML; quote it") from None
    *path, last = key.split(".")
    if path and path[0] in ("prompts", "tuned") and path[0] not in values:
        default = BakeoffConfig.model_fields[path[0]].default
        values[path[0]] = [part.model_dump(mode="json", exclude_unset=True) for part in default]
    place: Any = values
    for step in path:
        place = _descend(place, step, override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _descend(place: Any, step: str, override: str) -> Any:
    inner = place[_index(place, step, override)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(inner, str) and step == "dataset":
        inner = place[step] = {"source": inner}
    if not isinstance(inner, dict | list):
        raise BadConfig(f"override {override!r}: {step!r} holds {inner!r}, which has no keys inside")
    return inner


def _index(place: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise BadConfig(f"override {override!r}: {step!r} must be a position from 0 to {len(place) - 1} in the list")
    return int(step)
