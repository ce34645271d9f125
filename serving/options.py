"""How the server behaves; what `bakeoff serve` has options for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Limits and waits. A row is one text, or one set of input columns."""

    host: str = "127.0.0.1"
    port: int = 8000
    poll_s: float = 5.0
    """The pointer is read again after so long."""
    retry_s: float = 60.0
    """A champion that could not be loaded is tried again after so long."""
    wait_ms: float = 3.0
    """Rows that come within so long of each other are predicted together."""
    batch_rows: int = 64
    """Rows predicted together, at most."""
    queue_rows: int = 2_048
    """Rows that wait, at most; beyond them requests are turned away with 503."""
    request_rows: int = 1_000
    """Rows in one request, at most."""
    request_bytes: int = 8 << 20
    """Size of a request's body, at most."""
    deadline_s: float = 30.0
    """A request that has no answer after so long is given up with 504."""
    drain_s: float = 30.0
    """After SIGTERM, requests under way have so long to end."""
    key_env: str = ""
    """The environment variable that holds the key which clients must send; empty asks for none."""
