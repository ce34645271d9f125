"""A stand-in on loopback that speaks the Hub's protocol to the real `huggingface_hub` client.

    hub = FakeHub({"datasets/owner/name": folder, "models/distilbert-base-uncased": folder})
    with hub.serving() as url:      # a process started with HF_ENDPOINT=url and a fresh HF_HOME sees those repositories

Each repository has one commit, named by the content of its files; `main` points to it.
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
from urllib.parse import unquote, urlsplit

API = re.compile(r"^/api/(?P<kind>models|datasets)/(?P<rest>.+)$")
FILE = re.compile(r"^/(?P<datasets>datasets/)?(?P<name>.+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")


@dataclass(frozen=True)
class Repository:
    """One repository: a folder's files."""

    name: str
    folder: Path

    @property
    def files(self) -> list[str]:
        """Relative paths."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    @property
    def commit(self) -> str:
        """A commit's name for the files as they are."""
        return hashlib.sha1("".join(f"{file} {self.hash(file)}\n" for file in self.files).encode()).hexdigest()

    def hash(self, file: str) -> str:
        """The git-like object id of a file."""
        return hashlib.sha1((self.folder / file).read_bytes()).hexdigest()

    def knows(self, revision: str) -> bool:
        """Whether this is a name of the one commit."""
        return revision in {"main", self.commit}

    def entry(self, file: str) -> dict[str, object]:
        """A file as the tree lists it."""
        return {"type": "file", "oid": self.hash(file), "size": (self.folder / file).stat().st_size, "path": file}

    def entries(self, folder: str, recursive: bool) -> list[dict[str, object]]:
        """What a folder of the repository holds."""
        start = f"{folder}/" if folder else ""
        inside = [file for file in self.files if file.startswith(start)]
        if recursive:
            return [self.entry(file) for file in inside]
        folders = sorted({file.removeprefix(start).split("/")[0] for file in inside if "/" in file.removeprefix(start)})
        plain = [self.entry(file) for file in inside if "/" not in file.removeprefix(start)]
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": start + name} for name in folders] + plain


@dataclass
class FakeHub:
    """The stand-in; `requests` records what was asked, as `METHOD /path`."""

    folders: Mapping[str, Path]
    requests: list[str] = field(default_factory=list)

    def repository(self, kind: str, name: str) -> Repository | None:
        """The repository of this name."""
        folder = self.folders.get(f"{kind}/{name}")
        return Repository(name, folder) if folder else None

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on a free port for the time of a `with`; gives the URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

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
        path, body = unquote(url.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        if api := API.match(path):
            self._api(api["kind"], api["rest"].split("/"), "recursive=True" in url.query or "recursive=true" in url.query, body)
        elif (file := FILE.match(path)) and (
            found := self.hub.repository("datasets" if file["datasets"] else "models", file["name"])
        ):
            self._file(found, file["revision"], file["file"])
        else:
            self._missing("RepoNotFound")

    def _api(self, kind: str, steps: list[str], recursive: bool, body: bytes) -> None:
        """NAME, NAME/revision/REV, NAME/tree/REV/FOLDER, NAME/paths-info/REV; a name has one or two steps."""
        for length in (2, 1):
            found = self.hub.repository(kind, "/".join(steps[:length]))
            if found:
                verb, revision, *inner = steps[length:] or ["", "main"]
                break
        else:
            return self._missing("RepoNotFound")
        if not found.knows(revision):
            return self._missing("RevisionNotFound")
        if verb == "tree":
            return self._json(found.entries("/".join(inner), recursive))
        if verb == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]+)", unquote(body.decode()))
            return self._json([found.entry(file) for file in found.files if file in asked])
        if verb in {"", "revision"}:
            files = [{"rfilename": file} for file in found.files]
            return self._json({"id": found.name, "sha": found.commit, "siblings": files, "private": False, "tags": []})
        return self._missing("EntryNotFound")

    def _file(self, found: Repository, revision: str, file: str) -> None:
        if not found.knows(revision):
            return self._missing("RevisionNotFound")
        if file not in found.files:
            return self._missing("EntryNotFound", found.commit)
        self._send(200, (found.folder / file).read_bytes(), ETag=f'"{found.hash(file)}"', **{"X-Repo-Commit": found.commit})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _missing(self, code: str, commit: str = "") -> None:
        self._send(404, b"{}", **{"X-Error-Code": code, "X-Error-Message": code}, **({"X-Repo-Commit": commit} if commit else {}))

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
