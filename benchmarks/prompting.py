"""How well an endpoint's limits are used, and at what memory.

    python benchmarks/prompting.py --output json

A server in a process of its own answers after a known time, allows a known number of requests or tokens a minute, and refuses the
rest with 429 and Retry-After; it counts every body that it answers. Printed are

- `share_of_limit`: answers over what the limit allowed in the same time; the lower one of a limit by requests and one by tokens;
- `speedup`: against one request at a time on the same server;
- `lost` and `sent_twice`: rows without their right answer, and rows that the server answered more than once;
- `rss_ratio_10k`: peak memory of asking 10,000 rows over that of 1,000, each in a fresh process;
- `same_prefix`: how much of an average prompt is the same for all rows and leads it, so that a server can have it cached.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.config import Technique
from tasks.prompting.ask import Meter, answer_all
from tasks.prompting.budget import Cap
from tasks.prompting.messages import PromptSpec, Shot, build_request, template_of
from tasks.records import Example
from tasks.settings import Endpoint

LATENCY_S = 0.2
REQUESTS_PER_MINUTE = 3000
TOKENS_PER_MINUTE = 3_000_000
ALLOWED_BURST_S = 1.0
"""So much of its limit the server lets come at once."""
LIMITED_S = 40
"""For about so long the limited server is asked, once for each kind of limit."""
LOOP_ROWS = 40
"""As many rows the loop of one request at a time asks about."""
LETTERS_A_TOKEN = 5
"""As the server counts prompts, about as tokenizers do."""
ANSWER_TOKENS = 5
LABELS = ["negative", "positive"]


@dataclass
class Bucket:
    """What the server allows: so much a minute, and a little of it at once."""

    per_minute: int
    level: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def wait_for(self, amount: float) -> float:
        """0 when so much is allowed now, and taken; else after how many seconds it would be."""
        now, per_s = time.monotonic(), self.per_minute / 60
        self.level = max(0.0, self.level - (now - self.at) * per_s)
        self.at = now
        over = self.level + amount - max(amount, ALLOWED_BURST_S * per_s)
        if over <= 0:
            self.level += amount
        return max(0.0, over / per_s)


def tokens_of(prompt: str) -> int:
    """What the server counts for a prompt and its answer."""
    return len(prompt) // LETTERS_A_TOKEN + ANSWER_TOKENS


class Counts:
    """What the server saw."""

    def __init__(self, latency_s: float, requests: int, tokens: int) -> None:
        self.latency_s = latency_s
        self.requests, self.tokens = Bucket(requests) if requests else None, Bucket(tokens) if tokens else None
        self.answered: Counter[bytes] = Counter()
        self.refused = self.characters = 0
        self.prefix: str | None = None

    def answer(self, body: bytes) -> tuple[int, dict[str, Any], float]:
        """Status, body and the seconds to let pass before."""
        prompt = "".join(message["content"] for message in json.loads(body)["messages"])
        tokens = tokens_of(prompt)
        wait_s = self.requests.wait_for(1) if self.requests else self.tokens.wait_for(tokens) if self.tokens else 0.0
        if wait_s:
            self.refused += 1
            return 429, {"error": {"message": "too fast", "code": "rate_limit_exceeded"}}, wait_s
        self.answered[sha256(body).digest()] += 1
        self.characters += len(prompt)
        self.prefix = prompt if self.prefix is None else os.path.commonprefix([self.prefix, prompt])  # noqa: RUF071
        text = json.dumps({"label": LABELS["a good film" in prompt[-60:]]})
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": tokens - ANSWER_TOKENS, "completion_tokens": ANSWER_TOKENS, "total_tokens": tokens}
        return 200, {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}, 0.0

    def told(self) -> dict[str, Any]:
        """The counts as JSON has them."""
        answers = sum(self.answered.values())
        prefix = len(self.prefix or "")
        return {
            "rows": len(self.answered),
            "answers": answers,
            "refused": self.refused,
            "same_prefix": prefix * answers / self.characters if self.characters else 0.0,
        }


class Connection(asyncio.Protocol):
    """One connection of the server: HTTP/1.1 as far as clients of this API need it."""

    def __init__(self, counts: Counts) -> None:
        self.counts, self.received = counts, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            lines = self.received[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            whole = end + 4 + int(headers.get("content-length", 0))
            if len(self.received) < whole:
                return
            body, self.received = self.received[end + 4 : whole], self.received[whole:]
            self.hear(lines[0], body)

    def hear(self, first_line: str, body: bytes) -> None:
        """Answer one request."""
        if first_line.startswith("GET"):
            self.send(200, self.counts.told())
            return
        status, reply, wait_s = self.counts.answer(body)
        if status == 200:
            asyncio.get_running_loop().call_later(self.counts.latency_s, self.send, status, reply)
        else:
            self.send(status, reply, f"Retry-After: {wait_s:.3f}\r\n")

    def send(self, status: int, reply: dict[str, Any], headers: str = "") -> None:
        """Write one answer."""
        body = json.dumps(reply).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + body)


async def serve(latency_s: float, requests: int, tokens: int) -> None:
    """Listen until the parent closes standard input; the port is told on standard output."""
    loop, counts = asyncio.get_running_loop(), Counts(latency_s, requests, tokens)
    server = await loop.create_server(lambda: Connection(counts), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


class Server:
    """The server as its parent sees it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"

    def told(self) -> Any:
        """What it counted so far."""
        with urllib.request.urlopen(self.url) as reply:
            return json.load(reply)


@contextmanager
def serving(latency_s: float, requests: int = 0, tokens: int = 0) -> Iterator[Server]:
    """A server in a process of its own, for the time of a `with`. Limits of 0 are none."""
    command = [sys.executable, __file__, "serve", str(latency_s), str(requests), str(tokens)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


def make_spec() -> PromptSpec:
    """A prompt with four examples, as techniques build them."""
    shots = [Shot(inputs={"text": f"{text_of(900 + n)}"}, label=LABELS[n % 2]) for n in range(4)]
    return PromptSpec(
        endpoint="bench",
        model="m",
        techniques=[Technique.FEW_SHOT],
        inputs=["text"],
        labels=LABELS,
        instructions="Say whether the review is negative or positive.",
        template=template_of("plain"),
        shots=shots,
        structured=True,
        max_answer_tokens=16,
    )


def text_of(row: int) -> str:
    """A review of about 170 words, no two alike."""
    return f"{row} {'word after word of a review ' * 28}a {'good' if row % 2 else 'bad'} film"


def make_examples(count: int) -> list[Example]:
    """Rows of which every second one is good."""
    return [Example(example=f"e{row}", row=row + 1, inputs={"text": text_of(row)}, label=LABELS[row % 2]) for row in range(count)]


def make_endpoint(url: str, **limits: Any) -> Endpoint:
    """The server as settings name it, with a price, since money is counted too."""
    return Endpoint.model_validate(
        {"base_url": url, "model": "m", "usd_per_million_input": 0.1, "usd_per_million_output": 0.4, "concurrency": 64} | limits
    )


def ask(rows: int, url: str, folder: Path, **limits: Any) -> dict[str, Any]:
    """Ask about so many rows as a bake-off does, cap and journal included."""
    examples, meter, started = make_examples(rows), Meter(), time.monotonic()
    answers = answer_all(make_spec(), examples, make_endpoint(url, **limits), Cap(100.0), folder / "journal.sqlite", meter=meter)
    took_s = time.monotonic() - started
    lost = sum(answer.label != example.label for answer, example in zip(answers, examples, strict=True))
    return {"rows": rows, "took_s": took_s, "rows_per_s": rows / took_s, "lost": lost, "attempts": meter.requests}


def ask_one_at_a_time(rows: int, url: str) -> dict[str, Any]:
    """The plain loop: one request after another."""
    import openai

    spec, examples = make_spec(), make_examples(rows)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        started = time.monotonic()
        for example in examples:
            client.chat.completions.create(**build_request(spec, example.inputs))
        took_s = time.monotonic() - started
    return {"rows": rows, "took_s": took_s, "rows_per_s": rows / took_s}


def measure_limit(folder: Path, kind: str, per_minute: int, cost: int) -> dict[str, Any]:
    """Ask a limited server, and see how much of its limit was used; `cost` is what a row counts for."""
    allowed_per_s = per_minute / cost / 60
    with serving(LATENCY_S, **{kind: per_minute}) as server:
        asked = ask(round(allowed_per_s * LIMITED_S), server.url, folder / kind, **{f"{kind}_per_minute": per_minute})
        told = server.told()
    share = asked["rows_per_s"] / allowed_per_s
    return asked | told | {"allowed_per_s": allowed_per_s, "share_of_limit": share, "sent_twice": told["answers"] - told["rows"]}


def measure_memory(folder: Path, rows: int) -> dict[str, Any]:
    """The peak memory of a fresh process that asks about so many rows."""
    with serving(0.005) as server:
        command = [sys.executable, __file__, "ask", server.url, str(rows), str(folder / str(rows))]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        told = server.told()
    return said | {"sent_twice": told["answers"] - told["rows"] - 1}  # the first row, to warm up


def ask_and_tell_memory(url: str, rows: int, folder: Path) -> dict[str, Any]:
    """In a fresh process: ask one row, so that all is imported, then so many; peak memory after each, in MB."""
    ask(1, url, folder / "first")
    before = peak_mb()
    asked = ask(rows, url, folder / "many")
    return asked | {"peak_mb_before": before, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure() -> dict[str, Any]:
    """All figures, and what the ratios come from."""
    [example] = make_examples(1)
    tokens = tokens_of("".join(message["content"] for message in build_request(make_spec(), example.inputs)["messages"]))
    with TemporaryDirectory() as name:
        folder = Path(name)
        with serving(LATENCY_S) as server:
            ask(1, server.url, folder / "warm")  # imports
            loop = ask_one_at_a_time(LOOP_ROWS, server.url)
        limited = {
            "requests": measure_limit(folder, "requests", REQUESTS_PER_MINUTE, 1),
            "tokens": measure_limit(folder, "tokens", TOKENS_PER_MINUTE, tokens),
        }
        memory = {rows: measure_memory(folder, rows) for rows in (1000, 10_000)}
    asked = [*limited.values(), *memory.values()]
    return {
        "share_of_limit": min(each["share_of_limit"] for each in limited.values()),
        "speedup": limited["requests"]["rows_per_s"] / loop["rows_per_s"],
        "lost": sum(each["lost"] for each in asked),
        "sent_twice": sum(each["sent_twice"] for each in asked),
        "rss_ratio_10k": memory[10_000]["peak_mb"] / memory[1000]["peak_mb"],
        "same_prefix": limited["requests"]["same_prefix"],
        "latency_s": LATENCY_S,
        "limited": limited,
        "one_at_a_time": loop,
        "memory": memory,
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
        return
    if sys.argv[1:2] == ["ask"]:
        print(json.dumps(ask_and_tell_memory(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    figures = measure()
    if options.output == "json":
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:16} {value:.3f}" if isinstance(value, float) else f"{name:16} {json.dumps(value)}")


if __name__ == "__main__":
    main()
