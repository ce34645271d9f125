"""The server from outside: what it answers, refuses, counts, and how it ends."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tasks.manifest import read_manifest, write_manifest
from tasks.prompting.messages import answer_schema
from tests.live import BIN, environment
from tests.prompting.loopback import Loopback
from tests.serving.conftest import NAME, Court, serving
from tests.tiny_model import GOOD, LABELS, examples

pytestmark = pytest.mark.slow
ROWS = [row.inputs for row in examples("served", 24)]


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def health(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/health").raise_for_status().json())


def answers(url: str, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    return list(httpx.post(f"{url}/predict", json={"rows": rows}, timeout=60).raise_for_status().json()["answers"])


def test_one_row_and_many_are_answered_in_order_and_alike_in_any_batch(server: str) -> None:
    many = answers(server, ROWS)
    assert all(answer["label"] in LABELS and 0 < answer["probability"] <= 1 and answer["failure"] is None for answer in many)
    with ThreadPoolExecutor(8) as pool:
        single = list(pool.map(lambda row: httpx.post(f"{server}/predict", json={"row": row}, timeout=60).json(), ROWS))
    assert [each["answers"][0]["label"] for each in single] == [answer["label"] for answer in many]
    assert [each["answers"][0]["probability"] for each in single] == pytest.approx([each["probability"] for each in many], abs=1e-5)
    assert {each["champion"]["name"] for each in single} == {NAME}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give row (one) or rows (several)"),
        ({"row": {"text": "a"}, "rows": [{"text": "a"}]}, "give row (one) or rows (several)"),
        ({"rows": []}, "at least 1"),
        ({"rows": [{"text": "a"}, {"txt": "b"}]}, "the columns are text; this row has txt"),
        ({"row": {"text": " "}}, "no text"),
        ({"row": {"text": "a" * 3000}}, "max_characters"),
        ({"row": {"text": 7}}, "string"),
        ({"row": {"text": "a"}, "colour": "red"}, "Extra inputs"),
        ({"rows": [{"text": "a"}] * 1001}, "1001 rows in one request"),
        ("nonsense", "JSON"),
    ],
)
def test_what_cannot_be_read_is_a_422_that_says_what_and_repeats_nothing(server: str, body: Any, message: str) -> None:
    sent = {"content": body, "headers": {"Content-Type": "application/json"}} if isinstance(body, str) else {"json": body}
    reply = httpx.post(f"{server}/predict", **sent)
    assert reply.status_code == 422
    assert message in reply.text
    assert "a" * 100 not in reply.text
    assert set(reply.json()["detail"][0]) == {"type", "loc", "msg"}


def test_a_body_that_is_too_large_is_a_413_however_it_is_sent(server: str) -> None:
    large = b'{"row": {"text": "' + b"x" * (9 << 20) + b'"}}'
    assert httpx.post(f"{server}/predict", content=large).status_code == 413
    pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
    with suppress(httpx.WriteError):  # it may be turned away before it was all sent
        assert httpx.post(f"{server}/predict", content=pieces).status_code == 413


def test_a_client_of_the_prompted_llm_switches_by_its_base_url_alone(server: str) -> None:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id.startswith(f"{NAME}:v")
    right = [answer["label"] for answer in answers(server, ROWS[:4])]
    for row, label in zip(ROWS, right, strict=False):
        said: Any = [{"role": "system", "content": "Label."}, {"role": "user", "content": row["text"]}]
        plain = client.chat.completions.create(model="gpt-4o-mini", messages=said, temperature=0, seed=1, max_tokens=8)
        assert (plain.choices[0].message.content, plain.choices[0].finish_reason) == (label, "stop")
        assert plain.usage
        assert plain.usage.prompt_tokens > 0
        schema: Any = answer_schema(LABELS)
        held = client.chat.completions.create(model="gpt-4o-mini", messages=said, response_format=schema)
        assert json.loads(held.choices[0].message.content or "") == {"label": label}
        pieces = client.chat.completions.create(model="m", messages=said, stream=True, response_format=schema)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == held.choices[0].message.content
        scored = client.chat.completions.create(model="m", messages=said, logprobs=True, top_logprobs=2)
        assert scored.choices[0].logprobs
        assert scored.choices[0].logprobs.content
        first = scored.choices[0].logprobs.content[0]
        assert first.token == label
        assert {top.token for top in first.top_logprobs} == set(LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, "properties"),
        ({"response_format": answer_schema(["good", "bad"])}, "the schema does not allow"),
        ({"tool_choice": "required"}, "no tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "more than text"),
        ({"messages": [{"role": "user", "content": ""}]}, "no text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no message of the user"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_chat_that_cannot_be_answered_is_a_400_in_the_protocols_words(server: str, change: dict[str, Any], message: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a film"}]} | change
    reply = httpx.post(f"{server}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_metrics_count_requests_rows_and_batches_and_hold_nothing_that_was_sent(server: str) -> None:
    answers(server, [{"text": "a secret film"}])
    httpx.get(f"{server}/secret-path")
    text = httpx.get(f"{server}/metrics").raise_for_status().text
    assert 'bakeoff_requests_total{route="/predict",status="200"}' in text
    assert 'route="other",status="404"' in text
    for name in ("bakeoff_batch_rows_bucket", "bakeoff_waiting_rows 0.0", "bakeoff_champion_version", "bakeoff_degraded 0.0"):
        assert name in text
    assert "secret" not in text


def test_requests_at_once_share_batches(server: str) -> None:
    def batches() -> float:
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("bakeoff_batch_rows_count"))

    before = batches()
    with httpx.Client(limits=httpx.Limits(max_connections=32)) as client, ThreadPoolExecutor(32) as pool:

        def ask(row: dict[str, str]) -> int:
            return client.post(f"{server}/predict", json={"row": row}, timeout=60).status_code

        done = list(pool.map(ask, ROWS * 10))
    assert set(done) == {200}
    assert batches() - before < 200, "240 requests"


def test_no_request_fails_while_the_crown_moves_and_a_champion_that_cannot_be_loaded_stays_out(court: Court, server: str) -> None:
    seen: set[int] = set()
    stop: list[bool] = []

    def ask(client: httpx.Client) -> int:
        count = 0
        while not stop:
            reply = client.post(f"{server}/predict", json={"row": ROWS[count % 24]}, timeout=60)
            assert reply.status_code == 200, reply.text
            seen.add(reply.json()["champion"]["version"])
            count += 1
        return count

    with httpx.Client() as client, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, client) for _ in range(4)]
        try:
            for who in ("tfidf", "lora", "majority"):
                good = court.crown(who).version
                wait_for(lambda: good in seen)  # noqa: B023 - it is waited for here
                assert health(server)["champion"]["version"] == good
            court.contenders["bad"] = court.contenders["lora"].model_copy(update={"folder": _without_base(court)})
            bad = court.crown("bad").version
            wait_for(lambda: health(server)["status"] == "degraded")
            told, text = health(server), httpx.get(f"{server}/metrics").text
            assert told["champion"]["version"] == good
            assert f"version {bad} (lora) cannot be loaded" in told["trouble"]
            assert "bakeoff_degraded 1.0" in text
            assert f"bakeoff_pointer_version {float(bad)}" in text
            last = court.crown("lora").version
            wait_for(lambda: health(server)["status"] == "ok")
            assert health(server)["champion"]["version"] == last
            wait_for(lambda: last in seen)
        finally:
            stop.append(True)
        assert all(each.result() > 0 for each in asking)
    assert {good, last} <= seen
    assert bad not in seen


def _without_base(court: Court) -> Path:
    """The tuned contender, made for a base that is nowhere."""
    folder = court.folder / "bad"
    shutil.copytree(court.contenders["lora"].folder, folder)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"spec": manifest.spec | {"source": "nowhere", "base": "folder-none"}}))
    return folder


def test_a_prompted_champion_asks_its_endpoint_once_a_row_and_tells_what_it_cost(
    court: Court, server: str, loopback: Loopback
) -> None:
    version = court.crown("asked").version
    wait_for(lambda: health(server)["champion"]["version"] == version)
    asked = len(loopback.requests)
    told = answers(server, [*ROWS, ROWS[0], {"text": "declined"}])
    right = ["positive" if any(word in row["text"] for word in GOOD) else "negative" for row in ROWS]
    assert [answer["label"] for answer in told] == [*right, right[0], None]
    assert (told[-1]["failure"], told[0]["cost_usd"] > 0) == ("refused", True)
    assert answers(server, ROWS) == told[:24], "from the journal"
    assert len(loopback.requests) - asked == 25
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    for text, content, refusal in ((ROWS[0]["text"], right[0], None), ("declined", None, "I'm sorry, no.")):
        said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}]).choices[0].message
        assert (said.content, said.refusal) == (content, refusal)
    version = court.crown("lora").version
    wait_for(lambda: health(server)["champion"]["version"] == version)


def test_a_key_is_asked_for_a_taken_port_is_said_and_sigterm_lets_requests_under_way_end(court: Court) -> None:
    with serving(court, "--key-env", "SERVE_KEY", SERVE_KEY="sesame-1234567") as (url, process):
        assert httpx.post(f"{url}/predict", json={"row": ROWS[0]}).status_code == 401
        wrong = {"Authorization": "Bearer sesame"}
        reply = httpx.post(f"{url}/v1/chat/completions", json={"messages": []}, headers=wrong)
        assert (reply.status_code, "sesame" in reply.text) == (401, False)
        right = {"Authorization": "Bearer sesame-1234567"}
        assert httpx.post(f"{url}/predict", json={"row": ROWS[0]}, headers=right).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200
        host, port = url.removeprefix("http://").split(":")
        assert "cannot listen" in _refused(court, port)
        body = json.dumps({"rows": ROWS * 40}).encode()
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame-1234567\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            connection.sendall(body[-1:])
            said = connection.makefile("rb").read()
        assert said.startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready")


def _refused(court: Court, port: str) -> str:
    """What a server says that cannot start."""
    env = environment(BAKEOFF_HOME=str(court.folder / "home"), BAKEOFF_SETTINGS=str(court.folder / "settings.yaml"))
    command = [str(BIN / "bakeoff"), "serve", "task.yaml", "--port", port]
    done = subprocess.run(command, env=env, cwd=court.folder, capture_output=True, text=True, timeout=200)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    return done.stderr
