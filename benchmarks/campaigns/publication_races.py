"""Eight processes publish at once, each its own contender, having compared with the same champion: one wins, the rest are told."""

import hashlib
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.publisher import NAME, started
from benchmarks.campaigns.registry import Registry, opened, side_by_side
from benchmarks.scratch import scratch
from tasks.registry.champion import ChampionVersion, read_champion, read_version, version_numbers

RACES = 100
RACERS = 8
LANES = 4
"""Races that are run side by side, for champions of their own."""


@dataclass
class Tally:
    """What became of the races of a lane."""

    races: int = 0
    odd: int = 0
    """Races without exactly one winner, or whose winner is not champion."""
    untold: int = 0
    """Losers whose error does not name the winner."""
    uploaded: list[Path] = field(default_factory=list)
    """The contenders that raced."""
    records: dict[int, ChampionVersion] = field(default_factory=dict)
    """As they were first seen."""
    changed: int = 0
    """Records that are not as they were, contenders whose files are not all there, byte for byte."""


def run(options: Options) -> list[Figure]:
    """The figures."""
    wanted = options.kills or RACES
    lanes = min(LANES, wanted)
    tallies = [Tally() for _ in range(lanes)]
    with scratch() as folder, opened(folder, lanes) as registries:
        side_by_side(lambda lane: races(registries[lane], wanted // lanes + (lane < wanted % lanes), tallies[lane]), lanes)
    ran, records = sum(tally.races for tally in tallies), sum(len(tally.records) for tally in tallies)
    return [
        Figure("races", ran, ">= 100", f"of {RACERS} processes, {lanes} races side by side"),
        Figure("races_with_other_than_one_winner", sum(tally.odd for tally in tallies), "== 0"),
        Figure("losers_not_told_who_won", sum(tally.untold for tally in tallies), "== 0", f"of {ran * (RACERS - 1)}"),
        Figure(
            "versions_lost_or_changed",
            sum(tally.changed for tally in tallies),
            "== 0",
            f"of {records} records, {ran * RACERS} contenders",
        ),
    ]


def races(registry: Registry, wanted: int, tally: Tally) -> None:
    """Race after race with the same processes; then the store is looked at."""
    racers = started(registry.settings, registry.env, RACERS)
    try:
        while tally.races < wanted:
            one_race(registry, [orders for _, orders, _ in racers], tally)
    finally:
        for process, orders, _ in racers:
            orders.send(None)
            process.join(60)
    found = {number: read_version(registry.client, NAME, number) for number in tally.records}
    tally.changed += sum(found[number] != record for number, record in tally.records.items())
    tally.changed += sum(not whole for whole in there(registry, tally.uploaded))


def one_race(registry: Registry, racers: list[Connection], tally: Tally) -> None:
    """All start together, and one wins."""
    tally.races += 1
    before = read_champion(registry.settings, registry.client, NAME)
    for number, orders in enumerate(racers):
        folder = registry.folder / f"race-{tally.races}-{number}"
        tally.uploaded.append(folder)
        orders.send((folder, folder.name, before))
    outcomes = [orders.recv() for orders in racers]
    now = read_champion(registry.settings, registry.client, NAME)
    tally.odd += [outcome for outcome in outcomes if isinstance(outcome, int)] != [now and now.version]
    tally.untold += sum(f"({now and now.contender}, published by" not in told for told in outcomes if isinstance(told, str))
    for number in set(version_numbers(registry.client, NAME)) - tally.records.keys():
        record = read_version(registry.client, NAME, number)
        if record:
            tally.records[number] = record


def there(registry: Registry, folders: list[Path]) -> list[bool]:
    """Of each folder, whether its files lie in the store byte for byte, by the MD5 that the store lists."""
    pages = registry.client.client.get_paginator("list_objects_v2").paginate(Bucket=registry.client.store.bucket)
    listed = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", [])}
    found = []
    for folder in folders:
        sha256 = hashlib.sha256((folder / "contender.json").read_bytes()).hexdigest()
        md5s = {path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in folder.iterdir()}
        found.append(all(listed.get(registry.client.key("contenders", sha256, name)) == md5 for name, md5 in md5s.items()))
    return found
