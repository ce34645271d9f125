"""What the server counts, in the form that Prometheus reads. Labels hold names that the server knows, never what a client sent."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tasks.records import Answer
from tasks.registry.champion import ChampionVersion

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """One server's figures; a registry of its own, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("bakeoff_requests", "Requests by route and status.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "bakeoff_request_seconds", "From the first byte to the last.", ["route"], registry=own, buckets=SECONDS
        )
        self.rows = Counter("bakeoff_rows", "Rows answered.", registry=own)
        self.failures = Counter("bakeoff_row_failures", "Rows without a usable answer.", ["failure"], registry=own)
        self.batch_rows = Histogram("bakeoff_batch_rows", "Rows predicted together.", registry=own, buckets=ROWS)
        self.batch_seconds = Histogram("bakeoff_batch_seconds", "Prediction of one batch.", registry=own, buckets=SECONDS)
        self.waiting = Gauge("bakeoff_waiting_rows", "Rows in the queues.", registry=own)
        self.spent = Counter("bakeoff_spent_usd", "Paid to endpoints for the rows answered.", registry=own)
        self.version = Gauge("bakeoff_champion_version", "The version that answers.", registry=own)
        self.pointed = Gauge("bakeoff_pointer_version", "The version that the pointer named last.", registry=own)
        self.champion = Gauge(
            "bakeoff_champion", "1 for the contender that answers.", ["champion", "contender", "arm"], registry=own
        )
        self.swaps = Counter("bakeoff_swaps", "Times that another champion took over.", registry=own)
        self.load_failures = Counter("bakeoff_load_failures", "Champions that could not be loaded or verified.", registry=own)
        self.pointer_failures = Counter("bakeoff_pointer_failures", "Times that the pointer could not be read.", registry=own)
        self.degraded = Gauge("bakeoff_degraded", "1 while the pointer, or the champion it names, cannot be had.", registry=own)

    def batch(self, rows: int, seconds: float) -> None:
        """A batch was predicted."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def answered(self, answers: Sequence[Answer]) -> None:
        """Rows were answered."""
        self.rows.inc(len(answers))
        self.spent.inc(sum(answer.cost_usd for answer in answers))
        for failure in (answer.failure for answer in answers if answer.failure):
            self.failures.labels(failure.value).inc()

    def serves(self, version: ChampionVersion) -> None:
        """This champion answers from here on."""
        self.version.set(version.version)
        self.champion.clear()
        self.champion.labels(version.name, version.contender, version.arm.value).set(1)

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self.registry)
