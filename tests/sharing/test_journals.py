import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.s3 import LocalS3
from tasks.errors import StoreError
from tasks.prompting import batch as batches
from tasks.prompting import journal as journals
from tasks.prompting.ask import AskContext, answer_questions, journal_path
from tasks.prompting.ask import Question as Asked
from tasks.prompting.budget import Cap
from tasks.prompting.journal import Journal, Reply
from tasks.records import Answer
from tasks.settings import Settings
from tasks.sharing import sending
from tasks.store import StoreClient
from tasks.workspace import Workspace
from tests.live import eventually
from tests.prompting.conftest import make_endpoint, make_examples, make_spec
from tests.prompting.loopback import Loopback, Say, right_answer
from tests.registry.proxy import Proxy, serve_proxy
from tests.sharing.machine import machine
from tests.sharing.test_shelf import shelf_of

CLEAN = multiprocessing.get_context("spawn")
CONCURRENCY = 4
JOURNAL = "/journal/"
SELDOM_S = 60.0
"""Between two sendings that nobody waits for: longer than a test takes."""


def reply(text: str) -> Reply:
    return Reply(text, "stop", None, 10, 1, 0.001, 5.0, 1, logprobs='[{"token": "ä", "logprob": -0.1}]')


def answer(settings: Settings, home: Path, count: int, seconds: float) -> None:
    """A machine that is answered again and again, until it is killed."""
    with machine(settings, home) as workspace, Journal(journal_path(workspace.root, "paid")) as journal:
        for number in range(count):
            journal.keep(f"k{number}", "m", reply(f"text {number}"))
            (home / "kept").write_text(str(number + 1))
            time.sleep(seconds)


def seldom(shared: Settings) -> Settings:
    return shared.model_copy(update={"workspace": shared.workspace.model_copy(update={"every_s": SELDOM_S})})


def ask(settings: Settings, home: Path, url: str, rows: int, **changes: Any) -> list[Answer]:
    """A machine that asks about rows, two requests a row, with what an endpoint is asked otherwise."""
    with pytest.MonkeyPatch.context() as patch, machine(settings, home) as here:
        patch.setattr(batches, "FIRST_POLL_S", 0.05)
        return ask_in(here, url, rows, **changes)


def ask_in(here: Workspace, url: str, rows: int, **changes: Any) -> list[Answer]:
    endpoint = make_endpoint(url, concurrency=CONCURRENCY, **changes)
    context = AskContext(endpoint, Cap(1.0), journal_path(here.root, "there"), sharing=here.sharing)
    return answer_questions(make_spec(rounds=1, review="Sure?"), [Asked(each) for each in make_examples(rows)], context)


def ask_until_killed(when: Callable[[], Any], settings: Settings, home: Path, url: str, rows: int, changes: dict[str, Any]) -> None:
    """The same in a process of its own, which is killed at some moment."""
    child = CLEAN.Process(target=ask, args=(settings, home, url, rows), kwargs=changes)
    child.start()
    eventually(when)
    assert child.is_alive()
    os.kill(int(str(child.pid)), signal.SIGKILL)
    child.join()


def bodies(server: Loopback) -> Counter[str]:
    return Counter(json.dumps(request["messages"]) for request in server.requests)


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


@pytest.mark.parametrize("at", [9, 30, 51])
def test_a_machine_that_is_killed_while_it_asks_and_never_seen_again_has_at_most_the_calls_under_way_paid_for_again(
    shared: Settings, tmp_path: Path, at: int
) -> None:
    def unhurried(request: dict[str, Any], number: int) -> Say:
        say = right_answer(request)
        say.after_s = 0.02
        return say

    with Loopback(unhurried) as server:
        ask_until_killed(lambda: len(server.requests) >= at, seldom(shared), tmp_path / "killed", server.url, 40, {})
        before = len(server.requests)
        answers = ask(seldom(shared), tmp_path / "next", server.url, 40)
        assert before < 80 <= len(server.requests), "killed in the middle, and asked on"
        again = bodies(server).total() - len(bodies(server))
    assert len(bodies(server)) == 80
    assert [each.failure for each in answers] == [None] * 40
    assert again <= CONCURRENCY


def test_a_batch_that_was_handed_in_by_a_machine_that_is_never_seen_again_is_not_handed_in_twice(
    shared: Settings, tmp_path: Path
) -> None:
    with Loopback() as server:

        def unanswered() -> None:
            time.sleep(2)

        server.batches.on_made = unanswered
        changes = {"batch": True}
        ask_until_killed(lambda: server.batches.made, seldom(shared), tmp_path / "killed", server.url, 10, changes)
        server.batches.on_made = lambda: None
        ask(seldom(shared), tmp_path / "next", server.url, 10, batch=True)
        assert len(server.batches.made) == 2, "one a turn of the conversation"
        assert set(bodies(server).values()) == {1}


def refuse(proxy: Proxy) -> None:
    proxy.answer = lambda method, path: (403, b"<Error><Code>AccessDenied</Code></Error>") if JOURNAL in path else None


def stall(proxy: Proxy) -> None:
    proxy.before = lambda method, path: time.sleep(6) if JOURNAL in path and method == "PUT" else None


def test_replies_of_a_batch_are_in_the_store_before_it_is_forgotten_there(shared: Settings, tmp_path: Path) -> None:
    with machine(seldom(shared), tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:
        journal.plan_batch("one", ["k0"])
        shelf_of(a).send_parts()
        shelf_of(a).client.client.meta.events.register("before-send.s3.PutObject", lambda **_: ended())

        def ended() -> None:
            """While an earlier reply is being sent, the batch ends here."""
            with Journal(journal.path) as here:  # of this thread
                if not here.find("k0"):
                    here.keep("k0", "m", reply("of the batch"))
                    here.end_batch("one")

        journal.keep("k1", "m", reply("asked alone"))
        shelf_of(a).send_parts()
        names = [each.key for each in shelf_of(a).client.listed("workspace", "journal")]
        assert any(name.endswith("/batches/one.json") for name in names), "its reply is not there yet"
        shelf_of(a).send_parts()
        names = [each.key for each in shelf_of(a).client.listed("workspace", "journal")]
        assert not any("/batches/" in name for name in names)
        with machine(shared, tmp_path / "b"):
            assert found(tmp_path / "b", 2) == ["of the batch", "asked alone"]


def test_a_segment_whose_write_failed_is_not_written_again_since_the_attempt_may_arrive_late(
    shared: Settings, tmp_path: Path
) -> None:
    late: list[tuple[str, bytes]] = []
    with machine(seldom(shared), tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:

        def cut(_: StoreClient, key: str, body: bytes) -> None:
            late.append((key, body))
            raise StoreError("the connection failed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StoreClient, "write", cut)
            journal.keep("k0", "m", reply("text 0"))
            assert not shelf_of(a).send_parts()
        journal.keep("k1", "m", reply("text 1"))
        assert shelf_of(a).send_parts()
        for key, body in late:
            shelf_of(a).client.write(key, body)
    with machine(shared, tmp_path / "b"):
        assert found(tmp_path / "b", 2) == ["text 0", "text 1"]


def test_a_journal_that_cannot_be_read_keeps_no_other_from_being_sent(
    shared: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with machine(shared, tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:
        journal_path(a.root, "broken").write_bytes(b"not a database, but long enough to be taken for one" * 100)
        journal.keep("k0", "m", reply("text 0"))
        eventually(lambda: shelf_of(a).client.listed("workspace", "journal"))
        journal_path(a.root, "broken").unlink()
    assert "could not be sent" in caplog.text
    with machine(shared, tmp_path / "b"):
        assert found(tmp_path / "b", 1) == ["text 0"]


@pytest.mark.parametrize(
    ("trouble", "said"), [(refuse, "is not in the store yet"), (stall, "is slow: asking goes on")], ids=["refuses", "is slow"]
)
def test_asking_goes_on_where_the_store_is_in_trouble_and_what_was_answered_is_sent_when_it_is_well_again(
    shared: Settings,
    s3_server: LocalS3,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Proxy], None],
    said: str,
) -> None:
    monkeypatch.setattr(journals, "SENT_WITHIN_S", 3.0)
    monkeypatch.setattr(sending, "PATIENCE_S", 0.5)
    with Loopback() as server, serve_proxy(s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key) as proxy:
        through = shared.model_copy(
            update={"stores": {"ours": shared.stores["ours"].model_copy(update={"endpoint_url": proxy.url})}}
        )
        with machine(seldom(through), tmp_path / "a") as a:
            trouble(proxy)
            answers = ask_in(a, server.url, 40)
            assert [each.failure for each in answers] == [None] * 40
            assert caplog.text.count(said) <= CONCURRENCY, "said by those that waited together; nobody waits after that"
            assert said in caplog.text
            proxy.answer, proxy.before = (lambda method, path: None), (lambda method, path: None)
        ask(shared, tmp_path / "b", server.url, 40)
        assert len(server.requests) == 80, "asked once, two requests a row"


def test_more_answers_than_one_segment_holds_go_on_in_the_next(shared: Settings, tmp_path: Path) -> None:
    with machine(shared, tmp_path / "a") as a, Journal(journal_path(a.root, "paid")) as journal:
        for number in range(5):
            journal.keep(f"k{number}", "m", reply("x" * 50_000))
            shelf_of(a).send_parts()
        names = [each.key.rpartition("-")[2] for each in shelf_of(a).client.listed("workspace", "journal")]
        assert names == ["000001.jsonl", "000002.jsonl", "000003.jsonl"]
    with machine(shared, tmp_path / "b"):
        assert len(found(tmp_path / "b", 5)) == 5


def test_a_journal_that_another_process_has_only_begun_to_make_is_made_whole(shared: Settings, tmp_path: Path) -> None:
    answer(shared, tmp_path / "a", 3, 0)
    begun = journal_path(tmp_path / "b" / "workspace", "paid")
    begun.parent.mkdir(parents=True)
    begun.touch()  # SQLite's first act; the tables come a moment later
    with machine(shared, tmp_path / "b"):
        assert found(tmp_path / "b", 3) == [f"text {number}" for number in range(3)]


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
