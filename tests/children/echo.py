"""A child process for tests: does as its request says."""

import logging
import os
import signal
import sys
import time
from typing import Any

from tasks.child import serve_child
from tasks.errors import BadData
from tasks.progress import progress


def work(request: dict[str, Any]) -> Any:
    if request.get("say"):
        sys.stdout.write("a library prints\n")
        logging.getLogger("some.library").warning("told %s", request["say"])
        from transformers.utils import logging as transformers

        transformers.get_logger("transformers.trainer").error("trained %s", request["say"])
    with progress("steps", 3) as bar:
        bar.advance(2, note="two")
    if request.get("refuse"):
        raise BadData("row 3 is empty")
    if request.get("crash"):
        raise ZeroDivisionError
    if request.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(request.get("sleep", 0))
    told = os.environ.get(request.get("tell", ""))
    return {"pid": os.getpid(), "parent": os.getppid(), "request": request, "told": told}


if __name__ == "__main__":
    serve_child(work)
