"""One server for many users, by a small real one."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.keeper import Service, State, environment, shared, wait_until_all_stopped
from tasks.errors import StoreError
from tests.live import eventually

SERVER = """
import os
from contextlib import contextmanager
from services.keeper import keep

@contextmanager
def serving(folder):
    with open(folder / "starts", "a") as file:
        file.write("x")
    if (folder / "broken").exists():
        raise RuntimeError("the shelf is bent")
    yield {"pid": os.getpid()}, lambda: True

keep(serving)
"""

USER = """
import sys
from pathlib import Path
from services.keeper import Service, shared
from tasks.errors import StoreError
service = Service("shelf", Path(sys.argv[1]), tuple(sys.argv[2:]), lambda state: True, StoreError)
with shared(service) as state:
    print(state["pid"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "server.py").write_text(SERVER)
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Service("shelf", folder, (sys.executable, str(tmp_path / "server.py")), lives, StoreError)


def lives(state: State) -> bool:
    try:
        return bool(psutil.Process(state["pid"]).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_user(service: Service) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", USER, str(service.folder), *service.command]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def server_of(user: "subprocess.Popen[str]") -> State:
    assert user.stdout
    return {"pid": int(user.stdout.readline())}


def starts(service: Service) -> int:
    return len((service.folder / "starts").read_text())


def test_processes_that_come_at_once_share_one_server(service: Service) -> None:
    users = [start_user(service) for _ in range(3)]
    servers = {server_of(user)["pid"] for user in users}
    for user in users:
        user.communicate()
    assert len(servers) == 1
    assert starts(service) == 1


def test_threads_that_come_at_once_share_one_server(service: Service) -> None:
    def use(_: int) -> int:
        with shared(service) as state:
            time.sleep(0.1)
            return int(state["pid"])

    with ThreadPoolExecutor(8) as pool:
        servers = set(pool.map(use, range(8)))
    assert len(servers) == starts(service) == 1


def test_it_runs_while_anyone_uses_it_and_stops_after_the_last(service: Service) -> None:
    with shared(service) as outer:
        with shared(service):
            pass
        time.sleep(1)
        assert lives(outer)
    eventually(lambda: not lives(outer))
    assert not (service.folder / "state.json").exists()


def test_a_folder_of_homes_has_ended_when_every_server_in_it_has(service: Service) -> None:
    homes = service.folder.parent
    with shared(service) as state:
        assert not wait_until_all_stopped(homes, 0)
    assert wait_until_all_stopped(homes, 10)
    assert eventually(lambda: not lives(state))


def test_a_killed_user_counts_no_more(service: Service) -> None:
    user = start_user(service)
    state = server_of(user)
    user.kill()
    user.communicate()
    eventually(lambda: not lives(state))


def test_a_forked_child_that_outlives_its_user_does_not_keep_it(service: Service) -> None:
    with shared(service) as state:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        eventually(lambda: not lives(state))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_that_leaves_the_with_leaves_it_to_its_parent(service: Service) -> None:
    with shared(service) as state:
        context = shared(service)
        context.__enter__()
        child = os.fork()
        if child == 0:
            context.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert len(list((service.folder / "users").iterdir())) == 2
        context.__exit__(None, None, None)
        assert lives(state)


def test_a_killed_server_is_replaced(service: Service) -> None:
    with shared(service) as first:
        os.kill(first["pid"], signal.SIGKILL)
        eventually(lambda: not lives(first))
        with shared(service) as second:
            assert second["pid"] != first["pid"]
            assert lives(second)
    assert starts(service) == 2


def test_one_that_hangs_is_ended_and_replaced(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.keeper.STOP_S", 0.5)
    with shared(service) as first:
        os.kill(first["pid"], signal.SIGSTOP)
        picky = replace(service, healthy=lambda state: state["pid"] != first["pid"], start_s=5)
        with shared(picky) as second:
            assert not lives(first)
            assert lives(second)


def test_sigterm_stops_it_although_it_is_used(service: Service) -> None:
    with shared(service) as state:
        os.kill(state["pid"], signal.SIGTERM)
        eventually(lambda: not lives(state))
        assert not (service.folder / "state.json").exists()


def test_one_that_cannot_start_says_why(service: Service) -> None:
    (service.folder / "broken").touch()
    with pytest.raises(StoreError, match=r"shelf did not start.*log.*the shelf is bent"), shared(service):
        pass
    assert not list((service.folder / "users").iterdir())


def test_its_folder_may_vanish(service: Service) -> None:
    import shutil

    with shared(service) as state:
        shutil.rmtree(service.folder)
        eventually(lambda: not lives(state))


def test_ctrl_c_in_the_terminal_does_not_reach_it(service: Service) -> None:
    with shared(service) as state:
        assert os.getpgid(state["pid"]) != os.getpgid(0)
        assert os.getsid(state["pid"]) != os.getsid(0)


def test_no_key_of_the_user_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert "canary" not in str(environment())
