"""Runs the server: the champion is loaded before the port opens, and SIGTERM lets requests under way end."""

import asyncio
import logging
import os
import signal
import socket

from services.bench import Bench
from serving.options import Options
from tasks.config import BakeoffConfig
from tasks.errors import BadConfig, MissingPart

logger = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(config: BakeoffConfig, bench: Bench, options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadConfig: there is no champion yet, the key's variable is empty, or the port is taken.
        MissingPart: the extra `serve` is not installed.
        BakeoffError: the champion cannot be loaded.
    """
    try:
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingPart(f"{error.name} is not installed: `pip install '.[serve]'` in the project's folder") from None
    if options.key_env and not os.environ.get(options.key_env):
        raise BadConfig(f"--key-env names {options.key_env}, which is not set: put the key into it")
    if options.host not in LOOPBACK and not options.key_env:
        logger.warning("whoever reaches %s:%d may ask: give --key-env, or stay on loopback", options.host, options.port)
    asyncio.run(_serve(config, bench, options, uvicorn))


async def _serve(config: BakeoffConfig, bench: Bench, options: Options, uvicorn: object) -> None:
    from uvicorn import Config, Server

    from serving.app import make_app

    app = make_app(config, bench, options)
    await app.state.serving.follower.start()
    with _bound(options) as listener:
        host, port = listener.getsockname()[:2]
        server = Server(
            Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=round(options.drain_s),
                server_header=False,
            )
        )
        app.state.serving.stopping = lambda: server.should_exit
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what it has heard, when all is done
            signal.signal(number, lambda *_: None)
        version = app.state.serving.follower.current.champion.version
        logger.info("serving %s version %d (%s) on http://%s:%d", version.name, version.version, version.contender, host, port)
        await server.serve(sockets=[listener])
    logger.info("stopped; no request is left")


def _bound(options: Options) -> socket.socket:
    """A listening socket. Raises BadConfig where the address cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise BadConfig(f"cannot listen on {options.host} port {options.port}: {error.strerror}; name another") from None
    listener.setblocking(False)
    return listener
