"""`make up`, `make down`: everything on this machine, in one command each."""

import logging
import platform
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from deployments.stack import DEAD, Stack, environment_of, left_over, log_end, settle, start_dead, states, stop, supervisor_of
from deployments.wish import Wish, keep
from services.keeper import wait_until_stopped
from tasks.config import BakeoffConfig, load_config
from tasks.device import accelerators
from tasks.errors import BadConfig, MissingPart
from tasks.settings import Settings, load_settings, settings_file

logger = logging.getLogger(__name__)

PORT = 4200
"""Prefect's own; another one is taken where something else listens on it."""
PORTS_TRIED = 50
START_S = 180.0
SERVICE_S = 10.0
SAID = ("BAKEOFF_ROOTS", "BAKEOFF_SETTINGS")
"""Variables whose values a message may repeat; in another one's, such as an endpoint's address, a password may stand."""


def up(wish: Wish, port: int | None = None) -> Stack:
    """Start what does not run yet, register pools, deployments and automations, and wait until all workers poll.

    Args:
        port: the server's; None takes the last one of this home, or the first free one from 4200 on.

    Raises:
        BadConfig: the port is taken, the config cannot be read, it names an endpoint or a store that the settings do not know, or
            what runs already has other settings.
        MissingPart: supervisor is not installed, or a program does not start; the message ends with the last lines of its log.
    """
    settings, config = load_settings(), load_config(wish.config)
    _check_names(config, settings)
    settings.check_home()
    home, began, since = settings.home.resolve(), time.monotonic(), ""
    pools = pools_here()
    if supervisor_of(home) and not states(home):
        logger.info("what ran for this home is still stopping: waiting for its end")
    elif left := left_over(home):
        logger.info("the supervisor was killed; what it left is ended first: %s", ", ".join(name for name, _ in left))
    settle(home)
    if states(home):
        stack = Stack(home, _last_port(home) or PORT, pools, settings_file(), wish.roots)
        if port not in (None, stack.port):
            raise BadConfig(f"this home's server runs on port {stack.port}: `make down` first, then start it on {port}")
        _refuse_other_settings(stack)
        for name in start_dead(home):
            logger.info("%s: started again", name)
    else:
        stack = Stack(home, _port(home, port), pools, settings_file(), wish.roots)
        since = datetime.now(UTC).isoformat()
        stack.start()
        (stack.folder / "address").write_text(f"{stack.port}\n")
    _wait_for_server(stack)
    logger.info("the UI answers after %.1f s: %s", time.monotonic() - began, stack.ui)
    _register(stack, wish, config)
    keep(wish, home)
    _wait_for_workers(stack, since)
    logger.info("workers poll after %.1f s: %s", time.monotonic() - began, ", ".join(pools))
    return stack


def down() -> bool:
    """Stop everything; whether anything ran. Runs that were under way go on at the next `make up`."""
    home = load_settings().home.resolve()
    ran = stop(home)
    for service in ("s3", "llm"):
        if ran and not wait_until_stopped(home / service, SERVICE_S):
            logger.info("%s goes on: somebody else uses it", service)
    return ran


def pools_here() -> tuple[str, ...]:
    """The pools that this machine works for: `cpu` always, an accelerator's where it is there."""
    metal = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    there = {"gpu": bool(accelerators()), "apple-silicon": metal, "cpu": True}
    return tuple(pool for pool, is_there in there.items() if is_there)


def status() -> tuple[str | None, dict[str, str]]:
    """The UI's address, where it runs, and a line about each program."""
    home = load_settings().home.resolve()
    told = {name: f"{each['statename'].lower()}  {each['description']}" for name, each in states(home).items()}
    if not told and (stopping := supervisor_of(home)):
        return None, {"supervisor": f"stopping  pid {stopping.pid}"}
    if not told:
        return None, {name: f"left over  pid {process.pid}" for name, process in left_over(home)}
    return (f"http://127.0.0.1:{_last_port(home)}" if told else None), told


def _check_names(config: BakeoffConfig, settings: Settings) -> None:
    """Raises BadConfig for names that mean nothing here, rather than have every run by default refused."""
    settings.store(config.store)
    for prompt in config.prompts:
        settings.endpoint(prompt.endpoint)


def _refuse_other_settings(stack: Stack) -> None:
    """Raises BadConfig where what runs has other settings than it would have if it were started now. It keeps its own to its end: a
    config that was registered for the new ones would be refused run by run."""
    here, there = stack.environment(), environment_of(stack.home)
    differ = sorted(name for name in here | there if here.get(name) != there.get(name))
    if differ:
        said = "; ".join(_in_words(name, there.get(name), here.get(name)) for name in differ)
        raise BadConfig(
            f"what runs for this home keeps the settings that it was started with, and they differ from yours: {said}. `make down`,"
            " then `make up` with those that are to hold; nothing was registered"
        )


def _in_words(name: str, there: str | None, here: str | None) -> str:
    if name in SAID:
        return f"{name} is {there or 'not set'} there, {here or 'not set'} here"
    return f"{name} has another value there" if there and here else f"{name} is set {'there' if there else 'here'} alone"


def _register(stack: Stack, wish: Wish, config: BakeoffConfig) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from deployments.register import register

    with temporary_settings({PREFECT_API_URL: stack.api, PREFECT_HOME: stack.home / "prefect"}):
        register(config, wish.nightly, wish.timezone, notify=wish.notify)


def _wait_for_server(stack: Stack) -> None:
    import httpx

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{stack.api}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            _refuse_dead(stack, "server")
        time.sleep(0.1)
    raise MissingPart(f"the Prefect server does not answer within {START_S:.0f} s; its log ends: {log_end(stack.home, 'server')}")


def _wait_for_workers(stack: Stack, since: str) -> None:
    """Until each pool has a worker that has told since then that it lives (a time of the server's, which is this machine's)."""
    import httpx

    waited, deadline = set(stack.pools), time.monotonic() + START_S
    with httpx.Client(base_url=stack.api, trust_env=False, timeout=30) as client:
        while waited and time.monotonic() < deadline:
            for pool in sorted(waited):
                try:
                    found = client.post(f"/work_pools/{pool}/workers/filter", json={}).raise_for_status().json()
                except httpx.HTTPError as error:  # SQLite is busy as everything starts at once: 503, or no answer in time
                    logger.debug("the server is asked again: %s", error)
                    _refuse_dead(stack, "server")
                    continue
                if any(worker["status"] == "ONLINE" and worker["last_heartbeat_time"] > since for worker in found):
                    waited.discard(pool)
                else:
                    _refuse_dead(stack, f"worker-{pool}")
            time.sleep(0.1)
    for pool in waited:
        raise MissingPart(
            f"no worker of {pool} polls within {START_S:.0f} s; its log ends: {log_end(stack.home, f'worker-{pool}')}"
        )


def _refuse_dead(stack: Stack, program: str) -> None:
    """Raises MissingPart for a program that the supervisor has given up."""
    state = states(stack.home).get(program, {}).get("statename", "UNKNOWN")
    if state in DEAD:
        raise MissingPart(f"{program} does not start ({state.lower()}); its log ends: {log_end(stack.home, program)}")


def _port(home: Path, wanted: int | None) -> int:
    """Raises BadConfig where the port that was asked for is taken, or all are."""
    if wanted is not None:
        if not _free(wanted):
            raise BadConfig(f"port {wanted} is taken by another program: end it, or name another port (--port; PORT= for make)")
        return wanted
    first = _last_port(home) or PORT
    for port in (first, *range(PORT, PORT + PORTS_TRIED)):
        if _free(port):
            if port != first:
                logger.warning("port %d is taken by another program: the server takes %d", first, port)
            return port
    raise BadConfig(f"ports {PORT} to {PORT + PORTS_TRIED - 1} are all taken: name a free one (--port; PORT= for make)")


def _free(port: int) -> bool:
    with socket.socket() as look:
        look.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was used a moment ago is free
        try:
            look.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _last_port(home: Path) -> int | None:
    path = home / "up" / "address"
    return int(path.read_text()) if path.exists() else None
