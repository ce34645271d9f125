"""A real HTTP server on loopback that speaks the OpenAI protocol and misbehaves on command."""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class Say:
    """One HTTP answer."""

    body: Any
    """Text as it is; anything else as JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    """Wait so long before the first byte."""
    drip_s: float = 0.0
    """Wait so long before each byte."""
    cut_at: int | None = None
    """Promise the whole body, send so many bytes, and close."""


def completion(text: str | None, finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion, its usage told."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 40, "completion_tokens": 8, "total_tokens": 48}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def right_answer(request: dict[str, Any]) -> Say:
    """The label that the row names, as JSON where a schema was asked for."""
    label = "positive" if "good" in request["messages"][-1]["content"] else "negative"
    return Say(completion(json.dumps({"label": label}) if "response_format" in request else label))


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Say:
    """An error as OpenAI words it."""
    return Say({"error": {"message": message, "code": code, "type": code}}, status, headers)


def _uploaded(body: bytes) -> str:
    """The file in a multipart form."""
    boundary = body.split(b"\r\n", 1)[0]
    part = next(part for part in body.split(boundary) if b"filename=" in part)
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n").decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # the usual 5 would turn away those who connect all at once


class Batches:
    """Files and batches as OpenAI has them. A batch is worked on when it is looked at for the `looks`th time; then its rows are
    asked of `Loopback.behave`, as if they came one by one. `ending` names how it ends, `keep` how many rows are done by then."""

    def __init__(self) -> None:
        self.looks = 2
        self.ending = "completed"
        self.keep: int | None = None
        self.shuffle = False
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}
        self.on_made: Callable[[], Say | None] = lambda: None
        """Called when a batch is made; what it says goes out in place of the batch."""
        self.on_look: Callable[[], Say | None] = lambda: None
        """Called when a batch is looked at; what it says goes out in place of the batch."""
        self.there = True
        """Whether the server has a Batch API at all."""
        self._numbers = itertools.count(1)
        self._working = threading.Lock()
        """A batch is worked on once, and nobody sees it ended before its files are there."""

    def store(self, text: str) -> str:
        name = f"file-{next(self._numbers)}"
        self.files[name] = text
        return name

    def create(self, body: dict[str, Any]) -> Say:
        batch = {"id": f"batch_{next(self._numbers)}", "object": "batch", "status": "validating", "created_at": int(time.time())}
        batch |= {"input_file_id": body["input_file_id"], "metadata": body.get("metadata"), "looks": 0}
        self.made.insert(0, batch)
        return self.on_made() or Say(batch)

    def list(self, after: str | None) -> Say:
        names = [batch["id"] for batch in self.made]
        start = names.index(after) + 1 if after else 0
        page = self.made[start : start + 2]  # so that a third one needs another page
        more = start + 2 < len(self.made)
        return Say({"object": "list", "data": page, "has_more": more, "last_id": page[-1]["id"] if page else None})

    def retrieve(self, name: str, ask: Callable[[dict[str, Any]], Say]) -> Say:
        batch = next((batch for batch in self.made if batch["id"] == name), None)
        if batch is None:
            return error(404, "no such batch")
        if say := self.on_look():
            return say
        with self._working:
            batch["looks"] += 1
            if batch["looks"] >= self.looks and batch["status"] in ("validating", "in_progress"):
                self._work(batch, ask)
            return Say(dict(batch))

    def _work(self, batch: dict[str, Any], ask: Callable[[dict[str, Any]], Say]) -> None:
        batch |= {"status": self.ending, f"{self.ending}_at": int(time.time())}
        if self.ending == "failed":
            batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        done = rows if self.keep is None else rows[: self.keep]
        good: list[str] = []
        bad: list[str] = []
        for row in done:
            say = ask(row["body"])
            result = {
                "id": "r",
                "custom_id": row["custom_id"],
                "response": {"status_code": say.status, "body": say.body},
                "error": None,
            }
            (good if say.status == 200 else bad).append(json.dumps(result, ensure_ascii=False))
        expired = {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}
        late = [{"id": "r", "custom_id": row["custom_id"], "response": None, "error": expired} for row in rows[len(done) :]]
        bad += map(json.dumps, late if self.ending == "expired" else [])
        if self.shuffle:
            good.reverse()
        batch["request_counts"] = {"total": len(rows), "completed": len(good), "failed": len(bad)}
        batch["output_file_id"] = self.store("\n".join(good) + "\n") if good else None
        batch["error_file_id"] = self.store("\n".join(bad) + "\n") if bad else None


class Loopback:
    """The server, for the time of a `with`. `behave(request, number)` gives what to say; None says the right answer."""

    def __init__(self, behave: Callable[[dict[str, Any], int], Say | None] | None = None) -> None:
        self.behave = behave or (lambda request, number: None)
        self.requests: list[dict[str, Any]] = []
        self.listed: list[dict[str, Any]] = []
        """Looks at the list of models, which cost nothing."""
        self.headers: list[dict[str, str]] = []
        self.batches = Batches()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict[str, Any], headers: dict[str, str]) -> Say:
        with self._lock:
            seen = self.listed if "path" in request else self.requests
            seen.append(request)
            self.headers.append(headers)
            number = len(seen)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            say = self.behave(request, number) or right_answer(request)
            time.sleep(say.after_s)
            return say
        finally:
            with self._lock:
                self._at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each body waits 40 ms for the headers to be acknowledged

            def do_GET(self) -> None:
                path, _, query = self.path.removeprefix("/v1").partition("?")
                if path.startswith(("/batches", "/files")) and not server.batches.there:
                    self._send(error(404, "no such path"))
                elif path == "/batches":
                    after = re.search(r"after=([^&]+)", query)
                    self._send(server.batches.list(after[1] if after else None))
                elif path.startswith("/batches/"):
                    self._send(server.batches.retrieve(path.split("/")[2], lambda request: server.answer(request, self._headers())))
                elif path.startswith("/files/"):
                    text = server.batches.files.get(path.split("/")[2])
                    self._send(error(404, "no such file") if text is None else Say(text))
                else:
                    self._answer({"path": self.path, "messages": [{"content": ""}]})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.endswith(("/batches", "/files")) and not server.batches.there:
                    self._send(error(404, "no such path"))
                elif self.path.endswith("/files"):
                    self._send(Say({"id": server.batches.store(_uploaded(body)), "object": "file"}))
                elif self.path.endswith("/batches"):
                    self._send(server.batches.create(json.loads(body)))
                else:
                    self._answer(json.loads(body))

            def _headers(self) -> dict[str, str]:
                return {name.lower(): value for name, value in self.headers.items()}

            def _answer(self, request: dict[str, Any]) -> None:
                self._send(server.answer(request, self._headers()))

            def _send(self, say: Say) -> None:
                body = (say.body if isinstance(say.body, str) else json.dumps(say.body)).encode()
                try:
                    self.send_response(say.status)
                    self.send_header("Content-Length", str(len(body)))
                    for name, value in say.headers.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.end_headers()
                    for piece in (body[at : at + 1] for at in range(len(body))) if say.drip_s else [body[: say.cut_at]]:
                        time.sleep(say.drip_s)
                        self.wfile.write(piece)
                except OSError:  # the asker went away
                    self.close_connection = True
                if say.cut_at is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Tests have nothing to read here."""

        return Handler
