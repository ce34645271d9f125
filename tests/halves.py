"""Every test, in two processes side by side: much of what tests do is to wait for servers and for children.

The first one tells as it goes, the other one when both have ended. Exit status 0 when both passed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
FIRST = ("cli", "deployments", "flows")
"""Folders whose tests start services and runs; everything else is the other half."""


def main() -> int:
    """Run both halves."""
    pytest = [sys.executable, "-m", "pytest", "--durations=15"]
    with tempfile.TemporaryFile() as told:
        others = [f"--ignore={TESTS / folder}" for folder in FIRST]
        other = subprocess.Popen([*pytest, *others, str(TESTS)], stdout=told, stderr=subprocess.STDOUT)
        first = subprocess.run([*pytest, *(str(TESTS / folder) for folder in FIRST)], check=False).returncode
        second = other.wait()
        told.seek(0)
        sys.stdout.buffer.write(told.read())
    return first or second


if __name__ == "__main__":
    sys.exit(main())
