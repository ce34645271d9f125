from pathlib import Path

import pytest

from tasks.tuning import checkpoints


def put(root: Path, step: int, best: int | None = None) -> None:
    checkpoints.save(root, step, {"best_step": best}, lambda folder: (folder / "weights").write_bytes(b"w" * step) and None)


def test_the_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        put(tmp_path, step)
    found = checkpoints.newest(tmp_path)
    assert found
    assert (found.step, found.folder) == (10, tmp_path / "checkpoint-10")


def test_what_was_half_written_is_set_aside_with_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, 5)

    def dies(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 6, {}, dies)
    (tmp_path / "checkpoint-7").mkdir()  # as Trainer writes them: in place, so that a kill leaves a part
    (tmp_path / "checkpoint-7/weights").write_bytes(b"half")
    found = checkpoints.newest(tmp_path)
    assert found
    assert found.step == 5
    assert len(list((tmp_path / "set-aside").iterdir())) == 2
    assert "checkpoint writing-6 is set aside" in caplog.text
    assert "checkpoint checkpoint-7 is set aside" in caplog.text


def test_changed_bytes_are_set_aside(tmp_path: Path) -> None:
    put(tmp_path, 5)
    put(tmp_path, 6)
    (tmp_path / "checkpoint-6/weights").write_bytes(b"rotten")
    found = checkpoints.newest(tmp_path)
    assert found
    assert found.step == 5


def test_a_checkpoint_whose_best_weights_are_lost_is_not_resumed(tmp_path: Path) -> None:
    put(tmp_path, 4, best=4)
    put(tmp_path, 8, best=6)
    found = checkpoints.newest(tmp_path)
    assert found
    assert found.step == 4


def test_pruning_keeps_the_named_steps(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        put(tmp_path, step)
    checkpoints.prune(tmp_path, {1, 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]
