"""Asks a server as fast as it answers, over connections that stay open, and checks every answer.

python -m benchmarks.load_driver HOST PORT CLIENTS SECONDS      for so long, and until standard input ends; JSON on standard output
"""

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.tiny_model import LABELS, examples

ROWS = [json.dumps({"row": row.inputs}).encode() for row in examples("load", 500)]


@dataclass
class Tally:
    """What came of all requests."""

    latencies_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    versions: set[int] = field(default_factory=set)


async def drive(host: str, port: int, clients: int, seconds: float, told: threading.Event) -> dict[str, Any]:
    """The figures of one load, which lasts so long and until it is told to end."""
    tally, started = Tally(), time.perf_counter()
    await asyncio.gather(*(_client(host, port, number, started + seconds, told, tally) for number in range(clients)))
    took, times = time.perf_counter() - started, sorted(tally.latencies_ms)
    most = len(times) - 1
    shares = {f"p{share}_ms": round(times[min(most, len(times) * share // 100)], 2) for share in (50, 95, 99)} if times else {}
    return shares | {
        "requests": len(times) + tally.failed.total(),
        "failed": tally.failed.total(),
        "failures": dict(tally.failed),
        "seconds": round(took, 2),
        "requests_per_second": round(len(times) / took, 2),
        "versions_seen": len(tally.versions),
    }


async def _client(host: str, port: int, number: int, until: float, told: threading.Event, tally: Tally) -> None:
    place, stream = number, None
    while time.perf_counter() < until or not told.is_set():
        started = time.perf_counter()
        try:
            stream = stream or await asyncio.open_connection(host, port)
            status, body = await _ask(*stream, ROWS[place % len(ROWS)])
            wrong = f"status {status}" if status != 200 else _wrong(body, tally)
        except (OSError, asyncio.IncompleteReadError, ValueError, LookupError) as error:
            wrong = type(error).__name__
        if wrong:
            tally.failed[wrong] += 1
            if stream:
                stream[1].close()
            stream = None
        else:
            tally.latencies_ms.append(1000 * (time.perf_counter() - started))
        place += 1
    if stream:
        stream[1].close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    head = f"POST /predict HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def _wrong(body: bytes, tally: Tally) -> str:
    """What is wrong with an answer; empty where nothing is."""
    told = json.loads(body)
    tally.versions.add(int(told["champion"]["version"]))
    (answer,) = told["answers"]
    return "" if answer["label"] in LABELS and answer["failure"] is None else "no label"


if __name__ == "__main__":
    host, port, clients, seconds = sys.argv[1:5]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    json.dump(asyncio.run(drive(host, int(port), int(clients), float(seconds), ended)), sys.stdout)
