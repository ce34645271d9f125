import multiprocessing
import os
import signal
import time
from pathlib import Path

from tasks.prompting.ask import journal_path
from tasks.prompting.journal import Journal, Reply
from tasks.settings import Settings
from tests.sharing.machine import machine
from tests.sharing.test_shelf import shelf_of

CLEAN = multiprocessing.get_context("spawn")


def reply(text: str) -> Reply:
    return Reply(text, "stop", None, 10, 1, 0.001, 5.0, 1, logprobs='[{"token": "ä", "logprob": -0.1}]')


def answer(settings: Settings, home: Path, count: int, seconds: float) -> None:
    """A machine that is answered again and again, until it is killed."""
    with machine(settings, home) as workspace, Journal(journal_path(workspace.root, "paid")) as journal:
        for number in range(count):
            journal.keep(f"k{number}", "m", reply(f"text {number}"))
            (home / "kept").write_text(str(number + 1))
            time.sleep(seconds)


def found(home: Path, count: int) -> list[str]:
    with Journal(journal_path(home / "workspace", "paid")) as journal:
        replies = [journal.find(f"k{number}") for number in range(count)]
    return [each.text for each in replies if each]


def test_what_one_machine_was_answered_all_others_have_word_for_word(shared: Settings, tmp_path: Path) -> None:
    answer(shared, tmp_path / "a", 3, 0)
    with machine(shared, tmp_path / "b") as b, Journal(journal_path(b.root, "paid")) as journal:
        assert [journal.find(f"k{number}") for number in range(3)] == [reply(f"text {number}") for number in range(3)]
        journal.keep("k3", "m", reply("text 3"))
    with machine(shared, tmp_path / "a"):
        assert found(tmp_path / "a", 4) == [f"text {number}" for number in range(4)]


def test_a_machine_that_is_killed_while_it_is_answered_loses_at_most_what_came_since_the_last_sending(
    shared: Settings, tmp_path: Path
) -> None:
    (tmp_path / "killed").mkdir()
    child = CLEAN.Process(target=answer, args=(shared, tmp_path / "killed", 1000, 0.01))
    child.start()
    while not (tmp_path / "killed" / "kept").exists() or int((tmp_path / "killed" / "kept").read_text() or 0) < 150:
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(int(str(child.pid)), signal.SIGKILL)
    child.join()
    kept = int((tmp_path / "killed" / "kept").read_text() or 150)
    with machine(shared, tmp_path / "next"):
        elsewhere = found(tmp_path / "next", kept)
    assert elsewhere, "sent while it was asked, not at its end; the campaign `machines` measures how much was missing"
    assert elsewhere == [f"text {number}" for number in range(len(elsewhere))]
    with machine(shared, tmp_path / "killed"):
        pass
    with machine(shared, tmp_path / "next"):
        assert len(found(tmp_path / "next", kept)) == kept, "the killed one's home had them all, and has sent them now"


def test_more_answers_than_one_segment_holds_go_on_in_the_next(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:
        for number in range(5):
            journal.keep(f"k{number}", "m", reply("x" * 200_000))
            shelf_of(a).send_parts()
        names = [each.key.rpartition("-")[2] for each in shelf_of(a).client.listed("workspace", "journal")]
        assert names == ["000001.jsonl", "000002.jsonl", "000003.jsonl"]
    with machine(shared, tmp_path / "b"):
        assert len(found(tmp_path / "b", 5)) == 5


def test_a_batch_under_way_is_known_to_all_until_it_ends(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:
        journal.plan_batch("one", ["k1", "k2"])
        journal.name_batch("one", "batch-7")
        shelf_of(a).send_parts()
        with machine(shared, tmp_path / "b") as b, Journal(journal_path(b.root, "paid")) as other:
            assert [(each.name, each.batch_id, each.keys) for each in other.planned_batches()] == [("one", "batch-7", ["k1", "k2"])]
        journal.end_batch("one")
        shelf_of(a).send_parts()
        with machine(shared, tmp_path / "c") as c, Journal(journal_path(c.root, "paid")) as other:
            assert other.planned_batches() == []
