"""`make audit` against a loopback stand-in of osv.dev that speaks its protocol."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

VULNERABILITY = {
    "id": "OSV-2026-1",
    "summary": "reads what it should not",
    "details": "",
    "aliases": [],
}


class Osv(BaseHTTPRequestHandler):
    """Knows of one package that is vulnerable."""

    asked: set[str] = set()
    vulnerable = ""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.add(f"{name}=={query['version']}")
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "versions": [query["version"]], "ranges": []}]
        found = {"vulns": [VULNERABILITY | {"affected": affected}]} if name == self.vulnerable else {}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()


def audit(root: Path, url: str) -> subprocess.CompletedProcess[str]:
    """The command of `make audit`, with another service."""
    lines = (root / "Makefile").read_text().splitlines()
    command = next(line for line in lines if "bin/pip-audit" in line.lower() or "/pip-audit $(AUDIT)" in line)
    words = command.strip().removeprefix("@$(BIN)/pip-audit $(AUDIT) ").split()
    asked = ["-m", "pip_audit", "--vulnerability-service", "osv", "--osv-url", url, *words]
    return subprocess.run([sys.executable, *asked], cwd=root, capture_output=True, text=True)


def test_a_version_that_is_known_to_be_vulnerable_fails_the_check_and_is_named(root: Path, osv: str) -> None:
    Osv.vulnerable, Osv.asked = "", set()
    clean = audit(root, osv)
    assert clean.returncode == 0, clean.stderr
    assert any(each.startswith("prefect==") for each in Osv.asked)
    assert any(each.startswith("torch==") for each in Osv.asked)
    Osv.vulnerable = "pillow"
    found = audit(root, osv)
    assert found.returncode == 1
    assert "pillow" in found.stdout
    assert "OSV-2026-1" in found.stdout
