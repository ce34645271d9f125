"""Every method and objective from its shipped config, on real rows and packaged models: what each contender came to, and what it
took.

The runs share a home, so that what two configs have in common is made once; none asks a model that is not on this machine.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.scratch import scratch
from tests.live import BIN, environment

ROOT = Path(__file__).parents[2]
SHIPPED = ("causal", "preferences", "reinforcement", "self_supervised", "generation", "methods", "sweep")


def run(_: Options) -> list[Figure]:
    """The figures: accuracy on test, and beside it what training took."""
    found, failed = [], []
    with scratch("objectives-") as home:
        for name in SHIPPED:
            started = time.monotonic()
            done = bake_off(name, home)
            took = time.monotonic() - started
            if done.returncode:
                failed.append(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            verdict = json.loads(done.stdout)
            found.append(Figure(f"{name}_s", took, note=f"{verdict['decision']}: {verdict['winner']}"))
            found += contenders(name, verdict)
    return [Figure("configs_that_failed", len(failed), "== 0", "; ".join(failed)), *found]


def bake_off(name: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """`bakeoff run` of a shipped config."""
    command = [str(BIN / "bakeoff"), "run", str(ROOT / f"configs/{name}.yaml"), "--output", "json"]
    around = environment(BAKEOFF_HOME=str(home / "home"), PREFECT_HOME=str(home / "prefect"))
    return subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, check=False)


def contenders(name: str, verdict: dict[str, Any]) -> list[Figure]:
    """Accuracy on test of each."""
    tuned = {line["contender"]: line for line in verdict["tuned"]}
    lifts = {lift["contender"]: lift["comparison"] for lift in verdict["lifts"]}
    found = []
    for line in verdict["contenders"]:
        low, high = line["test"]["interval"]
        said = [f"of {line['test']['n']} rows [{low:.3f}, {high:.3f}]"]
        if own := tuned.get(line["name"]):
            said.append(f"{own['parameters_trained']:,} parameters trained in {own['seconds']:.0f} s")
            said.append(f"{own['peak_memory_bytes'] / 1e9:.1f} GB at the peak, {own['publish_bytes'] / 1e6:.1f} MB to publish")
        if lift := lifts.get(line["name"]):
            low, high = lift["interval"]
            over = f"over {lift['against']} {100 * lift['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
            said.append(f"{over}, p = {lift['p_value']:.2g}")
        found.append(Figure(f"{name}/{line['name']}", line["test"]["accuracy"], note="; ".join(said)))
    return found
