"""A stand-in on loopback that speaks the Hub's protocol to the real `huggingface_hub` client.

    hub = StandInHub({"datasets/owner/name": folder, "models/owner/name": folder}, {"models/name": "models/owner/name"})
    with hub.serving() as url:      # a process started with HF_ENDPOINT=url and a fresh HF_HOME sees those repositories

Each repository has one commit, named by the content of its files; `main` points to it. As on the Hub, an old name is redirected to
the new one, small files come through a cache on the same host, and large ones from a CDN on another: `localhost`, to whom the
client's token is none of its business.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

API = re.compile(r"^/api/(?P<kind>models|datasets)/(?P<rest>.+)$")
CACHE = re.compile(r"^/api/resolve-cache/(?P<kind>models|datasets)/(?P<name>.+)/(?P<revision>[0-9a-f]{40})/(?P<file>.+)$")
FILE = re.compile(r"^/(?P<datasets>datasets/)?(?P<name>.+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")
LARGE = (".parquet", ".safetensors", ".bin")
"""Endings of what lies on the CDN, as the Hub's `.gitattributes` has it."""


@dataclass(frozen=True)
class Repository:
    """One repository: a folder's files."""

    kind: str
    """`models` or `datasets`."""
    name: str
    folder: Path

    @property
    def files(self) -> list[str]:
        """Relative paths."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    @property
    def commit(self) -> str:
        """A commit's name for the files as they are."""
        return hashlib.sha1("".join(f"{file} {self.etag(file)}\n" for file in self.files).encode()).hexdigest()

    def read(self, file: str) -> bytes:
        return (self.folder / file).read_bytes()

    def etag(self, file: str) -> str:
        """SHA-256 of a large file, git's object id of a small one."""
        content = self.read(file)
        if file.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def knows(self, revision: str) -> bool:
        """Whether this is a name of the one commit."""
        return revision in {"main", self.commit}

    def entry(self, file: str) -> dict[str, object]:
        """A file as the tree lists it."""
        size = (self.folder / file).stat().st_size
        found: dict[str, object] = {"type": "file", "oid": self.etag(file)[:40], "size": size, "path": file}
        return found | ({"lfs": {"oid": self.etag(file), "size": size, "pointerSize": 134}} if file.endswith(LARGE) else {})

    def entries(self, folder: str, recursive: bool) -> list[dict[str, object]]:
        """What a folder of the repository holds."""
        start = f"{folder}/" if folder else ""
        inside = [file for file in self.files if file.startswith(start)]
        if recursive:
            return [self.entry(file) for file in inside]
        folders = sorted({file.removeprefix(start).split("/")[0] for file in inside if "/" in file.removeprefix(start)})
        plain = [self.entry(file) for file in inside if "/" not in file.removeprefix(start)]
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": start + name} for name in folders] + plain


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    host: str
    path: str
    token: str
    """The Authorization header."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class StandInHub:
    """The stand-in; `requests` records what was asked."""

    folders: Mapping[str, Path]
    """Folders by kind and name: `models/owner/name`."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New names by old, each with its kind."""
    requests: list[Request] = field(default_factory=list)

    def repository(self, kind: str, name: str) -> Repository | None:
        """The repository of this name."""
        folder = self.folders.get(f"{kind}/{name}")
        return Repository(kind, name, folder) if folder else None

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on a free port for the time of a `with`; gives the URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, body = unquote(url.path), self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        host = self.headers["Host"].partition(":")[0]
        self.hub.requests.append(Request(self.command, host, path, self.headers.get("Authorization", "")))
        if host == "localhost":
            self._content(path.removeprefix("/cdn/"))
        elif cached := CACHE.match(path):
            self._content(f"{cached['kind']}/{cached['name']}/{cached['file']}")
        elif api := API.match(path):
            self._api(api["kind"], api["rest"].split("/"), parse_qs(url.query), body)
        elif file := FILE.match(path):
            self._file("datasets" if file["datasets"] else "models", file["name"], file["revision"], file["file"])
        else:
            self._no_repository()

    def _api(self, kind: str, steps: list[str], query: Mapping[str, list[str]], body: str) -> None:
        """NAME, NAME/revision/REV, NAME/tree/REV/FOLDER, NAME/paths-info/REV; a name has one or two steps."""
        for length in (2, 1):
            name = "/".join(steps[:length])
            if self._moved(kind, name):
                return None
            if found := self.hub.repository(kind, name):
                break
        else:
            return self._no_repository()
        verb, revision, *inner = steps[length:] or ["revision", "main"]
        if not found.knows(revision):
            return self._missing(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "tree":
            return self._json(found.entries("/".join(inner), query.get("recursive", [""])[0].lower() == "true"))
        if verb == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            return self._json([found.entry(file) for file in found.files if file in asked])
        if verb == "revision":
            files = [{"rfilename": file} for file in found.files]
            return self._json({"id": found.name, "sha": found.commit, "siblings": files, "private": False, "tags": []})
        return self._missing(404, "EntryNotFound", "Entry not found")

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        """Tell what the file is, and where its bytes are."""
        if self._moved(kind, name):
            return None
        found = self.hub.repository(kind, name)
        if not found:
            return self._no_repository()
        if not found.knows(revision):
            return self._missing(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        about = {"X-Repo-Commit": found.commit}
        if file not in found.files:
            return self._missing(404, "EntryNotFound", "Entry not found", **about)
        about |= {"X-Linked-Size": str(len(found.read(file))), "X-Linked-ETag": f'"{found.etag(file)}"'}
        if file.endswith(LARGE):
            port = self.headers["Host"].partition(":")[2]
            return self._send(302, b"", Location=f"http://localhost:{port}/cdn/{kind}/{name}/{quote(file)}", **about)
        return self._send(307, b"", Location=f"/api/resolve-cache/{kind}/{name}/{found.commit}/{quote(file)}", **about)

    def _content(self, where: str) -> None:
        """A file's bytes."""
        kind, owner, name, file = where.split("/", 3)
        found = self.hub.repository(kind, f"{owner}/{name}")
        if not found or file not in found.files:
            return self._missing(404, "EntryNotFound", "Entry not found")
        return self._send(200, found.read(file), ETag=f'"{found.etag(file)}"', **{"X-Repo-Commit": found.commit})

    def _moved(self, kind: str, name: str) -> bool:
        """Redirect an old name to the new one."""
        new = self.hub.renamed.get(f"{kind}/{name}")
        if new:
            self._send(307, b"", Location=self.path.replace(f"/{name}", new.removeprefix(kind), 1))
        return bool(new)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _no_repository(self) -> None:
        """Who has no token is told neither that a repository is private nor that it is not there."""
        self._missing(401, "RepoNotFound", "Repository not found")

    def _missing(self, status: int, code: str, message: str, **headers: str) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), **told, **headers)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
