"""The tutorial (docs/tutorial.md), as a stranger follows it in a fresh clone: its commands and files in their order and as they
stand in the page, each held to what the page promises of it. Its clicks are made in a real browser.

Only that is filled in which the page has its reader fill in: the `export` that `make up` printed, a run's id where it says `ID`.
What was started without waiting for it is waited for. What stands in sentences alone, or needs another night or account, is left
out.
"""

import csv
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import yaml

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.team import connects
from benchmarks.campaigns.ways import Clone
from benchmarks.scratch import scratch
from tests.deployments.pages import CHROMIUM, opened_pages
from tests.live import environment, eventually

logger = logging.getLogger(__name__)
PAGE = Path("docs", "tutorial.md")
CONFIG = "mine.yaml"
PORT = 8000
"""Where the page has the champion served."""
STEP_S = 3600.0
"""No step may take longer."""
SERVED_S = 180.0
REFUSED, DUE, UNHEARD = 2, 3, 7
"""Exit statuses: without a champion; of a dry run that found a reason; of curl where nobody listens."""
NONE = REFUSED, "has no champion"
DECIDED = "PUBLISHED|CHAMPION KEPT|NOT ENOUGH EVIDENCE"
RUN_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LABELLED = r"(?:good|bad)(?: \([\d.]+%\))?"
PIP = Path.home() / ".config" / "pip" / "pip.conf"
"""Where this machine has its packages from: the reader has another home."""


@dataclass(frozen=True)
class Step:
    """A command, or a block of a config, as it stands in the page."""

    section: str
    text: str
    is_file: bool = False


def steps(page: str) -> list[Step]:
    """The page's steps in their order. A fenced block is one; of an indented block each line is."""
    found: list[Step] = []
    section, language, block = "", "", list[str]()
    for line in page.splitlines():
        if line.startswith("```"):
            if block:
                found.append(Step(section, "\n".join(block), is_file=language == "yaml"))
            language, block = line.removeprefix("```"), []
        elif language:
            block.append(line)
        elif line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("    "):
            found.append(Step(section, line.strip()))
    return found


def edited(config: str, block: str) -> str:
    """A config with the keys of a block of the page in the place of its own."""
    return yaml.safe_dump((yaml.safe_load(config) or {}) | yaml.safe_load(block), sort_keys=False)


class Broken(Exception):
    """A promise that the page does not keep."""


@dataclass
class Reader:
    """Who follows the page: a clone, what was exported in the terminal, and what was seen so far."""

    clone: Clone
    exported: dict[str, str]
    out: str = ""
    """What the last command printed."""
    published: bool = False
    runs: list[str] = field(default_factory=list)
    server: "subprocess.Popen[bytes] | None" = None

    @property
    def folder(self) -> Path:
        """Where the reader is."""
        return self.clone.folder

    def run(self, command: str) -> int:
        """The exit status of a command in the terminal, which keeps what it exports."""
        kept = self.folder.parent / "exported"
        script = 'eval "$1"; status=$?; env -0 >"$2"; exit $status'
        done = subprocess.run(
            ["bash", "-c", script, "bash", command, str(kept)],
            env=self.exported,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        self.out = done.stdout
        self.exported = dict(each.split("=", 1) for each in kept.read_text().split("\0") if each)
        return done.returncode

    def write(self, block: str) -> int:
        """Put a block of the page into the config."""
        path = self.folder / CONFIG
        path.write_text(edited(path.read_text() if path.exists() else "", block))
        self.out = path.read_text()
        return 0

    def stop_serving(self) -> None:
        """Ctrl-C, where it serves. Raises Broken where it does not end well."""
        if self.server and self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGINT)
            if status := self.server.wait(SERVED_S):
                raise Broken(f"Ctrl-C ended the server with status {status}")


def in_terminal(reader: Reader, step: Step) -> int:
    """As it stands."""
    return reader.run(step.text)


def in_file(reader: Reader, step: Step) -> int:
    """Into the config."""
    return reader.write(step.text)


def in_background(reader: Reader, step: Step) -> int:
    """In a terminal of its own, until it serves."""
    log = reader.folder.parent / "served.log"
    with log.open("wb") as to:
        command = ["bash", "-c", step.text]
        started = subprocess.Popen(command, env=reader.exported, cwd=reader.folder, stdout=to, stderr=to, start_new_session=True)
    reader.server = started
    eventually(lambda: started.poll() is not None or f":{PORT}\n" in log.read_text(), SERVED_S)
    reader.out = log.read_text()
    return started.poll() or 0


def as_printed(reader: Reader, step: Step) -> int:
    """With the line that `make up` printed. Raises Broken where that is not the page's but for its port."""
    line = f"export PREFECT_API_URL={reader.clone.server}"
    if re.sub(r"\d+/", "/", line) != re.sub(r"\d+/", "/", step.text):
        raise Broken(f"the page has {step.text}, and `make up` printed {line}")
    return reader.run(line)


def with_first_run(reader: Reader, step: Step) -> int:
    """With the first characters of the first run's id, which is the last one listed."""
    return reader.run(re.sub(r"\bID\b", reader.runs[-1][:8], step.text))


def has_rows(name: str, rows: int) -> Callable[[Reader], None]:
    """A file has so many rows, and a line above them."""

    def holds(reader: Reader) -> None:
        with (reader.folder / name).open(encoding="utf-8", newline="") as file:
            found = sum(1 for _ in csv.DictReader(file))
        if found != rows:
            raise Broken(f"{name} has {found} rows")

    return holds


def a_verdict(reader: Reader) -> None:
    """Whether there is a champion now; and without enough evidence, how many more rows would tell."""
    reader.published |= "PUBLISHED" in reader.out
    if "NOT ENOUGH EVIDENCE" in reader.out and "would tell" not in " ".join(reader.out.split()):
        raise Broken("not enough evidence, and not a word of how many more rows would tell")


def a_report(reader: Reader) -> None:
    """One HTML file lies where it says."""
    path = reader.folder / reader.out.splitlines()[-1]
    if path.suffix != ".html" or not path.exists():
        raise Broken(f"{path} is no report")


def its_runs(reader: Reader) -> None:
    """Their ids, of which one is asked for next."""
    reader.runs = re.findall(rf"^({RUN_ID}) ", reader.out, re.MULTILINE)
    if len(reader.runs) < 3:
        raise Broken(f"three runs were made, and {len(reader.runs)} are listed")


def a_form(reader: Reader) -> None:
    """The address that was printed leads to a form, whose run's page shows tables, curves and a verdict."""
    reader.clone.port = int(re.findall(r"^UI +http://127\.0\.0\.1:(\d+)$", reader.out, re.MULTILINE)[0])
    with opened_pages(str(CHROMIUM), reader.clone.server, reader.folder.parent) as ui:
        ui.find_deployment("bakeoff", "cpu")
        ui.open_custom_run()
        ui.field("Epochs (Optional)").fill("1")
        run = ui.submit()
        ui.leave()
        reader.clone.finish(run)
        ui.open_run(run, tab="Artifacts")
        ui.says("contenders-mine", "curves-lora", "verdict-mine")


def its_run(reader: Reader) -> None:
    """It ends with a verdict."""
    reader.clone.finish(re.findall(RUN_ID, reader.out)[-1])


@dataclass(frozen=True)
class Promise:
    """What is to come of the page's next step, which begins with these words."""

    of: str
    says: Sequence[str] = ()
    """Expressions that match what it prints, each run of white space taken for one space."""
    status: int = 0
    by: Callable[[Reader, Step], int] = in_terminal
    then: Callable[[Reader], None] | None = None
    without: tuple[int, str] | None = None
    """Exit status and words where nothing was published, and the page says so."""

    def keep(self, reader: Reader, step: Step) -> None:
        """Do the step. Raises Broken where it comes to something else."""
        status = self.by(reader, step)
        wanted, says, then = self.status, self.says, self.then
        if self.without and not reader.published:
            wanted, says, then = self.without[0], [self.without[1]], None
        if status != wanted:
            raise Broken(f"status {status}")
        said = " ".join(reader.out.split())
        if missed := [each for each in says if not re.search(each, said)]:
            raise Broken(f"it does not say {', '.join(missed)}")
        if then:
            then(reader)


def taken_back(reader: Reader, step: Step) -> int:
    """Refused where the list shows one version alone, as the page says."""
    versions = re.findall(r"^ {0,7}\d+  ", reader.out, re.MULTILINE)
    status = reader.run(step.text)
    if len(versions) > 1:
        return status
    if status != REFUSED or not re.search("has no champion|is champion .* already", reader.out):
        raise Broken(f"status {status}, with {len(versions)} versions")
    return 0


CONTENDERS = "plain", "lora", r"\[\d", r"\$/1,000"
PROMISES = (
    Promise("make setup"),
    Promise("export PATH="),
    Promise("bakeoff --help", ["Usage: bakeoff"]),
    Promise("python -c '", then=has_rows("mine.csv", 2000)),
    Promise("dataset:", by=in_file),
    Promise("bakeoff run mine.yaml", [DECIDED, *CONTENDERS], then=a_verdict),
    Promise("bakeoff run mine.yaml", [DECIDED, *CONTENDERS, "products reused"]),
    Promise("bakeoff report latest", then=a_report),
    Promise(
        "bakeoff predict mine.yaml --text",
        [f"{LABELLED} an utter joy", f"{LABELLED} two hours I shall not get back"],
        without=NONE,
    ),
    Promise("bakeoff predict mine.yaml --input", ["2000 rows predicted"], then=has_rows("answered.csv", 2000), without=NONE),
    Promise("bakeoff serve mine.yaml", ["serving mine version 1"], by=in_background, without=NONE),
    Promise("curl localhost:8000/predict", ['"label": ?"(good|bad)"'], then=Reader.stop_serving, without=(UNHEARD, "connect")),
    Promise("prompts:", by=in_file),
    Promise("bakeoff run mine.yaml", [DECIDED, *CONTENDERS, "shots", "head", "products reused"], then=a_verdict),
    Promise("bakeoff runs mine.yaml", then=its_runs),
    Promise("bakeoff compare latest ID", ["On the same test rows", "lora .* the same contender"], by=with_first_run),
    Promise(
        'BAKEOFF_ROOTS="$PWD" make up UP="--config mine.yaml"',
        [r"UI http://127\.0\.0\.1:\d+", r"shell export PREFECT_API_URL="],
        then=a_form,
    ),
    Promise("export PREFECT_API_URL=", by=as_printed),
    Promise("prefect deployment run bakeoff/cpu", [RUN_ID], then=its_run),
    Promise("make status", [r"worker-cpu running", r"UI http://127\.0\.0\.1:\d+"]),
    Promise("bakeoff retrain mine.yaml --dry-run", ["UNCHANGED"]),
    Promise("head -1501 mine.csv", then=has_rows("mine.csv", 1500)),
    Promise("bakeoff retrain mine.yaml --dry-run", ["DUE .*(mine.csv has a new version|there is no champion yet)"], status=DUE),
    Promise("bakeoff retrain mine.yaml", ["DUE", DECIDED], then=a_verdict),
    Promise("bakeoff champion list mine.yaml", [r"version .* \d+ champion \w+"], without=(0, "no champion yet")),
    Promise("bakeoff champion rollback mine.yaml --to 1", by=taken_back),
)


def unlike(found: Sequence[Step]) -> list[str]:
    """Where the page's steps are not those that are promised of: what the page has, and what was to come there."""
    pairs = zip_longest((step.text for step in found), (promise.of for promise in PROMISES), fillvalue="")
    return [f"{text!r}, not {of!r}" for text, of in pairs if not (of and text.startswith(of))]


def run(_options: Options) -> list[Figure]:
    """The figures."""
    if CHROMIUM is None:
        raise RuntimeError("no Chromium on this machine: `apt-get install chromium` brings one")
    if connects(PORT):
        raise RuntimeError(f"something listens on port {PORT}, where the page has a champion served: end it first")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore Ctrl-C
    with scratch("tutorial-") as folder, ExitStack() as stack:
        clone = Clone(folder)
        reader = Reader(clone, own_environment(folder))
        stack.callback(clone.told, "make", "down")
        stack.callback(reader.stop_serving)
        began = time.monotonic()
        took, broken = follow(reader, steps((clone.folder / PAGE).read_text()))
        seconds = time.monotonic() - began
    runs = [seconds for step, seconds in took if step.text.startswith("bakeoff run ")]
    return [
        Figure("steps", len(took), note="commands and files of docs/tutorial.md, in a fresh clone"),
        Figure("steps_that_failed", len(broken), "== 0", "; ".join(broken)),
        Figure("seconds", seconds, note="the page says an hour, most of it waiting; `make setup` is among them"),
        Figure("run_again_s", runs[1], note="the page says seconds"),
    ]


def own_environment(folder: Path) -> dict[str, str]:
    """A home without settings, profiles or models, and this machine's packages."""
    user = folder / "user"
    user.mkdir()
    own = {"HOME": str(user), "XDG_CACHE_HOME": str(user / ".cache"), "HF_HOME": str(user / ".cache" / "huggingface")}
    return environment(**own, **({"PIP_CONFIG_FILE": str(PIP)} if PIP.exists() else {}))


def follow(reader: Reader, found: Sequence[Step]) -> tuple[list[tuple[Step, float]], list[str]]:
    """Every step with its seconds, and what was wrong with those that failed. Raises RuntimeError where the page has other steps
    than are promised of."""
    if other := unlike(found):
        raise RuntimeError(f"the page has other steps than are promised of: {other}")
    took: list[tuple[Step, float]] = []
    broken: list[str] = []
    for step, promise in zip(found, PROMISES, strict=True):
        began = time.monotonic()
        try:
            promise.keep(reader, step)
        except Exception as error:  # noqa: BLE001  the browser's, the server's, a file's: each is the step's
            broken.append(f"{step.section}, {step.text[:60]!r}: {error}")
            logger.warning("%s\n%s", broken[-1], reader.out[-2000:])
        took.append((step, time.monotonic() - began))
    return took, broken
