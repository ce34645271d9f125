"""`python -m deployments.hold`: keeps the local S3 and the local LLM of a home running, for as long as this process lives.

What a run starts for itself ends with the run; this keeps both warm, and their addresses the same, between runs.
"""

import logging
import signal
import sys
import time
from contextlib import ExitStack
from types import FrameType
from typing import NoReturn

from services.keeper import wait_until_stopped
from services.llm import start_llm
from services.s3 import start_s3
from tasks.errors import MissingPart
from tasks.settings import load_settings

logger = logging.getLogger(__name__)

LOOK_S = 5.0


def main() -> None:
    """Hold them until SIGTERM; exit status 1, so that a supervisor starts this again, when one of them has ended by itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    home = load_settings().home
    with ExitStack() as stack:
        held = []
        for name, start in (("s3", start_s3), ("llm", start_llm)):
            try:
                stack.enter_context(start(home))
            except MissingPart as error:
                logger.warning("%s; everything else goes on without", error)
            else:
                logger.info("%s: running", name)
                held.append(home.resolve() / name)
        while not any(wait_until_stopped(folder, 0) for folder in held):
            time.sleep(LOOK_S)
    logger.error("a service ended by itself")
    sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
