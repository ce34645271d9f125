"""The server holds load while the champion changes: the figures of `benchmarks/serving.py`, held to their goals."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.campaigns.figures import Figure, Options

ROOT = Path(__file__).parents[2]
SECONDS = 300
MOVES = 10
GOALS = {"failed": "== 0", "moves": f">= {MOVES}", "versions_seen": f">= {MOVES + 1}", "seconds": f">= {SECONDS}"}
GOALS |= {"rollback_s": "<= 60"}
TOLD = (
    "requests",
    "requests_per_second",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "one_at_a_time_requests_per_second",
    "one_at_a_time_p50_ms",
    "one_at_a_time_p95_ms",
    "speedup",
    "rows_a_batch",
    "longest_move_s",
    "clients",
)


def run(options: Options) -> list[Figure]:
    """The figures; one that is not told misses its goal."""
    seconds = str(options.seconds or SECONDS)
    command = [sys.executable, "-m", "benchmarks.serving", "--seconds", seconds, "--moves", str(MOVES), "--output", "json"]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, timeout=3600)
    told = json.loads(done.stdout)
    goals = GOALS | {name: "" for name in TOLD if name in told}
    return [Figure(name, float(told.get(name, "nan")), goal) for name, goal in goals.items()]
