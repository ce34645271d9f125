"""A real HTTP server on loopback that speaks the OpenAI protocol and misbehaves on command."""

import json
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # the usual 5 would turn away those who connect all at once


class Loopback:
    """The server, for the time of a `with`. `behave(request, number)` gives what to say; None says the right answer."""

    def __init__(self, behave: Callable[[dict[str, Any], int], Say | None] | None = None) -> None:
        self.behave = behave or (lambda request, number: None)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
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
            self.requests.append(request)
            self.headers.append(headers)
            number = len(self.requests)
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

            def do_GET(self) -> None:
                self._answer({"path": self.path, "messages": [{"content": ""}]})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, request: dict[str, Any]) -> None:
                self._send(server.answer(request, {name.lower(): value for name, value in self.headers.items()}))

            def _send(self, say: Say) -> None:
                body = (say.body if isinstance(say.body, str) else json.dumps(say.body)).encode()
                try:
                    self.send_response(say.status)
                    self.send_header("Content-Length", str(len(body)))
                    for name, value in say.headers.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.end_headers()
                    self.wfile.write(body[: say.cut_at])
                except OSError:  # the asker went away
                    self.close_connection = True
                if say.cut_at is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Tests have nothing to read here."""

        return Handler
