"""What tokens cost: by the operator's settings, else by the kept library `genai-prices`, which brings its prices along and is never
asked to fetch newer ones. A price that neither knows is asked for, never guessed as 0.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

from tasks.errors import BadConfig
from tasks.settings import Endpoint

BATCH_SHARE = 0.5
"""What a token costs in a batch, over what it costs at once."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a reply took."""

    input_tokens: int
    """Of the prompt, cached ones among them."""
    output_tokens: int
    """Of the answer, hidden reasoning among them."""
    cached_tokens: int = 0
    """Prompt tokens read from the endpoint's cache."""
    written_tokens: int = 0
    """Prompt tokens that the endpoint wrote into its cache, which some bill dearer."""
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class PriceTag:
    """The prices of an endpoint in dollars a million tokens, and where they come from."""

    input: float
    output: float
    cached: float
    source: str
    priced_on: date | None
    """The day on which they were looked up; of the library: its newest change that is in force."""

    def __str__(self) -> str:
        day = f", {self.priced_on}" if self.priced_on else ""
        return f"${self.input:g} in, ${self.cached:g} cached, ${self.output:g} out a million tokens ({self.source}{day})"


def price(endpoint: Endpoint, usage: Usage, batch: bool = False, at: datetime | None = None) -> float:
    """Dollars for so many tokens, asked for at a time (now, by default: some prices change with the hour).

    Raises:
        BadConfig: the endpoint has no price.
    """
    share = BATCH_SHARE if batch else 1.0
    if not _is_priced(endpoint):
        return share * _library_price(endpoint, usage, at)
    assert endpoint.usd_per_million_input is not None
    assert endpoint.usd_per_million_output is not None
    cached = endpoint.usd_per_million_input if endpoint.usd_per_million_cached is None else endpoint.usd_per_million_cached
    plain = usage.input_tokens - usage.cached_tokens
    usd = (
        plain * endpoint.usd_per_million_input
        + usage.cached_tokens * cached
        + usage.output_tokens * endpoint.usd_per_million_output
    )
    return share * usd / 1e6


def worst_price(
    endpoint: Endpoint, input_tokens: int, output_tokens: int, batch: bool = False, at: datetime | None = None
) -> float:
    """The most that so many tokens can cost, however the endpoint's cache is billed. Raises as `price`."""
    ways = (
        Usage(input_tokens, output_tokens),
        Usage(input_tokens, output_tokens, cached_tokens=input_tokens),
        Usage(input_tokens, output_tokens, written_tokens=input_tokens),
    )
    return max(price(endpoint, usage, batch, at) for usage in ways)


def price_tag(endpoint: Endpoint) -> PriceTag:
    """An endpoint's prices for short prompts, and their source and day. Raises as `price`."""
    million = 10**6
    if _is_priced(endpoint):
        plain, cached = price(endpoint, Usage(million, 0)), price(endpoint, Usage(million, 0, cached_tokens=million))
        return PriceTag(plain, price(endpoint, Usage(0, million)), cached, "settings", endpoint.priced_on)
    thousand = 1000  # some prompts are dearer from a length on
    plain, output, cached = (
        thousand * _library_price(endpoint, usage)
        for usage in (Usage(thousand, 0), Usage(0, thousand), Usage(thousand, 0, cached_tokens=thousand))
    )
    version, day = _library_facts()
    return PriceTag(plain, output, cached, f"genai-prices {version}", day)


def _is_priced(endpoint: Endpoint) -> bool:
    """Raises BadConfig when the settings name one price of two."""
    given = [endpoint.usd_per_million_input is not None, endpoint.usd_per_million_output is not None]
    if any(given) != all(given) or (endpoint.usd_per_million_cached is not None and not all(given)):
        raise BadConfig(f"the endpoint of model {endpoint.model!r} has half a price: {ADVICE}")
    return all(given)


ADVICE = "set usd_per_million_input and usd_per_million_output in the settings (0 where asking is free)"


def _library_price(endpoint: Endpoint, usage: Usage, at: datetime | None = None) -> float:
    import genai_prices

    model, provider = _library_model(endpoint.base_url, endpoint.model)
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.written_tokens,
    )
    return float(model.calc_price(tokens, provider, genai_request_timestamp=at or datetime.now(UTC)).total_price)


@lru_cache(maxsize=64)
def _library_model(base_url: str, name: str) -> tuple[Any, Any]:
    """The library's model and provider, by the endpoint's address: the same model has other prices elsewhere."""
    import genai_prices

    try:
        found = genai_prices.calc_price(genai_prices.Usage(input_tokens=1000, output_tokens=1000), name, provider_api_url=base_url)
    except LookupError:
        raise BadConfig(f"the endpoint of model {name!r} has no price, so no cap can hold: {ADVICE}") from None
    model_price = found.model_price
    if model_price.input_mtok is None or model_price.output_mtok is None:
        raise BadConfig(f"the price of model {name!r} is not known by its text tokens, so no cap can hold: {ADVICE}")
    return found.model, found.provider


@lru_cache(maxsize=1)
def _library_facts() -> tuple[str, date | None]:
    """The library's version, and the newest day on which a price that it knows came into force."""
    import genai_prices
    from genai_prices.data import providers
    from genai_prices.types import StartDateConstraint

    changes = [
        change for provider in providers for model in provider.models if isinstance(model.prices, list) for change in model.prices
    ]
    days = [change.constraint.start_date for change in changes if isinstance(change.constraint, StartDateConstraint)]
    return genai_prices.__version__, max((day for day in days if day <= datetime.now(UTC).date()), default=None)
