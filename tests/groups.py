"""Every test, in three processes side by side: much of what tests do is to wait for servers and for children.

The first one tells as it goes, the others when all have ended. Exit status 0 when all passed.
"""

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).parent
GROUPS = ("benchmarks", "deployments"), ("cli", "contenders", "data", "flows", "serving", "tuning")
"""Folders that take about as long, together; everything else is the last group."""


def main() -> int:
    """Run all groups."""
    pytest = [sys.executable, "-m", "pytest", "--durations=15"]
    first, *others = [[str(TESTS / folder) for folder in group] for group in GROUPS]
    others.append([str(TESTS), *(f"--ignore={TESTS / folder}" for group in GROUPS for folder in group)])
    with ExitStack() as stack:
        told = [stack.enter_context(tempfile.TemporaryFile()) for _ in others]
        running = [
            subprocess.Popen([*pytest, *what], stdout=to, stderr=subprocess.STDOUT) for what, to in zip(others, told, strict=True)
        ]
        statuses = [subprocess.run([*pytest, *first], check=False).returncode, *(each.wait() for each in running)]
        for output in told:
            output.seek(0)
            sys.stdout.buffer.write(output.read())
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
