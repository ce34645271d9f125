"""`python -m deployments.build cpu`: what the Dockerfile does for a target, done without an engine, in a folder of this machine.

It follows the Dockerfile's own lines: the copy that `.dockerignore` lets through, the installations from locks with hashes, the
import with which each target ends. The image's folders lie below the folder that is given, or a temporary one. Steps that change
the system (packages of Debian, users) are told of and not done: what they bring must be there. Only Python itself is needed, so
that this runs in a bare system too.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from string import Template
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
OWN = ("/opt/venv", "/opt/bakeoff", "/build", "/var/lib/bakeoff", "/data")
"""The image's own folders; every other path in it is the system's."""
SYSTEM = ("apt-get", "useradd")
"""Steps that begin so change the system."""
KEPT = re.compile(r"^(HOME|LANG|LC_\w+|TMPDIR|PIP_\w+|SSL_\w+|\w+_proxy|\w+_PROXY)$")
"""What a step has of this process's environment; of pip's settings those that say where packages come from."""


@dataclass
class Stage:
    """A part of the Dockerfile, from one FROM to the next."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instructions with what follows them."""


@dataclass
class State:
    """What a step finds."""

    environment: dict[str, str]
    folder: str = "/"


class Failed(Exception):
    """A step of the Dockerfile failed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit status 1 when a step fails."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.build", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", help="cpu or gpu")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build takes it")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="a new or empty folder that stays; else one that is removed")
    given = parser.parse_args(arguments)
    if nameless := [each for each in given.build_arg if "=" not in each]:
        parser.error(f"--build-arg {nameless[0]}: say NAME=VALUE")
    with ExitStack() as stack:
        into = given.into or Path(stack.enter_context(TemporaryDirectory(prefix="bakeoff-image-")))
        try:
            build(ROOT, given.target, into.absolute(), dict(each.split("=", 1) for each in given.build_arg), tell)
        except Failed as error:
            sys.exit(f"bakeoff: {error}")
        for own, size in sizes(into).items():
            tell(f"{size / 1e9:6.2f} GB  {own}")


def tell(text: str) -> None:
    """A line among those that the steps themselves print."""
    print(text, flush=True)  # noqa: T201


def build(root: Path, target: str, into: Path, given: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Do the steps of a target and of the stages that it needs.

    Args:
        root: of the project, with Dockerfile and .dockerignore.
        into: stands for the image's root.
        given: the build's arguments.
        tell: is told of every step.

    Raises:
        Failed: there is no such target, the folder is not empty, or a step failed; what it printed stands above.
    """
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise Failed(f"{into} is not empty: name a new folder")
    stages = {stage.name: stage for stage in read(root / "Dockerfile")}
    if target not in stages:
        raise Failed(f"the Dockerfile has no target {target!r}: it has {', '.join(stages)}")
    python = Path(getattr(sys, "_base_executable", sys.executable)).parent
    own = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    bare = State({**own, "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin"})
    states: dict[str, State] = {}
    for name in needed(target, stages):
        stage = stages[name]
        start = states.get(stage.base, bare)
        states[name] = State(dict(start.environment), start.folder)
        for instruction, rest in stage.steps:
            if what := step(instruction, rest, states[name], root, into, given):
                tell(f"{name}: {what}")


def read(dockerfile: Path) -> Iterator[Stage]:
    """The stages of a Dockerfile whose stages all have names."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    stage = None
    for line in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            if stage:
                yield stage
            stage = Stage(name, base)
        elif stage:
            stage.steps.append((instruction, rest.strip()))
    if stage:
        yield stage


def needed(target: str, stages: Mapping[str, Stage]) -> list[str]:
    """The target and the stages that it is based on or copies from, in the order of the Dockerfile."""
    found, waiting = set(), [target]
    while waiting:
        stage = stages.get(waiting.pop())
        if stage and stage.name not in found:
            found.add(stage.name)
            waiting += [stage.base, *(word for _, rest in stage.steps for word in re.findall(r"--from=(\S+)", rest))]
    return [name for name in stages if name in found]


def step(instruction: str, rest: str, state: State, root: Path, into: Path, given: Mapping[str, str]) -> str:
    """Do one step. Returns what there is to tell."""
    if instruction == "ARG":
        name, _, default = rest.partition("=")
        state.environment[name] = given.get(name, default.strip('"'))
    elif instruction == "ENV":
        pairs = [each.partition("=") for each in shlex.split(rest)]
        state.environment |= {name: Template(_placed(value, into)).substitute(state.environment) for name, _, value in pairs}
    elif instruction in ("WORKDIR", "VOLUME"):
        state.folder = rest if instruction == "WORKDIR" else state.folder
        Path(_placed(rest, into)).mkdir(parents=True, exist_ok=True)
    elif instruction == "COPY" and "--from=" not in rest:  # between stages: they have their folders in common here
        *sources, to = rest.split()
        copy(root, sources, Path(_placed(str(PurePosixPath(state.folder) / to), into)))
        return f"COPY {rest}"
    elif instruction == "RUN":
        if rest.startswith(SYSTEM):
            return f"not done here, it changes the system: RUN {rest}"
        _run(rest, state, into)
        return f"RUN {rest}"
    return ""


def copy(root: Path, sources: Sequence[str], to: Path) -> None:
    """Copy what `.dockerignore` lets through."""
    patterns = [line for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    for source in sources:
        for file in _files(root, root / source, patterns):
            # a folder's content is copied, not the folder, as Docker has it
            target = to / (file.relative_to(root / source) if (root / source).is_dir() else file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def ignored(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Whether `.dockerignore` keeps a path out of the build: of the patterns that fit it or a folder above it the last one says."""
    out = False
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        names = [str(each) for each in (path, *path.parents) if each.name]
        if any(fnmatch(name, glob) or fnmatch(f"/{name}", glob.replace("**", "*")) for name in names):
            out = not pattern.startswith("!")
    return out


def sizes(into: Path) -> dict[str, int]:
    """Bytes of the image's own folders that there are, but for `/build`, which no target keeps."""
    kept = [own for own in OWN if own != "/build" and (into / own[1:]).is_dir()]
    return {own: sum(file.lstat().st_size for file in (into / own[1:]).rglob("*")) for own in kept}


def _files(root: Path, source: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files of a source that are let through; a folder that is not is not looked into."""
    if source != root and ignored(PurePosixPath(source.relative_to(root)), patterns):
        return
    if source.is_dir():
        for each in sorted(source.iterdir()):
            yield from _files(root, each, patterns)
    else:
        yield source


def _run(command: str, state: State, into: Path) -> None:
    folder = Path(_placed(state.folder, into))
    done = subprocess.run(["sh", "-c", _placed(command, into)], cwd=folder if folder != Path("/") else into, env=state.environment)
    if done.returncode:
        raise Failed(f"exit status {done.returncode}: RUN {command}")


def _placed(text: str, into: Path) -> str:
    """The text with the image's own folders below the folder that stands for its root."""
    return re.sub(rf"(?<![\w./])({'|'.join(OWN)})(?![\w-])", lambda found: f"{into}{found[1]}", text)


if __name__ == "__main__":
    main()
