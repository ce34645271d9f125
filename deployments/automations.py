"""What the Prefect server does by itself: runs of dead machines are started again, and people are told what they should know.

An automation is known by its name; registering again updates it, and one that somebody switched off stays off.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from tasks.config import BakeoffConfig
from tasks.errors import BadConfig

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

logger = logging.getLogger(__name__)

TAG = "bakeoff"
"""Of every run of our deployments."""
SILENCE = timedelta(seconds=90)
"""Runs tell every 30 s that they live (`tasks/settings.py`); one that says nothing for so long is dead."""
STUCK = timedelta(minutes=15)
"""A run that a worker took, and that did not begin for so long, was lost with the worker; nodes and images have come by then."""
WANTED = "bakeoff.retrain.wanted"
"""An event by which anybody who reaches the server has a bake-off run again."""
WANTED_OF_ALL = "bakeoff: an event starts a retrain"
"""What an earlier release called the one automation for that event; beside its successor it would start each retrain twice."""
LONGEST = 2_000
"""Characters of a reason that the flow takes; a longer one is cut, rather than have its run refused."""
TRIES = 3
"""So often a run is begun, the first time included."""
ONCE = timedelta(seconds=5)
"""An event that SQLite's locks have the server look at again fires once within this time; no run crashes twice as quickly."""
ENDS = frozenset(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Cancelling", "Paused", "Suspended"))
"""After these nothing more is to be heard of a run. `Crashed` is not among them: on SQLite, whoever counts an event can be in the
way of whoever acts on it, and a crash must be acted on."""
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
CONFIG = {"prefect.resource.id": "bakeoff.config.*"}
AGAIN = "AwaitingRetry"
"""The state of a run that is to be begun again, by Prefect's own name."""


def recovery() -> "list[AutomationCore]":
    """Runs whose machine died: found, and begun again on the same id, so that they go on from what they kept."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    ours = {"match_related": OURS, "for_each": {"prefect.resource.id"}}
    beat, pending, crashed = "prefect.flow-run.heartbeat", "prefect.flow-run.Pending", "prefect.flow-run.Crashed"
    silent = EventTrigger(
        match=RUN,
        after={beat},
        expect={beat, f"prefect.flow-run.{AGAIN}", *ENDS},
        posture=Posture.Proactive,
        within=SILENCE,
        **ours,
    )
    # not `Running`: on SQLite a busy moment can lose an event, and the run's later ones would wait for it; signs of life come again
    stuck = EventTrigger(
        match=RUN,
        after={pending},
        expect={beat, f"prefect.flow-run.{AGAIN}", *ENDS},
        posture=Posture.Proactive,
        within=STUCK,
        **ours,
    )
    tries = [str(number) for number in range(1, TRIES)]
    died = EventTrigger(match=RUN | {"prefect.run-count": tries}, expect={crashed}, posture=Posture.Reactive, within=ONCE, **ours)
    gone = f"nothing was heard of this run for {SILENCE.seconds} s: its machine, its worker or its process is gone"
    again = f"begun again after a crash, {TRIES} times in all; it goes on from what it kept"
    lost = f"its worker took this run and did not begin it within {STUCK.seconds // 60} minutes: given to the next one"
    return [
        _automation(
            "runs that fell silent are crashed",
            f"A run that did not tell for {SILENCE.seconds} s that it lives is marked Crashed, and its slots are freed.",
            silent,
            [ChangeFlowRunState(state=StateType.CRASHED, message=gone)],
        ),
        _automation(
            "crashed runs begin again",
            f"A run that crashed is begun again, {TRIES} times in all, on the same id.",
            died,
            [ChangeFlowRunState(state=StateType.SCHEDULED, name=AGAIN, message=again)],
        ),
        _automation(
            "runs that never began are given to another worker",
            f"A run that a worker took and did not begin within {STUCK.seconds // 60} minutes is scheduled again.",
            stuck,
            [ChangeFlowRunState(state=StateType.SCHEDULED, name=AGAIN, message=lost)],
        ),
    ]


def notifications(blocks: Sequence[UUID]) -> "list[AutomationCore]":
    """What people are told through the operator's notification blocks: a new champion, a refusal, a crash, the cap."""
    from tasks.announcing import BUDGET_REACHED, GATE_REFUSED, NEW_CHAMPION

    about = "{{ event.resource.name }}"
    reason = "{{ event.payload.reason }}"
    return [
        _notification("a new champion is told of", f"New champion of {about}", reason, blocks, _told(NEW_CHAMPION)),
        _notification("a refusal of the gate is told of", f"Nothing published for {about}", reason, blocks, _told(GATE_REFUSED)),
        _notification("a cap that was reached is told of", f"Budget reached by {about}", reason, blocks, _told(BUDGET_REACHED)),
        _notification(
            "a crash is told of",
            "Crashed: {{ flow.name }} {{ flow_run.name }}",
            "try {{ flow_run.run_count }} of " + f"{TRIES}: " + "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            blocks,
            _crash(),
        ),
    ]


def wanted(config: BakeoffConfig, deployment: UUID) -> "AutomationCore":
    """An event about a bake-off starts its retrain, with the event's reason: `because` in the payload.

    Each bake-off has one of its own. It says the config itself, since the deployment's is that of the bake-off registered last.

    Args:
        deployment: of the flow `retrain`.
    """
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import EventTrigger, Posture

    because = "{{ (event.payload.because or 'an event asked for it')|string|truncate(" + f"{LONGEST}" + ", true, '…', 0) }}"
    parameters = {
        "because": {"__prefect_kind": "jinja", "template": because},
        "config": {"__prefect_kind": "json", "value": config.model_dump_json()},  # as text: a prompt's braces are no template
    }
    return _automation(
        f"an event starts a retrain of {config.name}",
        f"The event {WANTED} about bakeoff.config.{config.name} runs the bake-off, for the reason that it gives.",
        EventTrigger(expect={WANTED}, match={"prefect.resource.id": f"bakeoff.config.{config.name}"}, posture=Posture.Reactive),
        [RunDeployment(deployment_id=deployment, parameters=parameters)],
    )


def find_block(client: "SyncPrefectClient", name: str) -> UUID:
    """The notification block that an operator named, such as `slack-webhook/ours`.

    Raises:
        BadConfig: it is not named so, or there is none, or it cannot notify.
    """
    from prefect.exceptions import ObjectNotFound

    kind, slash, own = name.partition("/")
    if not slash or not kind or not own:
        raise BadConfig(
            f"--notify names {name!r}: give a block as TYPE/NAME, such as slack-webhook/ours (prefect block ls shows yours)"
        )
    try:
        block = client.read_block_document_by_name(own, kind)
    except ObjectNotFound:
        raise BadConfig(
            f"--notify names {name!r}: there is no such block; make it in the UI under Blocks, or correct the name"
        ) from None
    schema = block.block_schema
    if schema and "notify" not in schema.capabilities:
        raise BadConfig(
            f"--notify names {name!r}, a block that cannot notify: name one of those for notifications, such as slack-webhook"
        )
    return block.id


def apply_automation(client: "SyncPrefectClient", automation: "AutomationCore", formerly: str = "") -> None:
    """Make an automation, or bring the one of its name to what is declared; doubles go.

    Args:
        formerly: what an earlier release called it.
    """
    names = (automation.name, formerly) if formerly else (automation.name,)
    found = sorted((each for name in names for each in client.read_automations_by_name(name)), key=lambda each: str(each.id))
    if not found:
        client.create_automation(automation)
        logger.info("automation %s: created", automation.name)
        return
    client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))
    for double in found[1:]:
        client.delete_automation(double.id)
    logger.info("automation %s: updated", automation.name)


def _told(event: str) -> "EventTrigger":
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(expect={event}, match=CONFIG, posture=Posture.Reactive)


def _crash() -> "EventTrigger":
    from prefect.events.schemas.automations import EventTrigger, Posture

    each = {"match": RUN, "match_related": OURS, "for_each": {"prefect.resource.id"}}
    return EventTrigger(expect={"prefect.flow-run.Crashed"}, posture=Posture.Reactive, within=ONCE, **each)


def _notification(name: str, subject: str, body: str, blocks: Sequence[UUID], trigger: "EventTrigger") -> "AutomationCore":
    from prefect.events.actions import SendNotification

    sends = [SendNotification(block_document_id=block, subject=f"Bakeoff: {subject}", body=body) for block in blocks]
    return _automation(name, f"Sends: {subject}", trigger, list(sends))


def _automation(name: str, description: str, trigger: "EventTrigger", actions: "list[ActionTypes]") -> "AutomationCore":
    from prefect.events.schemas.automations import AutomationCore

    return AutomationCore(name=f"bakeoff: {name}", description=description, trigger=trigger, actions=actions)
