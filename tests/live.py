"""Real processes for tests: an environment without the developer's settings, and what is the same of two verdicts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
OWN_TO_A_RUN = {"run_id", "created", "reused", "spent_usd", "decision", "reason"}
TIMED = {"latency_ms", "latency_p50_ms", "cost_usd_per_1000", "usd_per_1000", "extra_usd_per_1000", "usd_per_point"}


def environment(**names: str) -> dict[str, str]:
    """This process's environment without its Prefect and Bakeoff settings, and with `names`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BAKEOFF_"))}
    return kept | {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | names


@contextmanager
def running(command: list[str], env: dict[str, str], folder: Path, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for the time of a `with`; its output lies in `folder`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def same(verdict: Any) -> Any:
    """What is the same of a verdict in every run: all but the run's id, its decision, its timings, and the costs that follow from
    them."""
    if isinstance(verdict, dict):
        return {key: same(value) for key, value in verdict.items() if key not in OWN_TO_A_RUN | TIMED}
    return [same(value) for value in verdict] if isinstance(verdict, list) else verdict
