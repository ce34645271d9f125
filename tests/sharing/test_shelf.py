import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import BadConfig, IntegrityError, LostClaim, Stopped
from tasks.settings import Settings
from tasks.sharing.claims import Claim
from tasks.sharing.growing import SNAPSHOT, Growing
from tasks.sharing.shelf import Shelf
from tasks.store import StoreClient
from tasks.workspace import Building, NotMade, Workspace
from tests.live import environment, eventually
from tests.sharing.machine import STAGE, Steps, machine, make, steps_of


def age(client: StoreClient, key: str) -> float:
    there = client.look(key)
    assert there
    return there.age_s


def start(home: Path, settings: Settings, steps: int, seconds: float) -> "subprocess.Popen[bytes]":
    """Another machine: a process with an empty home."""
    home.mkdir()
    (home / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "tests.sharing.machine", str(home), str(home / "settings.json"), str(steps), str(seconds)]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment(), stdout=log, stderr=log)


def finish(process: "subprocess.Popen[bytes]", home: Path) -> None:
    assert process.wait(60) == 0, (home / "log").read_text()


def shelf_of(workspace: Workspace) -> Shelf:
    assert isinstance(workspace.sharing, Shelf)
    return workspace.sharing


def keys(client: StoreClient, *parts: str) -> list[str]:
    return [each.key for each in client.listed("workspace", *parts)]


def test_what_one_machine_made_another_with_an_empty_home_has_and_does_not_make(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a:
        first = make(a, tmp_path / "by-a")
    with machine(shared, tmp_path / "b") as b:
        second = make(b, tmp_path / "by-b")
        assert b.find(STAGE, ["in"], None, Steps) == second.model_copy(update={"reused": False})
    assert (steps_of(tmp_path / "by-a"), steps_of(tmp_path / "by-b")) == ([0, 1, 2, 3, 4], [])
    assert (first.reused, second.reused, b.reused) == (False, True, ["steps"])
    assert first.fingerprint == second.fingerprint
    assert second.folder.is_relative_to(tmp_path / "b")
    assert (second.folder / "4.txt").read_bytes() == (first.folder / "4.txt").read_bytes()


def test_a_found_product_asks_the_store_nothing(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a:
        make(a, tmp_path / "made")
        events, asked = shelf_of(a).client.client.meta.events, []
        events.register("before-send.s3", lambda **_: asked.append("a request"))
        assert make(a, tmp_path / "made").reused
        assert asked == []


def test_a_machine_that_is_killed_in_mid_build_is_followed_by_one_that_goes_on_where_it_was(
    shared: Settings, client: StoreClient, tmp_path: Path
) -> None:
    homes = [tmp_path / name for name in ("killed", "next")]
    killed = start(homes[0], shared, 8, 0.3)
    eventually(lambda: len(steps_of(homes[0] / "made")) >= 4)
    waiting = start(homes[1], shared, 8, 0.0)  # while the first one lives, it waits
    time.sleep(0.5)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    finish(waiting, homes[1])
    by = [steps_of(home / "made") for home in homes]
    assert by[1], "the second had to make the rest"
    repeated = set(by[0]) & set(by[1])
    assert sorted({*by[0], *by[1]}) == list(range(8))
    assert len(repeated) <= 2, "what came since the last sending, every 0.2 s, a step taking 0.3 s"
    assert keys(client, "inprogress") == keys(client, "claims") == []


def test_two_machines_that_want_the_same_make_it_once(shared: Settings, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("a", "b")]
    processes = [start(home, shared, 5, 0.1) for home in homes]
    for process, home in zip(processes, homes, strict=True):
        finish(process, home)
    assert sorted(len(steps_of(home / "made")) for home in homes) == [0, 5]


def test_a_build_that_fails_leaves_what_it_made_and_the_next_machine_need_not_wait(shared: Settings, tmp_path: Path) -> None:
    lasting = shared.model_copy(update={"workspace": shared.workspace.model_copy(update={"lease_s": 3600, "every_s": 60})})

    def fail(building: Building) -> Steps:
        (building.inprogress / "step-0").write_text("0")
        (building.inprogress / "writing-1").mkdir()
        (building.inprogress / "writing-1" / "half").write_text("ha")
        raise RuntimeError("broken")

    with machine(lasting, tmp_path / "a") as a, pytest.raises(RuntimeError, match="broken"):
        a.produce(STAGE, ["in"], None, Steps, fail)
    with machine(lasting, tmp_path / "b") as b:
        make(b, tmp_path / "by-b")
    assert steps_of(tmp_path / "by-b") == [1, 2, 3, 4]


def test_while_a_stopped_build_is_sent_its_claim_is_renewed_and_the_end_of_the_run_waits_for_it(
    shared: Settings, client: StoreClient, tmp_path: Path
) -> None:
    sending, go = threading.Event(), threading.Event()
    sent: list[str] = []

    def fail(building: Building) -> Steps:
        (building.inprogress / "step-0").write_text("0")
        held = shelf_of(a)._held[0]
        send = held.growing.send

        def slow() -> None:
            sent.append("again" if sending.is_set() else "the last time")
            sending.set()
            go.wait(30)
            send()

        held.growing.send = slow  # type: ignore[method-assign]
        raise RuntimeError("broken")

    def make_and_fail() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            a.produce(STAGE, ["in"], None, Steps, fail)

    with machine(shared, tmp_path / "a") as a:
        build = threading.Thread(target=make_and_fail)
        build.start()
        assert sending.wait(30)
        (key,) = keys(client, "claims")
        end = threading.Thread(target=shelf_of(a).wait_for_last)
        end.start()
        for _ in range(2):
            beat = client.read(key)
            eventually(lambda beat=beat: client.read(key) != beat)  # type: ignore[misc]
        assert (end.is_alive(), len(sent)) == (True, 1)
        go.set()
        end.join(30)
        build.join(30)
        assert Claim(client, key, 60).take() == ""


def test_a_worker_that_was_not_heard_of_loses_its_claim_stops_and_commits_nothing(
    shared: Settings, client: StoreClient, tmp_path: Path
) -> None:
    """As when a machine slept: its claim is old by the store's clock, and another one has taken it over when it wakes."""
    kept = threading.Event()

    def sleep(building: Building) -> Steps:
        (building.inprogress / "step-0").write_text("0")
        (building.folder / "mine").write_text("a")
        held = shelf_of(a)._held[0]
        thief = Claim(client, held.claim.key, 3600)
        with held.claim._lock:  # no renewal meanwhile
            eventually(lambda: not thief.take())
        kept.set()
        return Steps(count=1)

    with machine(shared, tmp_path / "a") as a, pytest.raises((LostClaim, Stopped)):
        a.produce(STAGE, ["in"], None, Steps, sleep)
    assert kept.is_set()
    assert not (tmp_path / "a" / "workspace" / "products" / "steps").exists()
    assert [key for key in keys(client, "products") if key.endswith("manifest.json")] == []


def test_a_renewal_whose_answer_was_lost_is_not_taken_for_a_theft(shared: Settings, client: StoreClient) -> None:
    mine, next_one = (Claim(client, client.key("workspace", "claims", "x.json"), lease_s=60) for _ in range(2))
    assert mine.take() == ""

    def written_unheard() -> None:
        """What a write leaves whose answer, and those to all its retries, never came."""
        assert mine._etag
        assert client.put_if(mine.key, mine._body(), mine._etag)

    written_unheard()
    mine.renew()
    assert not mine.lost.is_set()
    assert next_one.take() != ""
    written_unheard()
    mine.give_back()
    assert next_one.take() == "", "it was given back, so that the next one need not wait for the lease's end"
    mine._etag = '"of its own, long ago"'
    with pytest.raises(LostClaim):
        mine.renew()


def test_a_snapshot_that_was_sent_unheard_is_not_taken_for_anothers(shared: Settings, client: StoreClient, tmp_path: Path) -> None:
    mine, other = (Growing(client, tmp_path / name, "workspace/inprogress/steps/x") for name in ("a", "b"))
    for each in (mine, other):
        each.folder.mkdir()
    mine.restore()
    (mine.folder / "step-0").write_text("0")
    mine.send()
    known = mine._etag
    (mine.folder / "step-1").write_text("1")
    mine.send()
    mine._etag, mine._unheard = known, [client.read(mine._key(SNAPSHOT))[0]]  # type: ignore[index]  # as if its answer was lost
    (mine.folder / "step-2").write_text("2")
    mine.send()
    other.restore()
    assert sorted(path.name for path in other.folder.glob("step-*")) == ["step-0", "step-1", "step-2"]
    (mine.folder / "step-3").write_text("3")
    with pytest.raises(LostClaim):
        mine.send()


def test_of_many_that_try_to_take_a_stale_claim_one_has_it(shared: Settings, client: StoreClient) -> None:
    dead = Claim(client, client.key("workspace", "claims", "x.json"), lease_s=1)
    assert dead.take() == ""
    eventually(lambda: age(client, dead.key) > 2)
    takers = [Claim(client, dead.key, lease_s=60) for _ in range(8)]
    told: list[str] = []
    threads = [threading.Thread(target=lambda taker=taker: told.append(taker.take())) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count("") == 1
    with pytest.raises(LostClaim, match="run again"):
        dead.renew()


@pytest.mark.parametrize("fault", ["other bytes", "missing"])
def test_a_product_that_was_corrupted_in_the_store_is_never_had_in_part(
    shared: Settings, client: StoreClient, tmp_path: Path, fault: str
) -> None:
    with machine(shared, tmp_path / "a") as a:
        make(a, tmp_path / "made")
    victim = next(key for key in keys(client, "products") if not key.endswith("manifest.json"))
    client.write(victim, b"other") if fault == "other bytes" else client.remove(victim)
    with machine(shared, tmp_path / "b") as b, pytest.raises(IntegrityError):
        make(b, tmp_path / "made")
    assert list((tmp_path / "b" / "workspace").glob("products/*/*")) == []
    assert list((tmp_path / "b" / "workspace").glob("inprogress/steps/.*")) == []


def test_what_was_made_before_the_workspace_was_shared_is_handed_in(shared: Settings, tmp_path: Path) -> None:
    make(Workspace(tmp_path / "a" / "workspace"), tmp_path / "by-a")
    with machine(shared, tmp_path / "a") as a:
        assert make(a, tmp_path / "by-a").reused
    with machine(shared, tmp_path / "b") as b:
        assert make(b, tmp_path / "by-b").reused


def test_a_workspace_that_only_finds_makes_nothing(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a:
        with pytest.raises(NotMade):
            make(a.only_finding(), tmp_path / "made")
        make(a, tmp_path / "made")
        assert make(a.only_finding(), tmp_path / "made").reused
        assert a.reused == []


def test_small_files_of_all_machines_come_together(shared: Settings, tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        with machine(shared, tmp_path / name) as each:
            folder = each.root / "looks" / "rows"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"by-{name}.json").write_text(f'"{name}"')
            shelf_of(each).together("looks")
    assert sorted(path.name for path in folder.iterdir()) == ["by-a.json", "by-b.json"]
    assert (folder / "by-b.json").read_text() == '"b"'


@pytest.mark.parametrize(
    ("store", "said"), [({"service": "s3"}, "this machine's own"), ({"single_writer": True}, "store of a single writer")]
)
def test_a_store_that_cannot_be_shared_is_refused(shared: Settings, tmp_path: Path, store: dict[str, object], said: str) -> None:
    other = {"ours": shared.stores["ours"].model_copy(update=store)}
    with pytest.raises(BadConfig, match=said), machine(shared.model_copy(update={"stores": other}), tmp_path / "a"):
        pass


def test_a_report_lies_in_the_store_as_well(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as workspace:
        report = workspace.root / "runs" / "one" / "report.html"
        report.parent.mkdir(parents=True)
        report.write_text("<p>first</p>")
        shelf_of(workspace).keep(report)
        report.write_text("<p>written anew</p>")
        address = shelf_of(workspace).keep(report)
        client = shelf_of(workspace).client
        found = client.read(address.removeprefix(f"s3://{client.store.bucket}/"))
    assert address.endswith("/workspace/runs/one/report.html")
    assert found
    assert found[0] == b"<p>written anew</p>"
