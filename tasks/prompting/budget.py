"""What asking costs: an estimate before, a hard cap that is never passed.

Before a request is sent its worst case is reserved: no tokenizer makes more tokens than a text has bytes, and no answer is longer
than was asked for. When it returns, the reservation is replaced by what it did cost. So what is spent and what is under way
together stay under the cap, however many requests run at once.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.prompting.prices import Usage, price
from tasks.settings import Endpoint

logger = logging.getLogger(__name__)
PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")
TEMPLATE_TOKENS = 8
"""What a chat template adds to a message, at most: role, separators, line ends."""
BASE_TOKENS = 64
"""What a chat template adds to a conversation, at most: a default system text, the answer's opening."""


def count_tokens(text: str) -> int:
    """About how many tokens a text has, without a tokenizer: words by their bytes, each digit and mark one."""
    return sum(max(1, math.ceil(len(piece.encode()) / 7)) for piece in PIECE.findall(text))


def count_prompt_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """About how many tokens a conversation has, its template included."""
    return 3 + sum(4 + count_tokens(message["content"]) for message in messages)


def most_tokens(request: Mapping[str, Any]) -> int:
    """More tokens than the prompt of this request can have: a byte is the smallest token."""
    messages = request["messages"]
    schema = len(json.dumps(request.get("response_format", "")).encode())  # some providers bill the schema
    return BASE_TOKENS + schema + sum(TEMPLATE_TOKENS + len(message["content"].encode()) for message in messages)


@dataclass(frozen=True)
class Estimate:
    """What asking would take; token counts are about 10 % off for English, and an answer is assumed to use half of its limit."""

    rows: int
    input_tokens: int
    output_tokens: int
    usd: float

    def __str__(self) -> str:
        tokens = f"about {self.input_tokens:,} prompt and {self.output_tokens:,} answer tokens"
        return f"{self.rows} rows, {tokens}, ${self.usd:.4f}"


def estimate(requests: Iterable[Mapping[str, Any]], endpoint: Endpoint) -> Estimate:
    """What these requests will cost if each is answered at once, or in a batch where the endpoint is asked so."""
    rows = input_tokens = output_tokens = 0
    usd = 0.0
    for request in requests:
        usage = Usage(count_prompt_tokens(request["messages"]), math.ceil(request["max_tokens"] / 2))
        rows += 1
        input_tokens += usage.input_tokens
        output_tokens += usage.output_tokens
        usd += price(endpoint, usage, batch=endpoint.batch)  # one by one: some providers bill long prompts dearer
    return Estimate(rows, input_tokens, output_tokens, usd)


@dataclass
class Cap:
    """The hard cap in dollars that all prompted contenders of a run share. Safe between threads."""

    usd: float
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    paid_usd: float = 0.0
    """Of what is spent, what was paid by this process."""
    paid: Callable[[], None] | None = field(default=None, repr=False)
    """Called whenever something was."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def reserve(self, usd: float) -> Literal["reserved", "wait", "reached"]:
        """Set aside what a request may cost at worst. `wait`: what is under way may yet leave room; `reached`: it would not."""
        with self._lock:
            if self.spent_usd + usd > self.usd and usd > 0:
                return "reached"
            if self.spent_usd + self.reserved_usd + usd > self.usd and usd > 0:
                return "wait"
            self.reserved_usd += usd
            return "reserved"

    def count(self, usd: float) -> None:
        """Count what another process paid, such as an earlier life of this run."""
        with self._lock:
            self.spent_usd += usd

    def settle(self, reserved: float, actual: float) -> None:
        """Replace a reservation by what was paid."""
        with self._lock:
            self.reserved_usd = max(0.0, self.reserved_usd - reserved)
            self.spent_usd += actual
            self.paid_usd += actual
            if actual > reserved * (1 + 1e-9) and actual > 0:
                logger.warning("a request cost $%.6f where $%.6f was the most expected", actual, reserved)
        if actual and self.paid:
            self.paid()
