"""A loopback proxy before a real S3 server: it counts, and on command strips conditions, corrupts bytes, or answers."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Hook = Callable[[str, str], None]
HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Proxy:
    """What it should do wrong, and what it saw."""

    upstream: str
    access_key: str
    secret_key: str
    url: str = ""
    strip_conditions: bool = False
    """Take If-* headers off, as a store that does not know them."""
    corrupt: str = ""
    """Flip a byte of every GET whose path ends with this."""
    corrupt_sent: str = ""
    """Flip a byte of every PUT whose path ends with this."""
    dribble: str = ""
    """Of every GET whose path ends with this, send a byte every tenth of a second."""
    after: Hook = lambda method, path: None
    """Called when a request was passed on, before its answer is."""
    before: Hook = lambda method, path: None
    """Called with method and path before a request is passed on."""
    answer: Callable[[str, str], tuple[int, bytes] | None] = lambda method, path: None
    """Answer in the server's place."""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and the body's bytes."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of the same requests; names in lower case."""

    def sent(self, part: str) -> int:
        """Bytes put to paths that hold `part`."""
        return sum(size for method, path, size in self.requests if method in ("PUT", "POST") and part in path)


@contextmanager
def serve_proxy(upstream: str, access_key: str, secret_key: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream, access_key, secret_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append((self.command, path, len(body)))
            proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
            if proxy.corrupt_sent and self.command == "PUT" and path.endswith(proxy.corrupt_sent):
                body = bytes([body[0] ^ 1]) + body[1:]
            proxy.before(self.command, path)
            own = proxy.answer(self.command, path)
            if own:
                return self._reply(own[0], [("Content-Type", "application/xml")], own[1])
            headers = dict(self.headers.items())
            if proxy.strip_conditions and any(name.lower().startswith("if-") for name in headers):
                headers = _unconditional(proxy, self.command, self.path, headers, body)
            connection = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=30)
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            proxy.after(self.command, path)
            if proxy.corrupt and self.command == "GET" and path.endswith(proxy.corrupt) and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            self._reply(response.status, response.getheaders(), content)

        def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in HOP | {"content-length"}:
                    self.send_header(name, value)
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
            self.end_headers()
            if self.command == "GET" and proxy.dribble and urlsplit(self.path).path.endswith(proxy.dribble):
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
            elif self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _unconditional(proxy: Proxy, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The request without If-* headers, signed again, since the signature covers them."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    kept = {name: value for name, value in headers.items() if not name.lower().startswith(("if-", "authorization", "x-amz-date"))}
    request = AWSRequest(method, f"http://{headers['Host']}{path}", headers=kept, data=body)
    S3SigV4Auth(Credentials(proxy.access_key, proxy.secret_key), "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())
