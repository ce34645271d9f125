"""Schedules that overlap, that were missed, and that meet daylight saving: one run, by a stated policy."""

import asyncio
import subprocess
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from prefect.schedules import Cron
from prefect.server.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.pools import apply_pool
from deployments.register import NIGHTLY, declared_for, register
from tasks.config import BakeoffConfig

ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("Europe/Berlin", date(2027, 3, 26)),
        ("Europe/Berlin", date(2027, 10, 29)),
        ("America/New_York", date(2027, 3, 12)),
        ("America/New_York", date(2027, 11, 5)),
        ("Australia/Lord_Howe", date(2027, 10, 1)),
        ("UTC", date(2027, 3, 26)),
    ],
)
def test_every_night_has_one_run_when_the_clocks_change_too(zone: str, first: date) -> None:
    place = ZoneInfo(zone)
    start = datetime(first.year, first.month, first.day, 0, 0, tzinfo=place).astimezone(UTC)
    schedule = CronSchedule(cron=NIGHTLY, timezone=zone)
    found = asyncio.run(schedule.get_dates(n=100, start=start, end=start + timedelta(days=5)))
    nights = Counter(each.astimezone(place).date() for each in found)
    assert nights == dict.fromkeys((first + timedelta(days=day) for day in range(5)), 1)


@pytest.fixture(scope="module")
def sleepers(server: str) -> dict[str, str]:
    """A deployment with a schedule and one without, declared as ours are; their ids."""
    from prefect.client.orchestration import get_client

    from tests.deployments.sleeper import sleeper

    asleep = Cron("0 0 1 1 *", timezone="UTC", active=False, slug="nightly")
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        apply_pool(client, "cpu")
        by_hand = declared_for(sleeper, "cpu", {"seconds": 3}, [])
        scheduled = declared_for(sleeper, "cpu", {"seconds": 3}, [asleep])
        by_hand.name, scheduled.name = "by-hand", "scheduled"
        return {each.name: str(each.apply()) for each in (by_hand, scheduled)}


def due(api: httpx.Client, deployment: str, minutes_ago: int) -> str:
    """A run that was due so long ago."""
    when = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
    body = {"state": {"type": "SCHEDULED", "name": "Scheduled", "state_details": {"scheduled_time": when}}}
    return str(api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()["id"])


def ended(api: httpx.Client, runs: list[str]) -> list[dict[str, Any]]:
    for _ in range(600):
        found = [dict(api.get(f"/flow_runs/{run}").raise_for_status().json()) for run in runs]
        if all(each["state_type"] in ENDS for each in found):
            return found
        time.sleep(0.3)
    pytest.fail(f"they did not end: {[each['state'] for each in found]}")


@pytest.mark.slow
def test_of_scheduled_runs_that_were_missed_one_is_made_up_for_and_by_hand_each_waits_its_turn(
    sleepers: dict[str, str], api: httpx.Client, worker: "subprocess.Popen[bytes]"
) -> None:
    missed = [due(api, sleepers["scheduled"], minutes) for minutes in (4320, 2880, 1440)]  # three nights without a worker
    asked = [due(api, sleepers["by-hand"], 0) for _ in range(2)]
    states = sorted(each["state_type"] for each in ended(api, missed))
    assert states == ["CANCELLED", "CANCELLED", "COMPLETED"]
    first, second = sorted(ended(api, asked), key=lambda each: each["start_time"])
    assert (first["state_type"], second["state_type"]) == ("COMPLETED", "COMPLETED")
    assert second["start_time"] >= first["end_time"]


def test_what_is_declared_no_more_is_named_and_left_alone(sleepers: dict[str, str], server: str, api: httpx.Client) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        registered = register(BakeoffConfig.model_validate({"dataset": "owner/name"}), nightly=[])
    assert registered.stale == ["sleeper/by-hand", "sleeper/scheduled"]
    assert api.get(f"/deployments/{sleepers['by-hand']}").is_success
