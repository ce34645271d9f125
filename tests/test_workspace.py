import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tasks.records import Finding, Record
from tasks.workspace import Building, Stage, Workspace, digest, fingerprint, write_durably

STAGE = Stage("count", 1, ())
CLEAN = multiprocessing.get_context("spawn")  # a fork of the tests' process would stumble over its threads as it ends


class Count(Record):
    number: int


def build(building: Building) -> Count:
    (building.folder / "number.txt").write_text("3")
    with (building.inprogress.parent / "builds").open("a") as log:
        log.write("x")
    return Count(number=3)


def builds(workspace: Workspace) -> int:
    log = workspace.root / "inprogress" / "count" / "builds"
    return len(log.read_text()) if log.exists() else 0


def test_a_product_is_built_once_and_then_reused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = workspace.produce(STAGE, ["in"], {"a": 1}, Count, build)
    second = workspace.produce(STAGE, ["in"], {"a": 1}, Count, build)
    assert (first.number, first.reused, second.reused) == (3, False, True)
    assert first.fingerprint == second.fingerprint
    assert (second.folder / "number.txt").read_text() == "3"
    assert workspace.reused == ["count"]
    assert builds(workspace) == 1


@pytest.mark.parametrize(
    ("stage", "inputs", "config"),
    [(Stage("count", 2, ()), ["in"], {"a": 1}), (STAGE, ["other"], {"a": 1}), (STAGE, ["in"], {"a": 2})],
)
def test_a_changed_version_input_or_config_is_always_a_miss(
    tmp_path: Path, stage: Stage, inputs: list[str], config: dict[str, int]
) -> None:
    workspace = Workspace(tmp_path)
    workspace.produce(STAGE, ["in"], {"a": 1}, Count, build)
    workspace.produce(stage, inputs, config, Count, build)
    assert builds(workspace) == 2


def test_a_builder_that_fails_leaves_no_product_and_keeps_what_it_had_in_progress(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def fail(building: Building) -> Count:
        (building.inprogress / "checkpoint").write_text("half")
        (building.folder / "number.txt").write_text("ha")
        raise RuntimeError("broken")

    def resume(building: Building) -> Count:
        assert (building.inprogress / "checkpoint").read_text() == "half"
        assert list(building.folder.iterdir()) == []
        return Count(number=4)

    with pytest.raises(RuntimeError, match="broken"):
        workspace.produce(STAGE, [], None, Count, fail)
    assert workspace.find(STAGE, [], None, Count) is None
    assert workspace.produce(STAGE, [], None, Count, resume).number == 4


def _build_and_die(root: Path) -> None:
    def die(building: Building) -> Count:
        (building.folder / "record.json").write_text('{"number": 1}')
        os.kill(os.getpid(), signal.SIGKILL)
        return Count(number=1)

    Workspace(root).produce(STAGE, [], None, Count, die)


def test_a_kill_in_the_middle_leaves_no_half_product(tmp_path: Path) -> None:
    child = CLEAN.Process(target=_build_and_die, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert Workspace(tmp_path).produce(STAGE, [], None, Count, build).number == 3


def test_two_containers_with_equal_process_ids_write_a_file_of_a_shared_home_each_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "file.json", os.fsync
    others = ["b" * 9000]

    def meet(descriptor: int) -> None:
        """In the middle of one writing, the other one writes, from its beginning to its end."""
        sync(descriptor)
        if others:
            write_durably(path, others.pop())
            assert path.read_text() == "b" * 9000

    monkeypatch.setattr(os, "fsync", meet)
    write_durably(path, "a" * 10)
    assert path.read_text() == "a" * 10
    assert list(tmp_path.iterdir()) == [path]


def test_a_writing_that_fails_leaves_nothing_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file.json").write_text("as it was")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "file.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.json", "as it was")]


def _produce(root: Path) -> None:
    Workspace(root).produce(STAGE, ["shared"], None, Count, build)


def test_processes_that_want_the_same_product_build_it_once(tmp_path: Path) -> None:
    children = [CLEAN.Process(target=_produce, args=(tmp_path,)) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    assert builds(Workspace(tmp_path)) == 1


def test_fingerprints_do_not_depend_on_the_order_of_keys_and_hold_records() -> None:
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    assert fingerprint(STAGE, [], Finding(kind="k", count=1, message="m")) != fingerprint(STAGE, [], None)
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))
