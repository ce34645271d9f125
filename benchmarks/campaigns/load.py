"""How well an endpoint's limits are used, and at what memory: the figures of `benchmarks/prompting.py`, held to their goals."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.campaigns.figures import Figure, Options

ROOT = Path(__file__).parents[2]
GOALS = {"share_of_limit": ">= 0.95", "lost": "== 0", "sent_twice": "== 0", "rss_ratio_10k": "<= 1.3"}
TOLD = ("speedup", "same_prefix")


def run(options: Options) -> list[Figure]:
    """The figures; one that is not told misses its goal."""
    command = [sys.executable, "-m", "benchmarks.prompting", "--output", "json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=900).stdout)
    goals = GOALS | {name: "" for name in TOLD if name in told}
    return [Figure(name, float(told.get(name, "nan")), goal) for name, goal in goals.items()]
