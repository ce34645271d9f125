"""`make up`, `make down`: the real thing, in a home of its own."""

import configparser
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import yaml
from click.testing import CliRunner

from deployments import stack as stacks
from deployments import up as ups
from deployments.__main__ import main
from deployments.stack import (
    Program,
    Stack,
    configuration,
    environment_of,
    left_over,
    settle,
    socket_of,
    states,
    stop,
    supervisor_of,
)
from deployments.up import pools_here
from deployments.wish import Wish, as_last_time, keep
from tasks.errors import BadConfig, MissingPart
from tests.deployments.receiver import Receiver
from tests.live import environment, eventually

SLOW_TO_STOP = """
import pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[0]).parent, sys.argv[1]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
(folder / f"{name}.ready").touch()
while not told or not (folder / "go").exists():
    time.sleep(0.02)
with (folder / "ended").open("a") as log:
    log.write(name + " ")
"""
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(root: Path, tmp_path: Path) -> Command:
    """`python -m deployments …` on a home of the test's own."""

    def run(*words: str, **names: str) -> "subprocess.CompletedProcess[str]":
        env = environment(BAKEOFF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", BAKEOFF_DEVICE="cpu", **names)
        return subprocess.run([sys.executable, "-m", "deployments", *words], env=env, cwd=root, capture_output=True, text=True)

    return run


class Small(Stack):
    """Two programs that end when they are told to and a file `go` is there, and say in which order."""

    def programs(self) -> list[Program]:
        command = (sys.executable, "-P", str(self.home / "slow.py"))
        return [Program("server", (*command, "server"), 10, 30), Program("worker-cpu", (*command, "worker-cpu"), 30, 30)]

    def begin(self) -> list[int]:
        """Start them; the process ids, once all of them listen."""
        self.start()
        eventually(lambda: all((self.home / f"{program.name}.ready").exists() for program in self.programs()))
        return [each["pid"] for each in states(self.home).values()]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    (tmp_path / "slow.py").write_text(SLOW_TO_STOP)
    yield Small(tmp_path, 4200, ("cpu",))
    (tmp_path / "go").touch()
    stop(tmp_path)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_one_command_starts_everything_again_changes_nothing_one_stops_it_and_a_plain_one_has_the_same_again(
    command: Command, tmp_path: Path
) -> None:
    home, port, config = tmp_path / "home", free_port(), tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"name": "mine", "dataset": "owner/name"}))
    words = ("up", "--config", str(config), "--nightly", "none")
    try:
        first = command(*words, "--port", str(port), BAKEOFF_ROOTS=str(tmp_path / "mine"))
        assert first.returncode == 0, first.stderr
        assert f"UI       http://127.0.0.1:{port}\n" in first.stdout
        before = {name: each["pid"] for name, each in states(home).items() if each["statename"] == "RUNNING"}
        assert set(before) == {"server", "services", "worker-cpu"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            page = client.get("/", follow_redirects=True)
            assert "text/html" in page.headers["content-type"]
            assert client.get("/ui-settings").raise_for_status().json()["api_url"] == "/api"
        assert registered(port) == ("mine", "mine", [False])
        eventually(lambda: held(home) >= {"s3", "llm"})
        kept = (home / "up" / "wish.json").read_text()
        other = command("up", "--nightly", "cpu", BAKEOFF_ROOTS=str(tmp_path / "other"))
        assert (other.returncode, f"BAKEOFF_ROOTS is {tmp_path / 'mine'} there, {tmp_path / 'other'} here" in other.stderr) == (
            2,
            True,
        )
        assert (registered(port), (home / "up" / "wish.json").read_text()) == (("mine", "mine", [False]), kept)
        again = command(*words)
        assert again.returncode == 0, again.stderr
        assert {name: each["pid"] for name, each in states(home).items()} == before
        told = command("status")
        assert (told.returncode, f"http://127.0.0.1:{port}" in told.stdout) == (0, True)
    finally:
        stopped = command("down")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert not any(psutil.pid_exists(pid) for pid in before.values())
    assert (home / "prefect" / "prefect.db").stat().st_size > 0
    assert (command("down").stdout, command("status").returncode) == ("nothing was running\n", 1)
    try:
        plain = command("up")
        assert plain.returncode == 0, plain.stderr
        assert f"as the last time: --config {config}, --nightly none, BAKEOFF_ROOTS={tmp_path / 'mine'};" in plain.stderr
        assert registered(port) == ("mine", "mine", [False])
        worker = psutil.Process(states(home)["worker-cpu"]["pid"])
        assert worker.environ()["BAKEOFF_ROOTS"] == str(tmp_path / "mine")
    finally:
        command("down")


def held(home: Path) -> set[str]:
    """What the program `services` keeps running, by its log: each stands there once it has answered."""
    log = (home / "up" / "services.log").read_text()
    assert "goes on without" not in log, log
    return set(re.findall(r"(\w+): running$", log, re.MULTILINE))


def registered(port: int) -> tuple[str, str, list[bool]]:
    """The bake-off that a run by hand has by default, the one of the night, and whether there are nights."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/deployments/name", timeout=30) as client:
        by_hand, nightly = (client.get(name).raise_for_status().json() for name in ("bakeoff/cpu", "retrain/cpu-nightly"))
    names = [each["parameters"]["config"]["name"] for each in (by_hand, nightly)]
    return names[0], names[1], [schedule["active"] for schedule in nightly["schedules"]]


def test_what_is_not_given_is_as_the_last_time_and_what_is_given_replaces_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    default = Wish(Path("/demo.yaml"), ("cpu",), "UTC", (Path("/configs"),))
    assert as_last_time(default, set(), tmp_path) == default
    mine = Wish(tmp_path / "mine.yaml", (), "Europe/Berlin", (tmp_path / "a", tmp_path / "b"), ("slack-webhook/ours",))
    (tmp_path / "up").mkdir()
    keep(mine, tmp_path)
    assert caplog.text == ""
    assert as_last_time(default, set(), tmp_path) == replace(mine, notify=())  # the server has the block
    said = f"--config {mine.config}, --nightly none, --timezone Europe/Berlin, BAKEOFF_ROOTS={tmp_path / 'a'}:{tmp_path / 'b'};"
    assert [f"as the last time: {said}" in line for line in caplog.messages] == [True]
    other = {"config": tmp_path / "other.yaml", "nightly": ("gpu", "cpu")}
    assert as_last_time(replace(default, **other), other, tmp_path) == replace(mine, **other, notify=())
    keep(default, tmp_path)
    caplog.clear()
    assert (as_last_time(default, set(), tmp_path), caplog.text) == (default, "")


@pytest.mark.parametrize(
    ("words", "roots", "config", "nightly", "reads"),
    [
        ([], "", "mine.yaml", ("gpu",), "mine"),
        (["--config", "other.yaml"], "", "other.yaml", ("gpu",), "mine"),
        (["--nightly", "none"], "theirs", "mine.yaml", (), "theirs"),
        (["--nightly", "cpu"], "", "mine.yaml", ("cpu",), "mine"),
    ],
)
def test_the_command_line_goes_over_what_was_kept_also_where_it_says_what_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], roots: str, config: str, nightly: tuple[str, ...], reads: str
) -> None:
    asked: list[Wish] = []

    def start(wish: Wish, port: int | None) -> Stack:
        asked.append(wish)
        return Stack(tmp_path, 4200, ("cpu",))

    (tmp_path / "up").mkdir()
    keep(Wish(tmp_path / "mine.yaml", ("gpu",), "UTC", (tmp_path / "mine",)), tmp_path)
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))
    monkeypatch.setenv("BAKEOFF_ROOTS", roots)
    monkeypatch.setattr(ups, "up", start)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["up", *words])
    assert done.exit_code == 0, done.output
    assert asked == [Wish(tmp_path / config, nightly, "UTC", (tmp_path / reads,))]


@pytest.mark.parametrize("kept", ["{", "[]", '{"config": "mine.yaml"}'])
def test_what_was_kept_and_is_damaged_is_named(tmp_path: Path, kept: str) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "wish.json").write_text(kept)
    with pytest.raises(BadConfig, match=r"wish\.json is damaged"):
        as_last_time(Wish(Path("/demo.yaml"), (), "UTC", ()), set(), tmp_path)


def test_a_config_that_is_there_no_more_is_named_before_anything_starts(command: Command, tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    (tmp_path / "home" / "up").mkdir(parents=True)
    keep(Wish(gone, (), "UTC", ()), tmp_path / "home")
    done = command("up")
    assert (done.returncode, f"as the last time: --config {gone}" in done.stderr) == (2, True)
    assert f"cannot read config {gone}" in done.stderr


def test_make_up_hands_on_the_folders_that_somebody_named_and_names_none_itself(root: Path) -> None:
    planned = subprocess.run(["make", "--dry-run", "up"], cwd=root, env=environment(), capture_output=True, text=True)
    assert (planned.returncode, "BAKEOFF_ROOTS" in planned.stdout) == (0, False)


def test_a_supervisor_that_is_stopping_is_waited_for_before_another_one_starts(small: Small) -> None:
    first, supervisor = small.begin(), supervisor_of(small.home)
    stacks._supervisor(small.home).shutdown()
    assert states(small.home) == {}
    with pytest.raises(MissingPart, match=f"still stopping.*{supervisor.pid if supervisor else '?'}.*make down"):
        small.start()
    assert socket_of(small.home).exists()  # the one that stops keeps its own
    threading.Timer(0.2, (small.home / "go").touch).start()
    assert settle(small.home)
    assert (supervisor_of(small.home), [pid for pid in first if alive(pid)]) == (None, [])
    assert set(small.begin()).isdisjoint(first)


def test_what_a_killed_supervisor_left_running_is_ended_workers_first_before_another_one_starts(small: Small) -> None:
    first, supervisor = small.begin(), supervisor_of(small.home)
    assert supervisor
    supervisor.kill()
    eventually(lambda: supervisor_of(small.home) is None)
    assert [name for name, _ in left_over(small.home)] == ["worker-cpu", "server"]
    with pytest.raises(MissingPart, match=str(first[0])):
        small.start()
    (small.home / "go").touch()
    assert stop(small.home)
    assert (small.home / "ended").read_text().split() == ["worker-cpu", "server"]
    assert (left_over(small.home), [pid for pid in first if alive(pid)]) == ([], [])
    assert not stop(small.home)


def test_stopping_has_the_time_of_all_programs_one_after_another(tmp_path: Path) -> None:
    stack = Stack(tmp_path, 4200, ("gpu", "cpu"))
    stack.folder.mkdir()
    stacks.conf_of(tmp_path).write_text(configuration(stack))
    assert stacks._stop_s(tmp_path) > sum(program.stop_s for program in stack.programs())


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_port_that_was_asked_for_and_is_taken_is_refused_before_anything_starts(
    command: Command, tmp_path: Path, root: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("up", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert re.search(r"port \d+ is taken by another program: end it, or name another port", done.stderr)
    assert not (tmp_path / "home" / "up").exists()


def test_workers_stop_first_and_have_time_for_a_checkpoint_and_no_key_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-of-the-operator")
    text = configuration(Stack(tmp_path / "100% home", 4200, ("gpu", "cpu")))
    assert "sk-canary" not in text
    read = configparser.RawConfigParser()
    read.read_string(text)
    programs = {name.partition(":")[2]: read[name] for name in read.sections() if name.startswith("program:")}
    assert sorted(programs, key=lambda name: int(programs[name]["priority"])) == ["server", "services", "worker-gpu", "worker-cpu"]
    assert all(int(programs[name]["stopwaitsecs"]) >= 60 for name in ("worker-gpu", "worker-cpu"))
    assert programs["server"]["stdout_logfile"].endswith("100%% home/up/server.log")


def test_a_server_that_is_busy_while_the_workers_start_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = {name: {"statename": "RUNNING"} for name in ("server", "worker-cpu")}
    monkeypatch.setattr(ups, "states", lambda home: running)
    polls = {"status": "ONLINE", "last_heartbeat_time": "2027-01-01T00:00:00Z"}
    with Receiver((503, {"exception_message": "Service Unavailable"}), (200, []), (200, [polls])) as server:
        ups._wait_for_workers(Stack(tmp_path, server.port, ("cpu",)), "")
    assert len(server.got) == 3


def test_an_endpoint_that_the_settings_do_not_know_is_refused_before_anything_starts(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"dataset": "owner/name", "prompts": [{"name": "asked", "endpoint": "ours"}]}))
    done = command("up", "--config", str(config))
    assert (done.returncode, "no endpoint named 'ours'; the settings name local, openai" in done.stderr) == (2, True)
    assert not (tmp_path / "home" / "up").exists()


@pytest.mark.parametrize("named", [None, "ours.yaml"])
def test_the_programs_have_the_settings_and_folders_of_whoever_starts_them_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    class Started(Exception):
        """So far and no further."""

    def start(self: Stack) -> None:
        environments.extend(dict(program.environment) for program in self.programs() if program.name != "server")
        raise Started

    environments: list[dict[str, str]] = []
    monkeypatch.setattr(Stack, "start", start)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"dataset": "owner/name", "prompts": [{"name": "asked", "endpoint": "ours"}]}))
    (tmp_path / (named or "bakeoff.yaml")).write_text("endpoints: {ours: {base_url: 'http://127.0.0.1:9/v1', model: m}}")
    if named:
        monkeypatch.setenv("BAKEOFF_SETTINGS", named)
    monkeypatch.setenv("BAKEOFF_ROOTS", "data:more")
    with pytest.raises(Started):
        CliRunner().invoke(main, ["up", "--config", "config.yaml"], catch_exceptions=False)
    assert len(environments) >= 2
    for given in environments:
        assert given["BAKEOFF_SETTINGS"] == str(tmp_path / (named or "bakeoff.yaml"))
        assert given["BAKEOFF_ROOTS"] == f"{tmp_path}/data:{tmp_path}/more"


def test_the_settings_that_programs_run_with_are_those_that_their_supervisor_was_started_with(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_DTYPE", "float32")
    pids = small.begin()
    monkeypatch.setenv("BAKEOFF_DTYPE", "bfloat16")
    assert {psutil.Process(pid).environ()["BAKEOFF_DTYPE"] for pid in pids} == {"float32"}
    assert environment_of(small.home)["BAKEOFF_DTYPE"] == "float32"
    assert small.environment()["BAKEOFF_DTYPE"] == "bfloat16"


@pytest.fixture
def runs_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wish:
    """The wish of a home that runs already, as far as `make up` sees it, with a settings file and a variable of its own."""
    (tmp_path / "up").mkdir()
    (tmp_path / "ours.yaml").touch()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"name": "mine", "dataset": "owner/name"}))
    wish = Wish(config, (), "UTC", (tmp_path / "100% mine", tmp_path / "more"))
    stacks.conf_of(tmp_path).write_text(configuration(Stack(tmp_path, 4200, ("cpu",), tmp_path / "ours.yaml", wish.roots)))
    supervisor = SimpleNamespace(environ=lambda: {"BAKEOFF_DTYPE": "float32", "BAKEOFF_ROOTS": "relative", "OTHERS": "x"})
    monkeypatch.setattr(stacks, "supervisor_of", lambda home: supervisor)
    for module in (stacks, ups):
        monkeypatch.setattr(module, "states", lambda home: {"server": {"statename": "RUNNING"}})
    for name, value in {"HOME": str(tmp_path), "SETTINGS": str(tmp_path / "ours.yaml"), "DTYPE": "float32"}.items():
        monkeypatch.setenv(f"BAKEOFF_{name}", value)
    monkeypatch.setenv("BAKEOFF_DEVICE", "")  # as if it were not there
    return wish


class Registering(Exception):
    """So far and no further."""


def refuse_to_register(stack: Stack) -> None:
    raise Registering


def test_what_runs_with_the_same_settings_is_registered_for(runs_already: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups, "_wait_for_server", refuse_to_register)
    with pytest.raises(Registering):
        ups.up(runs_already)


@pytest.mark.parametrize(
    ("variables", "roots", "said"),
    [
        ({}, ("other",), "BAKEOFF_ROOTS is {0}/100% mine:{0}/more there, {0}/other here"),
        ({"BAKEOFF_SETTINGS": "{0}/theirs.yaml"}, (), "BAKEOFF_SETTINGS is {0}/ours.yaml there, {0}/theirs.yaml here"),
        ({"BAKEOFF_SETTINGS": ""}, (), "BAKEOFF_SETTINGS is {0}/ours.yaml there, not set here"),
        (
            {"BAKEOFF_DTYPE": "bfloat16", "BAKEOFF_MACHINE": "x"},
            (),
            "BAKEOFF_DTYPE has another value there; BAKEOFF_MACHINE is set here alone",
        ),
        ({"BAKEOFF_DTYPE": ""}, (), "BAKEOFF_DTYPE is set there alone"),
    ],
)
def test_settings_that_what_runs_would_not_have_are_refused_with_both_values_before_anything_is_registered(
    runs_already: Wish,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    roots: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    wish = replace(runs_already, roots=tuple(tmp_path / each for each in roots)) if roots else runs_already
    monkeypatch.setattr(ups, "_wait_for_server", refuse_to_register)
    with pytest.raises(BadConfig, match=r"`make down`, then `make up`.*nothing was registered") as refused:
        ups.up(wish)
    assert f"differ from yours: {said.format(tmp_path)}. " in str(refused.value)
    assert not (tmp_path / "up" / "wish.json").exists()


def test_an_address_that_differs_is_named_and_not_repeated(runs_already: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_ENDPOINTS__OPENAI__BASE_URL", "https://me:canary@llm.example.org/v1")
    with pytest.raises(BadConfig, match="BAKEOFF_ENDPOINTS__OPENAI__BASE_URL is set here alone") as refused:
        ups.up(runs_already)
    assert "canary" not in str(refused.value)


def test_a_home_with_a_long_path_has_its_socket_elsewhere_and_each_home_its_own(tmp_path: Path) -> None:
    deep, other = tmp_path / ("x" * 90), tmp_path / ("y" * 90)
    assert len(str(socket_of(deep))) < 100
    assert socket_of(deep) != socket_of(other)


def test_this_machine_works_for_the_cpu_pool_and_for_its_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert pools_here() == ("gpu", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pools_here() == ("cpu",)
