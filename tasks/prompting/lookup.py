"""What an endpoint says of its model, and what its tokens cost: known and shown before anything is spent."""

import asyncio
import logging
from datetime import UTC, datetime

from tasks.prompting.endpoint import look_up
from tasks.prompting.prices import price_tag
from tasks.records import AskedModel
from tasks.settings import Settings
from tasks.workspace import Building, Stage, Workspace

logger = logging.getLogger(__name__)
STAGE = Stage("model", 1, ("tasks.prompting.lookup",))


def find_model(name: str, settings: Settings, workspace: Workspace) -> AskedModel:
    """The model behind a named endpoint that is not embedded. Its endpoint is asked once a day, so that a run which finds all else
    in the workspace sends nothing.

    Raises:
        BadConfig: the endpoint has no key or price.
        EndpointError: it cannot be reached, redirects, or refuses the key.
    """
    endpoint = settings.endpoint(name)
    tag = price_tag(endpoint)
    today = datetime.now(UTC).date()
    asked = {"name": name, "base_url": endpoint.base_url, "model": endpoint.model, "day": str(today), "price": str(tag)}

    def build(building: Building) -> AskedModel:
        facts = asyncio.run(look_up(endpoint))
        return AskedModel(
            endpoint=name,
            model=endpoint.model,
            usd_per_million_input=tag.input,
            usd_per_million_cached=tag.cached,
            usd_per_million_output=tag.output,
            priced_by=tag.source,
            priced_on=tag.priced_on,
            shutdown_date=facts.shutdown_date,
        )

    model = workspace.produce(STAGE, [], asked, AskedModel, build, label=f"model {name}")
    says = "the provider says"
    if endpoint.ends_on and not model.shutdown_date:  # not kept with the product: the settings may say another day by tomorrow
        model, says = model.model_copy(update={"shutdown_date": endpoint.ends_on}), "the settings say"
    logger.info("%s: %s at %s", name, model.model, tag)
    if model.shutdown_date:
        ends = "has ended" if model.shutdown_date <= today else "ends"
        logger.warning("%s: %s that %s %s on %s: plan for another", name, says, model.model, ends, model.shutdown_date)
    return model
