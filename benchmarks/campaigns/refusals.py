"""Bad configs and bad data are refused soon, with status 2, by a message that names the value."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.scratch import scratch
from tests.flows.test_bakeoff import BAKEOFF
from tests.live import environment
from tests.prompting.loopback import Loopback

TIMES = 3
"""Each is run so often, in a fresh process; the quickest counts, since others may use the cores as well."""
ROWS = "text,label\n" + "".join(f"some text number {n} of them,{'good' if n % 2 else 'bad'}\n" for n in range(60))
ENDPOINT = "endpoints: {there: {base_url: '@URL@', model: m%s}}"
PRICE = ", usd_per_million_input: 1, usd_per_million_output: 1"


@dataclass(frozen=True)
class Bad:
    """One input that must be refused."""

    name: str
    config: str
    named: str
    """What the message must contain."""
    rows: str | bytes = ROWS
    settings: str = ""
    words: tuple[str, ...] = ()
    template: str = ""
    in_data: bool = False
    """Whether rows must be read to see it: by then Prefect's own server has been started."""


def asking(more: str = "", endpoint: str = "there") -> str:
    """A config of one prompt."""
    return f"dataset: rows.csv\ntuned: []\nprompts: [{{name: a, endpoint: {endpoint}{more}}}]"


def data(more: str) -> str:
    """A config of one tuned contender, on these rows."""
    return f"dataset: {{source: rows.csv{more}}}\nprompts: []"


CASES = [
    Bad("wrong key", "dataset: rows.csv\ncolour: red", "colour"),
    Bad("wrong type", "dataset: rows.csv\ngate: {alpha: often}", "'often'"),
    Bad("value out of range", "dataset: rows.csv\nbudget: {usd: -1}", "'-1'"),
    Bad("not YAML", "dataset: [rows.csv", "task.yaml"),
    Bad("override of nothing", "dataset: rows.csv", "tuned.7.epochs=1", words=("tuned.7.epochs=1",)),
    Bad("unknown endpoint", asking(endpoint="nowhere"), "'nowhere'"),
    Bad("unknown technique", asking(", technique: telepathy"), "'telepathy'"),
    Bad("unknown store", "dataset: rows.csv\nstore: cellar", "'cellar'"),
    Bad("wrong setting", "dataset: rows.csv", "'many'", settings="endpoints: {there: {model: m, concurrency: many}}"),
    Bad("missing price", asking(), "usd_per_million_input", settings=ENDPOINT % ""),
    Bad("missing key", asking(), "NO_SUCH_KEY", settings=ENDPOINT % (PRICE + ", key_env: NO_SUCH_KEY")),
    Bad("missing file", "dataset: none.csv\nprompts: []", "none.csv"),
    Bad("absolute path", "dataset: /etc/passwd.csv\nprompts: []", "/etc/passwd.csv"),
    Bad("path that climbs", "dataset: ../../rows.csv\nprompts: []", "../../rows.csv"),
    Bad("missing column", data(", inputs: [subject]"), "'subject'", in_data=True),
    Bad(
        "unknown label",
        data(", labels: {good: 'yes', bad: 'no'}"),
        "ugly",
        rows=ROWS + "one more text of them,ugly\n",
        in_data=True,
    ),
    Bad(
        "one class", data(""), "'good'", rows="text,label\n" + "".join(f"a text number {n},good\n" for n in range(60)), in_data=True
    ),
    Bad("NUL", data(""), "NUL", rows=ROWS + "a \0 text,good\n", in_data=True),
    Bad("not UTF-8", data(""), "UTF-8", rows=ROWS.encode() + "schön,good\n".encode("latin-1"), in_data=True),
    Bad(
        "template without the row",
        asking(", template: mine.jinja"),
        "mine.jinja",
        settings=ENDPOINT % PRICE,
        template="What is the label?",
    ),
]


@dataclass
class Ended:
    """How the runs of a case ended."""

    bad: Bad
    seconds: list[float]
    status: set[int]
    said: str


def run(options: Options) -> list[Figure]:
    """The figures."""
    with scratch() as folder, Loopback() as server:
        ended = [try_case(folder / f"{number}", server.url, bad) for number, bad in enumerate(CASES)]
        asked = len(server.requests)
    configs, rows = ([each for each in ended if each.bad.in_data is kind] for kind in (False, True))
    return [
        Figure("cases", len(ended), ">= 12", f"each {TIMES} times, in a fresh process with a Prefect server of its own"),
        slowest("slowest_config_s", configs, "< 5"),
        Figure("median_config_s", median(min(each.seconds) for each in configs)),
        slowest("slowest_data_s", rows),
        Figure("rows_asked_about", asked, "== 0", "nothing was spent"),
        told("another_status_than_2", [each for each in ended if each.status != {2}]),
        told("tracebacks", [each for each in ended if "Traceback" in each.said]),
        told("value_not_named", [each for each in ended if each.bad.named not in each.said]),
    ]


def slowest(name: str, ended: list[Ended], goal: str = "") -> Figure:
    """Which case took longest, each by the quickest of its runs."""
    worst = max(ended, key=lambda each: min(each.seconds))
    return Figure(name, min(worst.seconds), goal, f"{worst.bad.name}; the best of {TIMES} runs")


def told(name: str, wrong: list[Ended]) -> Figure:
    """A count of what must not be, and which."""
    return Figure(name, len(wrong), "== 0", ", ".join(f"{each.bad.name} (status {sorted(each.status)})" for each in wrong))


def try_case(folder: Path, url: str, bad: Bad) -> Ended:
    """Run the command line on it, several times."""
    folder.mkdir()
    rows = bad.rows if isinstance(bad.rows, bytes) else bad.rows.encode()
    (folder / "rows.csv").write_bytes(rows)
    (folder / "task.yaml").write_text(bad.config)
    (folder / "mine.jinja").write_text(bad.template)
    if bad.settings:
        (folder / "bakeoff.yaml").write_text(bad.settings.replace("@URL@", url))
    env = environment(BAKEOFF_HOME=str(folder / "home"), PREFECT_HOME=str(folder.parent / "prefect"), HF_HUB_OFFLINE="1")
    ended = Ended(bad, [], set(), "")
    for _ in range(TIMES):
        started = time.monotonic()
        done = subprocess.run([*BAKEOFF, "task.yaml", *bad.words], env=env, cwd=folder, capture_output=True, text=True, timeout=200)
        ended.seconds.append(time.monotonic() - started)
        ended.status.add(done.returncode)
        ended.said = done.stderr
    return ended
