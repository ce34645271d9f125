"""A flow that a worker runs in tests of schedules: it sleeps."""

import time

from prefect import flow


@flow(persist_result=False)
def sleeper(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)
