"""`bakeoff serve`: the champion over HTTP."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cli.run import allow_roots
from services.bench import opened
from serving.options import Options
from tasks.child import GENTLE
from tasks.config import load_config


def serve_champion(config: Path, overrides: Sequence[str], options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C; what is told goes to standard error.

    Raises:
        Refused, MissingPart: it cannot be served; nothing was started.
    """
    from serving.server import serve

    parsed = load_config(config, overrides)
    allow_roots(config)
    for name, value in GENTLE.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
    with opened(parsed) as bench:
        serve(parsed, bench, options)
