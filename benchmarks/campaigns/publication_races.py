"""Eight processes publish at once, each its own contender, having compared with the same champion: one wins, the rest are told."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.campaigns.figures import Figure, Options
from benchmarks.campaigns.publisher import NAME, started
from benchmarks.campaigns.registry import Registry, opened
from tasks.errors import IntegrityError
from tasks.registry.champion import ChampionVersion, read_champion
from tasks.registry.history import versions

RACES = 100
RACERS = 8


@dataclass
class Tally:
    """What became of all races."""

    races: int = 0
    winners: list[int] = field(default_factory=list)
    """Of each race."""
    untold: int = 0
    """Losers whose error does not name the winner."""
    lost: set[str] = field(default_factory=set)
    """Records that were changed or vanished, and contenders that are not whole."""
    records: dict[int, ChampionVersion] = field(default_factory=dict)


def run(options: Options) -> list[Figure]:
    """The figures."""
    tally, wanted = Tally(), options.kills or RACES
    with TemporaryDirectory() as name, opened(Path(name)) as registry:
        racers = started(registry.settings, registry.env, RACERS)
        try:
            while tally.races < wanted:
                one_race(registry, [orders for _, orders in racers], tally)
        finally:
            for process, orders in racers:
                orders.send(None)
                process.join(30)
    return [
        Figure("races", tally.races, ">= 100", f"of {RACERS} processes"),
        Figure("races_with_other_than_one_winner", sum(winners != 1 for winners in tally.winners), "== 0"),
        Figure("losers_not_told_who_won", tally.untold, "== 0", f"of {tally.races * (RACERS - 1)}"),
        Figure("versions_lost_or_changed", len(tally.lost), "== 0", f"of {len(tally.records)} records and their contenders"),
    ]


def one_race(registry: Registry, racers: list, tally: Tally) -> None:  # type: ignore[type-arg]
    """All start together; then the store is looked at."""
    tally.races += 1
    before = read_champion(registry.settings, registry.client, NAME)
    for number, orders in enumerate(racers):
        name = f"race-{tally.races}-{number}"
        orders.send((registry.folder / name, name, before))
    outcomes = [orders.recv() for orders in racers]
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    now = read_champion(registry.settings, registry.client, NAME)
    tally.winners.append(len(won) if now and won == [now.version] else len(won) + 100)
    tally.untold += sum(f"({now.contender}, published by" not in told for told in outcomes if isinstance(told, str) and now)
    found = versions(registry.client, NAME)
    tally.lost |= {f"version {number}" for number, record in tally.records.items() if found.get(number) != record}
    for number in found.keys() - tally.records.keys():
        try:
            registry.fetch(found[number].sha256)
        except IntegrityError as error:
            tally.lost.add(str(error))
    tally.records = found
