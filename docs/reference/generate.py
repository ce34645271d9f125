"""The reference pages, from the code: `python docs/reference/generate.py` writes them anew; `make docs` builds the site as well.
A test fails while a page and the code differ."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import click
from pydantic import BaseModel

HERE = Path(__file__).parent
MADE = "<!-- Made by docs/reference/generate.py; do not edit. -->"


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    import tasks.config
    import tasks.settings
    from cli.main import main
    from deployments.__main__ import main as deploy
    from tasks.records import Verdict

    config = _models(tasks.config.BakeoffConfig, tasks.config)
    settings = _models(tasks.settings.Settings, tasks.settings)
    verdict = _models(Verdict, sys.modules["tasks.records"], "serialization")
    told = {
        "config.md": ("Config", "What a config file, the form in Prefect and `bakeoff(config)` take.", config),
        "settings.md": ("Settings", "What `bakeoff.yaml` and `BAKEOFF_…` variables take (`__` goes down a level).", settings),
        "verdict.md": ("Verdict", "What `bakeoff run --output json` prints; [how it comes about](../verdict.md).", verdict),
        "commands.md": (
            "Commands",
            "What `--help` says.",
            "\n\n".join([_commands(main, "bakeoff"), _commands(deploy, "python -m deployments")]),
        ),
    }
    return {name: f"{MADE}\n\n# {title}\n\n{words}\n\n{text}" for name, (title, words, text) in told.items()}


def _models(top: type[BaseModel], module: ModuleType, mode: Literal["validation", "serialization"] = "validation") -> str:
    """A section a model, the top one first, with a table of its fields."""
    schema = top.model_json_schema(mode=mode)
    told = _members(module)
    return "\n\n".join(_section(title, part, told.get(title, {})) for title, part in _ordered(top.__name__, schema))


def _ordered(name: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The models in the order in which they are first named."""
    waiting, seen = [(name, schema)], {name}
    while waiting:
        title, part = waiting.pop(0)
        yield title, part
        for inner in re.findall(r'"#/\$defs/(\w+)"', json.dumps(part.get("properties", {}))):
            if inner not in seen:
                seen.add(inner)
                waiting.append((inner, schema["$defs"][inner]))


def _section(title: str, part: Mapping[str, Any], told: Mapping[str, str]) -> str:
    words = inspect.cleandoc(part.get("description", ""))
    if "enum" in part:
        lines = [f"- `{value}`{': ' + told[value] if told.get(value) else ''}" for value in part["enum"]]
    else:
        needed = set(part.get("required", ()))
        lines = ["| key | takes | default | what |", "| --- | --- | --- | --- |"]
        lines += [_row(name, field, name in needed) for name, field in part.get("properties", {}).items()]
    return f"## {title}\n\n{words}\n\n" + "\n".join(lines)


def _row(name: str, field: Mapping[str, Any], needed: bool) -> str:
    default = "" if needed or "default" not in field else _default(field["default"])
    words = " ".join(field.get("description", "").split())
    return f"| `{name}` | {_type(field)} | {default} | {words.replace('|', chr(92) + '|')} |"


def _default(value: Any) -> str:
    """A default as YAML has it; of parts the names, since their own tables say the rest."""
    if isinstance(value, dict) and value:
        return "see there"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"`{part['name']}`" for part in value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(field: Mapping[str, Any]) -> str:
    """A field's type in words, with its bounds."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "allOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_type(each) for each in field[several]))
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "nothing"}.get(kind, kind)
    if "enum" in field:
        words = ", ".join(f"`{value}`" for value in field["enum"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    shown = [f"{sign} {field[bound]:g}" for bound, sign in bounds.items() if bound in field]
    return f"{words} {', '.join(shown)}".strip()


def _members(module: ModuleType) -> dict[str, dict[str, str]]:
    """What the enumerations of a module, or of a package's modules, say of each of their values: the string under it."""
    found: dict[str, dict[str, str]] = {}
    own = Path(str(module.__file__))
    sources = sorted(own.parent.glob("*.py")) if hasattr(module, "__path__") else [own]
    for node in (node for source in sources for node in ast.parse(source.read_text(encoding="utf-8")).body):
        kind = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if isinstance(node, ast.ClassDef) and isinstance(kind, type) and issubclass(kind, StrEnum):
            for one, two in zip(node.body, node.body[1:], strict=False):
                if isinstance(one, ast.Assign) and isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant):
                    value = ast.literal_eval(one.value)
                    found.setdefault(node.name, {})[value] = " ".join(str(two.value.value).split())
    return found


def _commands(command: click.Command, name: str) -> str:
    return "\n\n".join(f"## {path}\n\n```text\n{text}\n```" for path, text in _helps(command, name))


def _helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    settings = command.context_settings | {"max_content_width": 100, "terminal_width": 100}
    with click.Context(command, info_name=name, parent=parent, **settings) as context:
        yield context.command_path, command.get_help(context).rstrip()
        for inner in command.list_commands(context) if isinstance(command, click.Group) else ():
            found = command.get_command(context, inner)
            if found:
                yield from _helps(found, inner, context)


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (HERE / name).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
