"""What the code of each stage was when its version was set. `make stages` writes it anew, after one has decided whether products
made by the old code are still good (if not, raise the stage's version)."""

import ast
import hashlib
import importlib
import importlib.util
import json
import pkgutil
from pathlib import Path

import tasks
from tasks.workspace import Stage

KEPT = Path(__file__).with_name("stage_versions.json")


def all_stages() -> list[Stage]:
    """Every `Stage` that a module of `tasks` defines."""
    found = {}
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        if not module.ispkg and not module.name.endswith(".stage"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Stage):
                    found[value.name] = value
    return sorted(found.values(), key=lambda stage: stage.name)


def code_hash(modules: tuple[str, ...]) -> str:
    """SHA-256 over the modules' code; docstrings, comments and blank lines do not count."""
    text = "\n".join(f"# {module}\n{_code(module)}" for module in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()


def _code(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        raise LookupError(f"a stage names module {module}, which is not there")
    source = Path(spec.origin).read_text(encoding="utf-8")
    prose = _docstring_lines(ast.parse(source))
    lines = ((number, line.strip()) for number, line in enumerate(source.splitlines(), 1))
    return "\n".join(line for number, line in lines if line and number not in prose and not line.startswith("#"))


def _docstring_lines(tree: ast.AST) -> set[int]:
    """Lines of strings that stand alone: docstrings of modules, classes, functions and fields."""
    alone = (node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return {line for node in alone if isinstance(node.value.value, str) for line in range(node.lineno, node.end_lineno + 1)}


def current() -> dict[str, dict[str, object]]:
    """The version and code hash of every stage as they are now."""
    return {stage.name: {"version": stage.version, "code": code_hash(stage.modules)} for stage in all_stages()}


if __name__ == "__main__":
    KEPT.write_text(json.dumps(current(), indent=2) + "\n")
