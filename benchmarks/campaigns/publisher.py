"""Processes that publish, roll back and race, for the campaigns of publication: real code on a real S3 server.

They are forked from a server that has imported everything (`multiprocessing`'s), so that hundreds of them are cheap. The round trip
downloads and compares as ever, but predicts in the same process; that it works in a clean one is what tests/registry shows.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any

from services.places import LivePlaces
from tasks.contenders.predict import predict as predict_here
from tasks.errors import LostRace
from tasks.registry import verify
from tasks.registry.champion import ChampionVersion, current_champion
from tasks.registry.lineage import environment
from tasks.registry.publish import publish
from tasks.registry.rollback import roll_back
from tasks.settings import Settings, Store
from tasks.store import connect, open_store
from tasks.workspace import Workspace, digest
from tests.registry.making import NAME, make_champion, make_folder, make_publication, publication_of

STORE = "proxied"
WAIT_S = 900
"""How long racers wait for each other."""
_one_looks = Lock()
"""Whoever starts a process looks at how all others are, and of two threads that look at one's end at once one finds nothing."""
environment()  # looked at once, for all that are forked; and so is the description of S3:
connect("warm", Store(bucket="warm", endpoint_url="http://127.0.0.1:9", region="us-east-1"))


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """A process that runs `target`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=args, daemon=True)
    with _one_looks:
        process.start()
    return process


def status_of(process: BaseProcess) -> int | None:
    """Wait for the end of a process; how it ended."""
    wait([process.sentinel])
    with _one_looks:
        return process.exitcode


def publish_one(settings: Settings, env: Mapping[str, str], common: Path, folder: Path, name: str) -> None:
    """Publish the contender `name`, made on the spot, against whatever is champion now; everything of it lies in `folder`.

    Args:
        common: where data set and predictions were made, which all publications share.
    """
    os.environ.update(env)
    verify.run_child = lambda module, request: predict_here(request)  # type: ignore[assignment]
    with LivePlaces(settings) as places:
        base = make_publication(common, places, STORE)
        made = make_folder(folder / "contender", name, files={"weights.txt": name * 20_000})
        winner = base.winner.model_copy(update={"name": name, "folder": made, "fingerprint": digest(name)})
        previous = current_champion(places, STORE, NAME)
        publication = publication_of(winner, base.predictions, base.dataset, STORE, previous)
        publish(publication, places, Workspace(folder / "workspace"))


def roll_one_back(settings: Settings, env: Mapping[str, str], to: int) -> None:
    """Roll back to a version."""
    os.environ.update(env)
    with LivePlaces(settings) as places:
        roll_back(settings, open_store(places, STORE), NAME, to, "the campaign wants it")


def race(settings: Settings, env: Mapping[str, str], gate: Any, orders: Connection) -> None:
    """Upload a contender and make it champion, for every order: a folder and the champion that all of a race compared with.

    Answers each with the version that it made, or with what it was told when it lost.
    """
    os.environ.update(env)
    with LivePlaces(settings) as places:
        client = open_store(places, STORE)
        while (order := orders.recv()) is not None:
            folder, name, previous = order
            make_folder(folder, name)
            gate.wait(WAIT_S)
            try:
                orders.send(make_champion(settings, client, folder, previous).version)
            except LostRace as error:
                orders.send(str(error))


def started(settings: Settings, env: Mapping[str, str], racers: int) -> list[tuple[BaseProcess, Connection, Any]]:
    """Processes that race, where they take orders, and the gate, which must be kept: it is gone with its last reference here."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    gate = context.Barrier(racers)
    found = []
    for _ in range(racers):
        ours, theirs = context.Pipe()
        found.append((start(race, settings, env, gate, theirs), ours, gate))
        theirs.close()  # so that the end of a racer is heard
    return found


__all__ = ["NAME", "STORE", "ChampionVersion", "publish_one", "roll_one_back", "start", "started", "status_of"]
